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
from av.error import BlockingIOError as NothingYet
from av.filter import Graph
from av.stream import Discard

SAMPLE_RATE = 16_000
OPEN_OPTIONS = {"skip_frame": "all", "analyzeduration": "1"}
"""An MP4's header says all that is needed: nothing has to be decoded to open it."""
FRAMES_AT_ONCE = 32
"""Decoded and handed on before the next: their memory is used again."""
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
        resampler, waiting = Resampler(), []
        for packet in container.demux(audio):
            waiting += audio.codec_context.decode(packet)
            is_last = packet.pts is None or packet.pts * audio.time_base > start_s + seconds
            if is_last or len(waiting) == FRAMES_AT_ONCE:
                lap("audio_decode")
                resampler.push(waiting)
                waiting.clear()
                lap("resample")
            if is_last:
                break
        samples = resampler.finish()[: round(seconds * SAMPLE_RATE)]
        lap("resample")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    lap("flac")
    return buffer.tell()


class Resampler:
    """To int16 at 16 kHz, mono: mixed before it is resampled, in large blocks, the cheapest order."""

    def __init__(self) -> None:
        """Start with nothing; the first frame tells rate and layout."""
        self.graph: Graph | None = None
        self.blocks: list[np.ndarray] = []

    def push(self, sounds: list[AudioFrame]) -> None:
        """Take frames, and what comes out by then."""
        if self.graph is None:
            self.graph = Graph()
            first = sounds[0]
            nodes = [
                self.graph.add_abuffer(sample_rate=first.rate, format=first.format.name, layout=first.layout.name),
                self.graph.add("asetnsamples", f"n={1024 * FRAMES_AT_ONCE}:p=0"),
                self.graph.add("aresample", "ochl=mono:osf=fltp"),
                self.graph.add("aresample", f"{SAMPLE_RATE}:osf=s16"),
                self.graph.add("abuffersink"),
            ]
            self.graph.link_nodes(*nodes).configure()
            self.source, self.sink = nodes[0], nodes[-1]
        for sound in sounds:
            self.source.push(sound)
        self._pull()

    def finish(self) -> np.ndarray:
        """Return int16 (samples,)."""
        self.source.push(None)
        self._pull()
        return np.concatenate(self.blocks)

    def _pull(self) -> None:
        with suppress(NothingYet, EOFError):
            while True:
                block = self.sink.pull()
                assert isinstance(block, AudioFrame)
                self.blocks.append(block.to_ndarray()[0])


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
