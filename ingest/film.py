"""The film sample: the whole of Big Buck Bunny as one file with many windows.

The film is in the documentation of moviepy's source package. Its windows of 10 s are the collection (`train`);
the same windows moved by a quarter of their length are queries (`test`), whose right answers overlap them.
"""

import hashlib
import io
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import av

from ..shards.atomic import write_bytes
from .corpora import Progress, SampleClip, SampleConfig, clip_id
from .errors import SampleError
from .packages import PackageFile, fetch_source

PACKAGE = PackageFile(
    name="moviepy",
    version="2.2.1",
    file="moviepy-2.2.1.tar.gz",
    sha256="c80cb56815ece94e5e3e2d361aa40070eeb30a09d23a24c4e684d03e16deacb1",
    other_sample="stamps",
)
ARCHIVE = "moviepy-2.2.1/docs/_static/medias/getting_started/moviepy_10_minutes/moviepy_10_minutes.zip"
MEMBER = "moviepy_10_minutes/resources/bbb.mp4"
FILM_SHA256 = "475fbbf34c4c367998f80c29ea03b15a743941179b12da3373fc6706e68621d0"
TITLE = "Big Buck Bunny"
LICENSE = "CC-BY-3.0"
ATTRIBUTION = f"""The media file in this folder is the film {TITLE}.

Copyright 2008 Blender Foundation, www.bigbuckbunny.org.
License: Creative Commons Attribution 3.0 ({LICENSE}), https://creativecommons.org/licenses/by/3.0/.
Source: the source package of {PACKAGE.name}, version {PACKAGE.version}; the file is unchanged.
"""
WINDOW_S, STEP_S, QUERY_SHIFT_S = 10.0, 5.0, 2.5


def write_media(config: SampleConfig, media: Path, progress: Progress) -> tuple[list[SampleClip], Counter[str]]:
    """Write the film's file; return its windows, of which none is left out."""
    progress(0, 1, f"fetching {PACKAGE.name}")
    source = fetch_source(PACKAGE, config.cache)
    progress(0, 1, "writing the film")
    film = read_film(source)
    key = clip_id(hashlib.sha256(film).digest())
    write_bytes(media / f"{key}.mp4", film)
    clips = windows(key, _duration_s(film))
    progress(1, 1, "writing the film")
    return clips, Counter()


def read_film(source: Path) -> bytes:
    """Return the film out of the source package, without unpacking to disk."""
    try:
        with tarfile.open(source, "r|gz") as archive:
            member = next(m for m in archive if m.name == ARCHIVE)
            file = archive.extractfile(member)
            assert file is not None
            with zipfile.ZipFile(io.BytesIO(file.read())) as inner:
                film = inner.read(MEMBER)
    except (StopIteration, KeyError, tarfile.TarError, zipfile.BadZipFile) as e:
        raise SampleError(f"{source}: the film is not where it was expected in this package") from e
    digest = hashlib.sha256(film).hexdigest()
    if digest != FILM_SHA256:
        raise SampleError(f"{source}: the film in it has SHA-256 {digest}, expected {FILM_SHA256}")
    return film


def windows(key: str, duration_s: float) -> list[SampleClip]:
    """Return the windows that end inside the film, each followed by the query that begins in it."""
    clips = []
    start_s = 0.0
    while start_s + WINDOW_S <= duration_s:
        clips.append(_window(key, start_s, is_query=False))
        query_s = start_s + QUERY_SHIFT_S
        if query_s + WINDOW_S <= duration_s:
            clips.append(_window(key, query_s, is_query=True))
        start_s += STEP_S
    return clips


def _window(key: str, start_s: float, *, is_query: bool) -> SampleClip:
    end_s = start_s + WINDOW_S
    return SampleClip(
        id=key,
        start_s=start_s,
        end_s=end_s,
        labels=("film",),
        caption=f"{TITLE} {_clock(start_s)}-{_clock(end_s)}",
        group=key,
        is_held_out=is_query,
        license=LICENSE,
    )


def _clock(time_s: float) -> str:
    minutes, seconds = divmod(time_s, 60)
    return f"{minutes:.0f}:{seconds:02.0f}" if seconds.is_integer() else f"{minutes:.0f}:{seconds:04.1f}"


def _duration_s(film: bytes) -> float:
    """Return the length that both tracks reach."""
    with av.open(io.BytesIO(film), "r") as container:
        tracks = [s for s in container.streams if s.type in ("video", "audio")]
        return min(float(s.duration * s.time_base) for s in tracks if s.duration and s.time_base)
