"""The second decoder: ffmpeg as a program of its own, for hostile files and for codecs that PyAV lacks.

Three calls a clip. The first copies packets without decoding them and lists their times, which tells what tracks
there are and where the wanted picture is; the others decode that picture and the sound. These come back uncompressed
and with time stamps, and go the same way from there as PyAV's (`frames.squares`, `sound.place_sound`).

ffmpeg ends well on many a file that it could read in part only, and ill on some that gave all that was wanted: its
exit code proves nothing. What counts is what came out.
"""

import io
import os
import re
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame

from ..shards import SAMPLE_RATE
from .decoded import NOT_MEDIA, OPEN_OPTIONS, BadPackets, DecodeConfig, DecodedClip, check_range, no_picture
from .errors import ClipError, IngestError
from .frames import LOOK_BACK_S, squares
from .sound import PREROLL_S, TO_MONO, place_sound

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its last release is of 2019
    import ffmpeg

TIMEOUT_S = 120
"""Of one call, for a clip over which no pool watches."""
CPU_LIMIT_S = 240
"""ffmpeg ends itself then, which also bounds one whose worker was killed."""
LOG_BYTES = 1 << 16
"""Kept of the beginning and of the end of what ffmpeg says."""
LOOK_BACK_MS = 2000
"""Packets listed before the clip, for the picture that is still shown when it starts."""
LOOK_AHEAD_MS = 1000
SAME_INSTANT = Fraction(1, 1000)
INPUT = OPEN_OPTIONS | {"threads": 1}
GLOBAL = ("-hide_banner", "-nostdin", "-nostats", "-loglevel", "repeat+verbose", "-copyts", "-max_error_rate", "1",
          "-timelimit", str(CPU_LIMIT_S), "-filter_complex_threads", "1")  # fmt: skip

