"""The floor of `bench speed ingest`: what a clip costs when nothing is done but what cannot be left out.

One open, the key packet before the middle, decoded and flushed, the sound decoded, resampled and encoded as FLAC, in
the least code: no check, no measure, no picture made of the frame, nothing written. It knows every shortcut that
ingestion has found and shares no code with it, so that it cannot become slow with it.

Started as `python -m unibrivl.bench.speed_floor JOB`, JOB a JSON object: `clips` (path, start in seconds), `rounds`,
`seconds`. Prints the CPU seconds of each part over all clips and rounds as JSON.
"""

import io
import json
import sys
import time
from collections import defaultdict
from contextlib import suppress

import av
import numpy as np
import soundfile
from av.audio.frame import AudioFrame
from av.filter import Graph
from av.stream import Discard

SAMPLE_RATE = 16_000
OPEN_OPTIONS = {"skip_frame": "all", "analyzeduration": "1"}
"""An MP4's header says all that is needed: nothing has to be decoded to open it."""
PARTS = ("open", "key_frame", "audio_decode", "resample", "flac")


def work(clip: tuple[str, float], seconds: float, parts: defaultdict[str, float]) -> int:
    """Do one clip, adding the CPU seconds of each part to `parts`; return the bytes of its FLAC."""
    path, start_s = clip
    mark = time.process_time()

    def lap(part: str) -> None:
        nonlocal mark
        now = time.process_time()
        parts[part] += now - mark
        mark = now

    with av.open(path, options=OPEN_OPTIONS) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        audio.discard = Discard.all
        video.codec_context.thread_count = audio.codec_context.thread_count = 1
        lap("open")
        assert video.time_base is not None and audio.time_base is not None
        container.seek(int((start_s + seconds / 2) / video.time_base), stream=video)
        packet = next(packet for packet in container.demux(video) if packet.is_keyframe)
        frames = [*video.codec_context.decode(packet), *video.codec_context.decode(None)]
        assert frames, path
        lap("key_frame")
        video.discard, audio.discard = Discard.all, Discard.default
        container.seek(int(start_s / audio.time_base), stream=audio)
        sounds = []
        for packet in container.demux(audio):
            sounds += audio.codec_context.decode(packet)
            if packet.pts is None or packet.pts * audio.time_base > start_s + seconds:
                break
        lap("audio_decode")
        samples = resample(sounds, audio.rate, audio.layout.name)[: round(seconds * SAMPLE_RATE)]
        lap("resample")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    lap("flac")
    return buffer.tell()


def resample(sounds: list[AudioFrame], rate: int, layout: str) -> np.ndarray:
    """Return int16 (samples,) at 16 kHz, mono: mixed before it is resampled, in large blocks, the cheapest order."""
    graph = Graph()
    nodes = [
        graph.add_abuffer(sample_rate=rate, format=sounds[0].format.name, layout=layout),
        graph.add("asetnsamples", "n=8192:p=0"),
        graph.add("aresample", "ochl=mono:osf=fltp"),
        graph.add("aresample", f"{SAMPLE_RATE}:osf=s16"),
        graph.add("abuffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    for sound in (*sounds, None):
        nodes[0].push(sound)
    blocks = []
    with suppress(EOFError):
        while True:
            block = nodes[-1].pull()
            assert isinstance(block, AudioFrame)
            blocks.append(block.to_ndarray()[0])
    return np.concatenate(blocks)


def main() -> None:
    """Do the job of the first argument, once unmeasured so that libraries are loaded."""
    job = json.loads(sys.argv[1])
    parts = defaultdict[str, float](float)
    work(job["clips"][0], job["seconds"], defaultdict(float))
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(job["rounds"]):
        for clip in job["clips"]:
            work(clip, job["seconds"], parts)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    answer = {"clips": job["rounds"] * len(job["clips"]), "cpu_s": cpu, "wall_s": wall, "parts": dict(parts)}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
