"""The stamps sample: pictures of things with their sounds and their names spoken, made into clips.

The pictures and recordings are Tux Paint's stamps. A clip is one picture, looped, with one recording.
The split goes by group: pictures that share a recording, and recordings that share a picture, stay together
over all languages of the package, so that the side a group falls on does not depend on the languages chosen.
"""

import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import resvg_py
from av.error import FFmpegError
from PIL import Image

from .children import follow_parent
from .corpora import Progress, SampleClip, SampleConfig, clip_id, connected_groups, held_out_groups
from .errors import SampleError
from .mux import read_recording, write_video
from .packages import PackageFile, fetch_debian

PACKAGE = PackageFile(
    name="tuxpaint-stamps-default",
    version="2022.06.04-1",
    file="tuxpaint-stamps-default_2022.06.04-1_all.deb",
    sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    other_sample="film",
)
LICENSE = "GPL-2.0-or-later"
ATTRIBUTION = f"""The clips in this folder are made of Tux Paint's stamps.

Pictures, sounds and spoken names: Copyright 2002-2022 Bill Kendrick and the contributors to Tux Paint.
License: {LICENSE} (GNU General Public License, version 2 or any later version).
Source: the Debian package {PACKAGE.name}, version {PACKAGE.version}.
Changes: each picture was drawn on a white square and looped as video; each recording was converted to mono at
44.1 kHz, cut after 10 s and encoded as AAC. The clips are under the same license.
"""
ROOT = "usr/share/tuxpaint/stamps/"
SIZE_PX = 320
FPS = 5
SAMPLE_RATE = 44_100
MIN_S, MAX_S = 0.2, 10.0
SILENT_PEAK = 1e-4
CHUNK_PICTURES = 16
SOUND = ""
"""The language of a recording that is the thing's own sound."""

UNREADABLE, SHORT = "unreadable recording", f"recording shorter than {MIN_S} s"
SILENT, UNDRAWABLE = "digital silence", "undrawable picture"

_RECORDING = re.compile(r"(?P<base>.+?)(?P<spoken>_desc(?:_(?P<language>[A-Za-z]+))?)?\.ogg")


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture and a recording that belong together; paths are relative to the stamps' folder."""

    picture: str
    recording: str
    language: str

    @property
    def id(self) -> str:
        """Return the id of the clip made of this pair."""
        return clip_id(f"{self.picture}\0{self.recording}".encode())


@dataclass(slots=True)
class Package:
    """What of the package is needed: contents by path, and the hash of every picture and recording."""

    pictures: dict[str, bytes] = field(default_factory=dict)
    recordings: dict[str, bytes] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def pairs(self) -> list[Pair]:
        """Return every picture with each of its recordings, in the order of their paths."""
        # Where a stamp has both forms the PNG comes last and wins: every PNG can be drawn.
        pictures = {p.rpartition(".")[0]: p for p in sorted(self.pictures, reverse=True)}
        pairs = []
        for path in self.digests:
            base, language = _parse_recording(path)
            if base in pictures:
                pairs.append(Pair(pictures[base], path, language))
        return sorted(pairs, key=lambda p: (p.picture, p.recording))

    def groups(self, pairs: Sequence[Pair]) -> dict[str, str]:
        """Return the group of every picture that has a recording."""
        nodes = {p: (f"p{self.digests[p.picture]}", f"r{self.digests[p.recording]}") for p in pairs}
        group = connected_groups(nodes.values())
        return {pair.picture: group[nodes[pair][0]] for pair in pairs}

    def caption(self, pair: Pair) -> str:
        """Return the thing's name in the recording's language if the package has it, else in English."""
        lines = self.names.get(pair.picture.rpartition(".")[0], "").splitlines() or [""]
        mark = f"{pair.language}.utf8="
        name = next((line.removeprefix(mark) for line in lines[1:] if line.startswith(mark)), lines[0])
        return name.strip().rstrip(".")


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to draw, and the recordings to join it with by the id of the clip."""

    picture: str
    content: bytes
    recordings: tuple[tuple[str, bytes], ...]


Outcome = tuple[str, int | str]
"""The id of a clip with its length in samples, or with the reason why it was left out."""


def write_media(config: SampleConfig, media: Path, progress: Progress) -> tuple[list[SampleClip], Counter[str]]:
    """Write one media file per clip; return the clips and what was left out by reason."""
    wanted = {*config.languages, *([SOUND] if config.sounds else [])}
    progress(0, 1, f"fetching {PACKAGE.name}")
    deb = fetch_debian(PACKAGE, config.cache)
    progress(0, 1, f"reading {PACKAGE.file}")
    package = read_package(deb, wanted)
    pairs = package.pairs()
    _check_languages(config.languages, pairs)
    groups = package.groups(pairs)
    held_out = held_out_groups(groups.values(), config.seed, config.held_out)
    chosen = {pair.id: pair for pair in pairs if pair.language in wanted}
    clips: list[SampleClip] = []
    left_out: Counter[str] = Counter()
    progress(0, len(chosen), "writing clips")
    for done, (key, outcome) in enumerate(_run(_jobs(package, chosen), media), 1):
        if isinstance(outcome, str):
            left_out[outcome] += 1
        else:
            pair = chosen[key]
            clips.append(
                SampleClip(
                    id=key,
                    # Rounded down, so that no clip ends after its sound.
                    end_s=outcome * 1000 // SAMPLE_RATE / 1000,
                    labels=PurePosixPath(pair.picture).parent.parts,
                    caption=package.caption(pair),
                    group=groups[pair.picture],
                    is_held_out=groups[pair.picture] in held_out,
                    license=LICENSE,
                    language=pair.language,
                )
            )
        progress(done, len(chosen), "writing clips")
    return clips, left_out


def read_package(deb: Path, wanted: Collection[str]) -> Package:
    """Read the pictures, the names and the recordings of the wanted languages, without unpacking to disk."""
    dpkg_deb = shutil.which("dpkg-deb")
    if dpkg_deb is None:
        raise SampleError("dpkg-deb is missing, which reads the stamps: `unibrivl sample film` works without it")
    package = Package()
    command = [dpkg_deb, "--fsys-tarfile", str(deb)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    path = member.name.removeprefix("./")
                    file = archive.extractfile(member) if path.startswith(ROOT) else None
                    if file is not None:
                        _keep(package, path.removeprefix(ROOT), file.read(), wanted)
        except tarfile.TarError as e:
            raise SampleError(f"{deb} cannot be read as a Debian package: {e}") from e
    return package


def _keep(package: Package, path: str, content: bytes, wanted: Collection[str]) -> None:
    base, _, suffix = path.rpartition(".")
    if suffix == "txt":
        package.names[base] = content.decode(errors="replace")
    elif suffix in ("png", "svg"):
        package.pictures[path] = content
        package.digests[path] = hashlib.sha256(content).hexdigest()
    elif suffix == "ogg":
        package.digests[path] = hashlib.sha256(content).hexdigest()
        if _parse_recording(path)[1] in wanted:
            package.recordings[path] = content


def _parse_recording(path: str) -> tuple[str, str]:
    """Return a recording's stamp and language; of another file, a stamp that does not exist."""
    match = _RECORDING.fullmatch(path)
    if match is None:
        return "", SOUND
    return match["base"], (match["language"] or "en") if match["spoken"] else SOUND


