"""`rerank`: picture files in the order of how near they are to sounds, pictures and words.

Scores are those of `rerank.py`, which `generate` and `POST /v1/rerank` ask, too; here files become candidates.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..shards.checks import check_file, check_ranges
from .errors import QueryError
from .media import read_audible, read_picture
from .pictures import dropped_reason, told_inside
from .query import Asked, read_part
from .question import Part, Question
from .rerank import MAX_CANDIDATES, Ranked, RerankResult, rerank
from .verifier import Verifier, frame_px, open_verifier

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
"""Of the files that a folder is searched for, in capitals, too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RerankConfig:
    """What `unibrivl rerank` was asked."""

    place: Path
    """Index, or run, that scores."""
    asked: tuple[Asked, ...]
    images: tuple[Path, ...] = ()
    """Picture files, and folders of them."""
    images_from: Path | None = None
    """A file with one of them a line; relative ones are searched for beside it."""
    keep: int = 1
    """Pictures that are chosen."""
    run: Path | None = None
    """Where the run of the index lies, if it was moved."""
    image_tower: str | None = None
    """The image tower's name where its weights lie now, if they were moved."""

    def __post_init__(self) -> None:
        """Refuse what cannot be asked."""
        check_ranges(self, keep=(1, None))
        Question(parts=tuple(Part("audio", None, one.weight, one.minus) for one in self.asked))
        if not self.images and self.images_from is None:
            raise ValueError("images are none; name picture files or folders, or a list of them with --images-from")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sorted:
    """A picture in its place."""

    path: Path
    told: dict[str, Any]
    """What `generate` wrote into it; empty for any other picture."""
    ranked: Ranked | None
    """None where it was dropped."""
    kept: bool
    dropped: str
    """Why it was not scored; empty where it was."""
    is_fault: bool
    """Whether it could not be read at all."""

    def row(self) -> dict[str, Any]:
        """Return what `generate` also tells of a candidate, as plain values."""
        ranked, prompt = self.ranked, self.told.get("prompt")
        return {
            "path": str(self.path), "prompt": prompt if isinstance(prompt, str) else None,
            "seed": _seed(self.told), "score": ranked and ranked.score, "z": ranked and ranked.calibrated,
            "percentile": ranked and ranked.percentile, "kept": self.kept, "dropped_reason": self.dropped or None,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Reranked:
    """What `rerank_files` returns."""

    config: RerankConfig
    result: RerankResult
    verifier: Verifier
    placed: tuple[Sorted, ...]
    """Best first; dropped ones last, in the order in which they were named."""

    @property
    def kept(self) -> tuple[Sorted, ...]:
        """Return what was chosen, best first."""
        return tuple(one for one in self.placed if one.kept)

    @property
    def faults(self) -> tuple[Sorted, ...]:
        """Return what could not be read."""
        return tuple(one for one in self.placed if one.is_fault)

    def rows(self) -> list[dict[str, Any]]:
        """Return the ranked list as plain values; the dropped ones last."""
        return [one.row() for one in self.placed]


def rerank_files(
    config: RerankConfig, progress: Callable[[int, int, str], None] = lambda done, total, text: None
) -> Reranked:
    """Sort picture files by how near they are to a question; those that cannot be scored come last, with the reason.

    Raises:
        QueryError: a part of the question cannot be read or is silent, there is no picture, or none can be scored.
        IndexStoreError, IndexMismatchError, CheckpointError: the index, the run or an item is not in order.
    """
    paths = find_pictures(config)
    verifier = open_verifier(config.place, config.run, config.image_tower)
    parts = [_read_asked(verifier, asked) for asked in config.asked]
    candidates: list[Part] = []
    whole: list[tuple[Path, dict[str, Any]]] = []
    dropped: list[Sorted] = []
    for number, path in enumerate(paths, 1):
        told = told_inside(path)
        part = _read_candidate(verifier, path, told)
        if isinstance(part, Part):
            candidates.append(part)
            whole.append((path, told))
        else:
            dropped.append(part)
        progress(number, len(paths), path.name)
    if not candidates:
        raise QueryError(_none_left(dropped), figures={"dropped": len(dropped)})
    result = rerank(verifier, parts, candidates)
    placed = [
        Sorted(path=whole[one.candidate][0], told=whole[one.candidate][1], ranked=one, kept=one.rank <= config.keep,
               dropped="", is_fault=False)
        for one in result.ranked
    ]  # fmt: skip
    return Reranked(config=config, result=result, verifier=verifier, placed=(*placed, *dropped))


def find_pictures(config: RerankConfig) -> list[Path]:
    """Return the files that are named, folders opened, each once.

    Raises:
        QueryError: the list is not readable, a folder holds no pictures, or there are none or too many at all.
    """
    named = [*config.images, *([] if config.images_from is None else _listed(config.images_from))]
    found = list(dict.fromkeys(path for one in named for path in _opened(one)))
    if not 1 <= len(found) <= MAX_CANDIDATES:
        raise QueryError(f"{len(found):,} pictures are named, want 1 to {MAX_CANDIDATES:,}")
    return found


def _listed(path: Path) -> list[Path]:
    check_file(path, QueryError)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise QueryError(f"{path}: there is no such list of pictures") from None
    except UnicodeDecodeError:
        raise QueryError(f"{path}: not a text in UTF-8, want one picture a line") from None
    return [path.parent / line.strip() for line in lines if line.strip()]


def _opened(path: Path) -> Iterable[Path]:
    if not path.is_dir():
        return [path]
    inside = sorted(one for one in path.iterdir() if one.suffix.lower() in SUFFIXES and not one.name.startswith("."))
    if not inside:
        raise QueryError(f"{path}: holds no pictures; want files that end in {', '.join(SUFFIXES)}")
    return inside


def _read_asked(verifier: Verifier, asked: Asked) -> Part:
    if asked.kind == "audio":
        return Part("audio", read_audible(Path(asked.value)), asked.weight, asked.minus, asked.value)
    return read_part(verifier, asked)


def _read_candidate(verifier: Verifier, path: Path, told: dict[str, Any]) -> Part | Sorted:
    """Return a picture to be scored, or why it is not: unreadable, or what `generate` would drop, too."""
    try:
        picture = read_picture(path, frame_px(verifier))
    except (QueryError, OSError) as e:
        reason = e.strerror or str(e) if isinstance(e, OSError) else str(e).removeprefix(f"{path}: ")
        return Sorted(path=path, told=told, ranked=None, kept=False, dropped=reason, is_fault=True)
    reason = dropped_reason(flagged=bool(told.get("flagged")), black=bool(told) and not picture.any())
    if reason:
        return Sorted(path=path, told=told, ranked=None, kept=False, dropped=reason, is_fault=False)
    return Part("image", picture, name=str(path))


def _seed(told: dict[str, Any]) -> int | None:
    """Return the seed that no other picture of the prompt has, as `Candidate.seed`."""
    seeds = told.get("seeds")
    seed = seeds[-1] if isinstance(seeds, list) and seeds else told.get("seed")
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def _none_left(dropped: list[Sorted]) -> str:
    first = dropped[0]
    if len(dropped) == 1:
        return f"{first.path}: {first.dropped}"
    return f"none of {len(dropped):,} pictures can be scored; the first is {first.path}: {first.dropped}"