_STARTS = re.compile(r"^  Duration: (?:N/A|(\d+):(\d\d):(\d\d(?:\.\d+)?)), start: (-?\d+\.\d+)", re.M)
_FPS = re.compile(r"^  Stream #0:.* Video: (?!.*\(attached pic\)).*?, ([\d.]+)(k?) fps", re.M)
_ROTATION = re.compile(r"(?i)display ?matrix: rotation of (-?[\d.]+) degrees")
_DECODE_ERRORS = re.compile(r" (\d+) decode errors")
_HEADER = re.compile(r"^#(\w+) (\d): (.*)$", re.M)
_PACKET = re.compile(r"^(\d),\s*-?\w+,\s*(-?\d+),\s*\d+,\s*\d+, 0x\w+(?:, F=0x(\w+))?", re.M)
_KEY, _DISCARD = 1, 4
_NO_TIME = -1_000_000_000
_REASONS = (
    ("Cannot allocate memory", "system.oom", "decoding takes more memory than a worker may have"),
    ("no decoder found for", "media.unknown_codec", "a track is in a codec that is not known here"),
    ("Invalid data found when processing input", *NOT_MEDIA),
    ("Error opening input files: Invalid argument", *NOT_MEDIA),  # a format that is not among those allowed
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class _Probe:
    """What the first call found."""

    zero: Fraction
    """Time stamp of the file's beginning, in seconds."""
    length_ms: float | None
    pictures: dict[Fraction, bool]
    """Times of the video's packets about the clip, and whether each is a keyframe."""
    codecs: dict[str, str]
    """Kind of track to codec."""
    size: tuple[int, int]
    pixel_aspect: float
    rotation: float
    fps: float


@cache
def find_ffmpeg(program: Path | None) -> str:
    """Return the ffmpeg to use: `program` if given, else the one on the PATH, else the one of imageio-ffmpeg.

    Raises:
        IngestError: it does not run.
    """
    found = str(program) if program else shutil.which("ffmpeg")
    try:
        if found is None:
            import imageio_ffmpeg

            found = imageio_ffmpeg.get_ffmpeg_exe()
        subprocess.run([found, "-version"], capture_output=True, check=True, timeout=60, stdin=subprocess.DEVNULL)
    except (OSError, RuntimeError, subprocess.SubprocessError) as e:
        reason = getattr(e, "strerror", None) or e
        raise IngestError(f"{found or 'ffmpeg'}: does not run ({reason}); name an ffmpeg with --ffmpeg") from e
    return found


def decode_with_ffmpeg(
    path: Path, start_ms: int, end_ms: int, instant_ms: Fraction, config: DecodeConfig
) -> tuple[DecodedClip, int]:
    """Decode one clip; see `decode.decode_clip`.

    Returns:
        The clip, and how many of its samples no sound covers.

    Raises:
        ClipError: with the reason as its code.
        IngestError: there is no ffmpeg.
    """
    program = find_ffmpeg(config.ffmpeg)
    probe = _probe(program, path, start_ms, end_ms)
    check_range(path, probe.length_ms, start_ms, end_ms, config.max_pad_ms)
    bad = BadPackets(path)
    frame, time = None, Fraction(0)
    for wanted in _candidates(probe, start_ms, end_ms, instant_ms, config):
        frame, time = _decode_picture(program, path, probe, wanted, bad)
        if frame is not None and time == wanted:
            break
    if frame is None or time - probe.zero > Fraction(end_ms + config.max_pad_ms, 1000):
        raise no_picture(path, instant_ms)
    samples, missing = _decode_sound(program, path, probe, start_ms, end_ms, bad)
    clip = DecodedClip(
        audio=samples,
        frames=squares(frame, config.frame_sizes, rotation=probe.rotation, pixel_aspect=probe.pixel_aspect),
        pad_ms=round(missing * 1000 / SAMPLE_RATE),
        frame_pts_ms=round((time - probe.zero) * 1000),
        frame_is_key=probe.pictures.get(time, False),
        decode_errors=bad.count,
        video_codec=probe.codecs["video"],
        audio_codec=probe.codecs["audio"],
        width=probe.size[0],
        height=probe.size[1],
        fps=probe.fps,
    )
    return clip, missing


def _probe(program: str, path: Path, start_ms: int, end_ms: int) -> _Probe:
    """List the packets about the clip."""
    first_ms = max(0, start_ms - LOOK_BACK_MS)
    seek = {"ss": first_ms / 1000} if first_ms else {}  # to seek to zero makes some containers lose their beginning
    source = _input(path, t=(end_ms - first_ms + LOOK_AHEAD_MS) / 1000, **seek)
    graph = ffmpeg.output(source["V:0?"], source["a:0?"], "pipe:1", c="copy", f="framecrc")
    out, log = _run(program, path, graph)
    text = out.decode("ascii", "replace")
    facts = {(name, number): value for name, number, value in _HEADER.findall(text)}
    tracks = {value: number for (name, number), value in facts.items() if name == "media_type"}
    starts = _STARTS.search(log)
    if starts is None or (not tracks and "does not contain any stream" not in log):
        raise _reason(path, log)
    for kind in ("audio", "video"):
        if kind not in tracks:
            raise ClipError(f"media.no_{kind}", f"{path}: has no {kind} track")
    number = tracks["video"]
    base = Fraction(facts["tb", number])
    packets = ((int(pts) * base, int(flags or "1", 16)) for at, pts, flags in _PACKET.findall(text) if at == number)
    pictures = {time: bool(flags & _KEY) for time, flags in packets if not flags & _DISCARD and time > _NO_TIME}
    hours, minutes, seconds = (float(part or 0) for part in starts.groups()[:3])
    fps, rotation = _FPS.search(log), _ROTATION.search(log)
    width, height = map(int, facts["dimensions", number].split("x"))
    across, _, down = facts["sar", number].partition("/")
    return _Probe(
        zero=max(Fraction(0), Fraction(starts[4])),
        length_ms=None if starts[1] is None else 1000 * (3600 * hours + 60 * minutes + seconds),
        pictures=pictures,
        codecs={kind: facts.get(("codec_id", number), "") for kind, number in tracks.items()},
        size=(width, height),
        pixel_aspect=int(across) / int(down) if int(across) and int(down) else 1.0,
        rotation=float(rotation[1]) if rotation else 0.0,
        fps=float(fps[1]) * (1000 if fps[2] else 1) if fps else 0.0,
    )


def _candidates(
    probe: _Probe, start_ms: int, end_ms: int, instant_ms: Fraction, config: DecodeConfig
) -> Iterator[Fraction]:
    """Yield time stamps of pictures to try, best first: as `frames.key_frame`, then as `frames.exact_frame`."""
    start, end, instant = (probe.zero + Fraction(ms) / 1000 for ms in (start_ms, end_ms, instant_ms))
    keys = [time for time, is_key in probe.pictures.items() if is_key]
    if config.wants_keyframe:
        before = max((t for t in keys if t <= instant), default=None)
        after = min((t for t in keys if t > instant), default=None)
        inside = [t for t in (before, after) if t is not None and start <= t < end]
        yield from sorted(inside, key=lambda t: abs(t - instant))
    shown = max((t for t in probe.pictures if t <= instant), default=None)
    later = min((t for t in probe.pictures if t > instant), default=None)
    if shown is not None and later is None and shown < start - Fraction(config.max_pad_ms, 1000):
        return
    best = shown if shown is not None else later
    yield instant if best is None else best  # some packets have no time, and their pictures do


def _decode_picture(
    program: str, path: Path, probe: _Probe, wanted: Fraction, bad: BadPackets
) -> tuple[VideoFrame | None, Fraction]:
    """Return the first picture from `wanted` on that decodes, as it was stored, and its time stamp."""
    found: tuple[VideoFrame | None, Fraction] = (None, Fraction(0))
    log = ""
    for look_back in LOOK_BACK_S:  # not every container finds a picture by its time stamp
        first = wanted - look_back
        seek = {} if first <= probe.zero else {"ss": _seconds(first), "seek_timestamp": 1, "noaccurate_seek": None}
        picture = _input(path, noautorotate=None, **seek)["V:0"].filter(
            "trim", start=_seconds(wanted - SAME_INSTANT / 2)
        )
        # without loss, and in a container that knows about colour spaces, so that PyAV's scaler makes the same of it
        options = {
            "f": "matroska",
            "vcodec": "ffv1",
            "vframes": 1,
            "fps_mode": "passthrough",
            "enc_time_base": "filter",
        }
        out, log = _run(program, path, ffmpeg.output(picture, "pipe:1", **options))
        with _uncompressed(out, "matroska") as container:
            frame = next(container.decode(video=0), None) if container and container.streams.video else None
            if frame is not None and frame.pts is not None and frame.time_base is not None:
                time = frame.pts * frame.time_base
                if abs(time - wanted) < SAME_INSTANT:
                    _count_errors(log, bad)
                    return frame, wanted
                if found[0] is None or time < found[1]:
                    found = frame, time
        if not seek:
            break
    _count_errors(log, bad)
    return found


def _decode_sound(
    program: str, path: Path, probe: _Probe, start_ms: int, end_ms: int, bad: BadPackets
) -> tuple[np.ndarray, int]:
    """Return int16 (samples,) of exactly the clip's length and how many of them are padding."""
    first = probe.zero + Fraction(start_ms, 1000) - Fraction(PREROLL_S)
    last = probe.zero + Fraction(end_ms, 1000) + Fraction(PREROLL_S)
    found: tuple[np.ndarray, int] | None = None
    log = ""
    for look_back in LOOK_BACK_S:  # not every seek comes out before the sound it looks for
        # to the very beginning there is no seek: a lossy decoder's first block lies before zero
        seek = {"ss": _seconds(first - look_back), "seek_timestamp": 1} if first - look_back > probe.zero else {}
        sound = _input(path, **seek)["a:0"].filter("atrim", end=_seconds(last)).filter("aresample", **TO_MONO)
        out, log = _run(program, path, ffmpeg.output(sound, "pipe:1", f="nut", acodec="pcm_f32le"))
        samples, missing = _place(out, probe, start_ms, end_ms)
        if found is None or missing < found[1]:
            found = samples, missing
        if not missing or not seek:
            break
    assert found is not None
    _count_errors(log, bad)
    return found


def _place(content: bytes, probe: _Probe, start_ms: int, end_ms: int) -> tuple[np.ndarray, int]:
    with _uncompressed(content, "nut") as container:
        stream = container.streams.audio[0] if container and container.streams.audio else None
        return place_sound(
            container.decode(stream) if container and stream else (),
            time_base=float(stream.time_base or 1) if stream else 1.0,
            zero_s=float(probe.zero),
            start_ms=start_ms,
            end_ms=end_ms,
        )


def _input(path: Path, **options: Any) -> Any:
    return ffmpeg.input(f"file:{path}", **INPUT, **options)


def _seconds(time: Fraction) -> str:
    """Return a time as ffmpeg reads it, to its own unit, the microsecond."""
    return f"{round(time * 1_000_000) / 1_000_000:.6f}"


@contextmanager
def _uncompressed(content: bytes, kind: str) -> Iterator[Any]:
    """Open what ffmpeg gave; None if that is nothing."""
    try:
        container = av.open(io.BytesIO(content), "r", format=kind)
    except FFmpegError:
        yield None
        return
    with container:
        yield container


def _run(program: str, path: Path, graph: Any) -> tuple[bytes, str]:
    """Run ffmpeg on a graph; return what it wrote and what it said, of that the beginning and the end.

    Raises:
        ClipError: it takes too long.
    """
    command = graph.global_args(*GLOBAL).compile(cmd=program)
    with tempfile.TemporaryFile() as log:
        # a group of its own, so that whatever it may start ends with it
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, process_group=0
        )
        try:
            out, _ = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired as e:
            raise ClipError("system.timeout", f"{path}: ffmpeg did not end within {TIMEOUT_S} s") from e
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        size = log.tell()
        log.seek(0)
        said = log.read(LOG_BYTES)
        log.seek(max(len(said), size - LOG_BYTES))
        said += log.read(LOG_BYTES)
    return out, said.decode("utf-8", "replace")


def _count_errors(log: str, bad: BadPackets) -> None:
    """Count the packets that did not decode, and pass on what made ffmpeg give up."""
    for code_and_reason in _REASONS[:2]:
        if code_and_reason[0] in log:
            raise _reason(bad.path, log)
    bad.add(count=sum(map(int, _DECODE_ERRORS.findall(log))))


def _reason(path: Path, log: str) -> ClipError:
    """Return the error for what ffmpeg said before it gave up."""
    for words, code, reason in _REASONS:
        if words in log:
            return ClipError(code, f"{path}: {reason}")
    last = next((line for line in reversed(log.splitlines()) if "rror" in line), "ffmpeg gave no reason")
    return ClipError("media.decode_errors", f"{path}: cannot be decoded ({last.strip()[:200]})")