def _check_languages(languages: Collection[str], pairs: Sequence[Pair]) -> None:
    counts = Counter(pair.language for pair in pairs if pair.language != SOUND)
    unknown = sorted(set(languages) - set(counts))
    if unknown:
        known = ", ".join(f"{language} {count}" for language, count in counts.most_common())
        raise SampleError(f"no recordings in {', '.join(map(repr, unknown))}; the package has: {known}")


def _jobs(package: Package, chosen: Mapping[str, Pair]) -> list[Job]:
    """Return one job per picture, so that each is drawn once."""
    recordings: dict[str, list[tuple[str, bytes]]] = {}
    for key, pair in chosen.items():
        recordings.setdefault(pair.picture, []).append((key, package.recordings[pair.recording]))
    return [Job(picture, package.pictures[picture], tuple(found)) for picture, found in recordings.items()]


def _run(jobs: Sequence[Job], media: Path) -> Iterator[Outcome]:
    """Do the jobs in processes, a chunk at a time; the outcomes come in no fixed order."""
    chunks = [jobs[i : i + CHUNK_PICTURES] for i in range(0, len(jobs), CHUNK_PICTURES)]
    if len(chunks) < 2:
        yield from (outcome for chunk in chunks for outcome in _make_chunk(chunk, media))
        return
    # Spawned, because a forked child may inherit locks held by the parent's threads.
    num_workers = min(len(os.sched_getaffinity(0)), len(chunks))
    pool = ProcessPoolExecutor(num_workers, get_context("spawn"), initializer=follow_parent)
    try:
        for future in as_completed([pool.submit(_make_chunk, chunk, media) for chunk in chunks]):
            yield from future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _make_chunk(jobs: Sequence[Job], media: Path) -> list[Outcome]:
    return [outcome for job in jobs for outcome in _make_clips(job, media)]


def _make_clips(job: Job, media: Path) -> list[Outcome]:
    try:
        picture = draw_picture(job.picture, job.content)
    except (ValueError, OSError):
        return [(key, UNDRAWABLE) for key, _ in job.recordings]
    return [(key, _make_clip(picture, content, media / f"{key}.mp4")) for key, content in job.recordings]


def _make_clip(picture: npt.NDArray[np.uint8], recording: bytes, path: Path) -> int | str:
    """Write one clip and return its length in samples, or return why it is left out."""
    try:
        audio = read_recording(recording, sample_rate=SAMPLE_RATE, max_s=MAX_S)
    except (FFmpegError, IndexError):  # no audio stream is an IndexError
        return UNREADABLE
    if len(audio) < MIN_S * SAMPLE_RATE:
        return SHORT
    if np.abs(audio).max() < SILENT_PEAK:
        return SILENT
    num_frames = -(-len(audio) * FPS // SAMPLE_RATE)
    write_video(
        path,
        frames=[picture] * num_frames,
        audio=audio,
        fps=FPS,
        sample_rate=SAMPLE_RATE,
        keyframe_every=FPS,
    )
    return len(audio)


def draw_picture(name: str, content: bytes) -> npt.NDArray[np.uint8]:
    """Draw a PNG or SVG file in the middle of a white square; return (size, size, 3)."""
    if name.endswith(".svg"):
        # Fonts differ between machines, and the clips must not: text in a drawing is left out.
        svg = content.decode(errors="replace")
        content = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE_PX, skip_system_fonts=True))
    with Image.open(io.BytesIO(content)) as image:
        scale = SIZE_PX / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        drawn = image.convert("RGBA").resize(size, Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIZE_PX, SIZE_PX), "white")
    square.alpha_composite(drawn, ((SIZE_PX - drawn.width) // 2, (SIZE_PX - drawn.height) // 2))
    return np.asarray(square.convert("RGB"))
