"""Write a sample corpus: media, AudioSet's own segment list and the general list.

Two samples exist: the stamps (`stamps.py`) and the film (`film.py`). This module keeps their folder and writes their
lists; what they have in common stands in `corpora.py`.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..shards.atomic import hold_directory, remove_leftovers, write_bytes, write_json
from .corpora import Progress, SampleClip, SampleConfig
from .errors import SampleError

COLUMNS = ("id", "path", "start", "end", "labels", "caption", "split", "group", "language", "license")
MARKER = "sample.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleResult:
    """What a finished sample holds."""

    media_dir: Path
    clips_csv: Path
    general_csv: Path
    num_clips: int
    num_groups: int
    num_held_out: int
    left_out: dict[str, int]
    """Recordings that became no clip, by reason."""
    was_finished: bool
    """Whether an earlier run had written it already."""


def write_sample(config: SampleConfig, progress: Progress = lambda done, total, what: None) -> SampleResult:
    """Write the sample into `config.out`, or find it finished there.

    Raises:
        SampleError: the package cannot be had, or the folder is in use or holds something else.
    """
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        with hold_directory(config.out, wait=False) as is_ours:
            if not is_ours:
                raise SampleError(f"{config.out}: another process is writing this sample")
            return _finished(config) or _write(config, progress)
    except BrokenProcessPool as e:
        raise SampleError(f"{config.out}: a worker process died, perhaps for want of memory: run again") from e
    except OSError as e:
        raise SampleError(f"{e.filename or config.out}: {e.strerror or e}") from e


def _finished(config: SampleConfig) -> SampleResult | None:
    """Return the result of an earlier finished run, None when there is work to do."""
    marker = config.out / MARKER
    if not marker.exists():
        if any(not p.name.startswith(".") for p in config.out.iterdir()):
            raise SampleError(f"{config.out} holds other files: choose an empty or a new folder")
        return None
    try:
        held = json.loads(marker.read_bytes())
        identity, counts = held["config"], held["counts"]
    except (ValueError, KeyError, TypeError) as e:
        raise SampleError(f"{marker} cannot be read: choose another folder, or delete this one") from e
    if identity != config.identity():
        raise SampleError(
            f"{config.out} holds another sample ({_differences(identity, config)}): choose another folder"
        )
    if counts is None or not _is_whole(config.out, held["num_files"]):
        return None
    return _result(config.out, counts, was_finished=True)


def _differences(identity: Mapping[str, Any], config: SampleConfig) -> str:
    wanted = config.identity()
    differing = [k for k in sorted({*identity, *wanted}) if identity.get(k) != wanted.get(k)]
    return ", ".join(f"{k} {identity.get(k)!r}, not {wanted.get(k)!r}" for k in differing)


def _is_whole(out: Path, num_files: int) -> bool:
    lists = ("clips.csv", "list.csv", "ATTRIBUTION.txt")
    media = [p for p in (out / "media").glob("*.mp4") if not p.name.startswith(".")]
    return all((out / name).is_file() for name in lists) and len(media) == num_files


def _write(config: SampleConfig, progress: Progress) -> SampleResult:
    # These load the picture and video libraries, which a look at a finished folder does without.
    from . import film, stamps

    media = config.out / "media"
    media.mkdir(exist_ok=True)
    for folder in (config.out, media):
        remove_leftovers(folder)
    marker: dict[str, Any] = {"config": config.identity(), "code_version": __version__, "counts": None}
    # Without counts it says that the folder is begun: another sample must not be mixed into it.
    write_json(config.out / MARKER, marker)
    sample = stamps if config.name == "stamps" else film
    clips, left_out = sample.write_media(config, media, progress)
    if not clips:
        raise SampleError(f"{config.out}: no clip came of it; left out: {_reasons(left_out)}")
    clips.sort(key=lambda c: (c.id, c.start_s))
    write_bytes(config.out / "clips.csv", audioset_list(clips, f"unibrivl sample {config.name}"))
    write_bytes(config.out / "list.csv", general_list(clips))
    write_bytes(config.out / "ATTRIBUTION.txt", sample.ATTRIBUTION.encode())
    counts = {
        "num_clips": len(clips),
        "num_groups": len({c.group for c in clips}),
        "num_held_out": sum(c.is_held_out for c in clips),
        "left_out": dict(sorted(left_out.items())),
    }
    marker |= {"counts": counts, "num_files": len({c.id for c in clips})}
    write_json(config.out / MARKER, marker)
    return _result(config.out, counts, was_finished=False)


def _result(out: Path, counts: Mapping[str, Any], *, was_finished: bool) -> SampleResult:
    return SampleResult(
        media_dir=out / "media",
        clips_csv=out / "clips.csv",
        general_csv=out / "list.csv",
        was_finished=was_finished,
        **counts,
    )


def _reasons(left_out: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in left_out.most_common()) or "nothing"


def audioset_list(clips: Sequence[SampleClip], creator: str) -> bytes:
    """Return the clips in the dialect of AudioSet's segment lists, which is not quite CSV."""
    labels = [label for c in clips for label in c.labels]
    num_ids, num_labels = len({c.id for c in clips}), len(set(labels))
    lines = [
        f"# Segments csv created by {creator}",
        f"# num_ytids={num_ids}, num_segs={len(clips)}, num_unique_labels={num_labels}, "
        f"num_positive_labels={len(labels)}",
        "# YTID, start_seconds, end_seconds, positive_labels",
        *(f'{c.id}, {c.start_s:.3f}, {c.end_s:.3f}, "{",".join(c.labels)}"' for c in clips),
    ]
    return ("\n".join(lines) + "\n").encode()


def general_list(clips: Sequence[SampleClip]) -> bytes:
    """Return the clips as a CSV file with a header; labels are joined by semicolons."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for c in clips:
        times = (f"{c.start_s:.3f}", f"{c.end_s:.3f}")
        split = "test" if c.is_held_out else "train"
        labels = ";".join(c.labels)
        writer.writerow((c.id, c.path, *times, labels, c.caption, split, c.group, c.language, c.license))
    return text.getvalue().encode()
