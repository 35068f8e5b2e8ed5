"""The trials of a human test: read from a list or from folders of `unibrivl generate`, chosen, balanced, with foils.

A folder is laid out SYSTEM/CLASS/NAME/generation.json, as `unibrivl generate --out SYSTEM/CLASS/NAME` leaves it; the
picture is the best one that was kept. A list is CSV with the columns of `COLUMNS`, paths relative to it; `foil` and
`foil_class` may be empty in all rows, and are then drawn.
"""

import hashlib
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from .csv_rows import csv_rows
from .errors import BenchError
from .human import Source, StudyConfig

COLUMNS = ("trial_id", "class", "audio", "picture", "foil", "foil_class", "system", "catch")
RECORD, KEPT = "generation.json", "kept"
PHOTO_TYPES = (".jpg", ".jpeg", ".png", ".webp")
YES, NO = ("1", "true", "yes"), ("", "0", "false", "no")
CATCH_SYSTEM = "photo"

Groups = dict[str, dict[str, list[Source]]]
"""By system and class."""


def make_trials(source: Path, photos: Path | None, config: StudyConfig) -> tuple[StudyConfig, list[Source]]:
    """Return the trials of a study, catch trials last, and the configuration with what was left open filled in.

    Raises:
        BenchError: the source cannot be read, is unbalanced, or makes no study.
    """
    found = _from_folder(source) if source.is_dir() else _from_list(source)
    catches = [one for one in found if one.is_catch]
    groups = _grouped([one for one in found if not one.is_catch], source)
    config = replace(config, primary=_primary(groups, config), per_class=_per_class(groups, config))
    chosen = {system: _chosen(by_class, config) for system, by_class in groups.items()}
    rated = [one for by_class in chosen.values() for one in _with_foils(by_class, config)]
    catches += _photo_catches(rated, photos, config) if photos else []
    if not catches:
        raise BenchError(f"{source}: no catch trials; give photos of the classes with --photos, or rows with catch 1")
    _check_foils([*rated, *catches])
    return config, [*rated, *catches]


def _from_list(path: Path) -> list[Source]:
    return [_from_row(path, number, row) for number, row in csv_rows(path, COLUMNS)]


def _from_row(path: Path, number: int, row: dict[str, str]) -> Source:
    told = {name: row[name].strip() for name in COLUMNS}
    needed = [name for name in COLUMNS if name not in ("foil", "foil_class", "catch")]
    if missing := [name for name in needed if not told[name]]:
        raise BenchError(f"{path}:{number}: {missing[0]} is empty")
    if told["catch"].lower() not in (*YES, *NO):
        raise BenchError(f"{path}:{number}: catch is {told['catch']!r}, want 1 or 0")
    if bool(told["foil"]) != bool(told["foil_class"]):
        raise BenchError(f"{path}:{number}: foil and foil_class belong together; fill both, or leave both empty")
    is_catch = told["catch"].lower() in YES
    if is_catch and not told["foil"]:
        raise BenchError(f"{path}:{number}: a catch trial needs its foil, the photo of another class")
    return Source(
        trial_id=told["trial_id"], category=told["class"], audio=path.parent / told["audio"],
        picture=path.parent / told["picture"], foil=path.parent / told["foil"] if told["foil"] else None,
        foil_category=told["foil_class"], system=told["system"], is_catch=is_catch,
    )  # fmt: skip


def _from_folder(root: Path) -> list[Source]:
    records = sorted(root.glob(f"*/*/*/{RECORD}"))
    if not records:
        raise BenchError(f"{root}: has no SYSTEM/CLASS/NAME/{RECORD}; want folders of unibrivl generate, or a CSV list")
    return [_from_record(root, path) for path in records]


def _from_record(root: Path, path: Path) -> Source:
    try:
        told = Path(json.loads(path.read_text(encoding="utf-8"))["sound"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise BenchError(f"{path}: not readable as a record of unibrivl generate") from e
    audio = next((one for one in (told, path.parent / told, path.parent / told.name) if one.is_file()), None)
    if audio is None:
        raise BenchError(f"{path}: its sound {told} is not there; start where it was made, or put it beside the record")
    kept = sorted((path.parent / KEPT).glob("*.png"))
    if not kept:
        raise BenchError(f"{path.parent / KEPT}: holds no picture")
    system, category, name = path.parent.relative_to(root).parts
    return Source(
        trial_id=f"{system}/{category}/{name}", category=category, audio=audio, picture=kept[0], foil=None,
        foil_category="", system=system,
    )  # fmt: skip


def _grouped(rated: list[Source], source: Path) -> Groups:
    if len({one.foil is None for one in rated}) != 1:
        raise BenchError(f"{source}: want trials, and foils in all of them or in none")
    groups: Groups = defaultdict(lambda: defaultdict(list))
    for one in rated:
        groups[one.system][one.category].append(one)
    classes = set.union(*(set(by_class) for by_class in groups.values()))
    for system, by_class in groups.items():
        if missing := sorted(classes - set(by_class)):
            raise BenchError(f"{source}: {system} has no trial of class {missing[0]}, which others have; add or remove")
    if len(classes) < 2:
        raise BenchError(f"{source}: all trials are of class {next(iter(classes))}; a foil needs another class")
    return {system: {name: by_class[name] for name in sorted(classes)} for system, by_class in sorted(groups.items())}


def _primary(groups: Groups, config: StudyConfig) -> str:
    name = config.primary or (next(iter(groups)) if len(groups) == 1 else None)
    if name not in groups:
        raise BenchError(f"primary is {name}, want one of {', '.join(groups)}: the system that the result is about")
    return name


def _per_class(groups: Groups, config: StudyConfig) -> int:
    counts = {(s, c): len(found) for s, by_class in groups.items() for c, found in by_class.items()}
    (system, category), least = min(counts.items(), key=lambda pair: pair[1])
    if config.per_class is not None and config.per_class > least:
        raise BenchError(
            f"{system} has {least} trials of class {category}, want {config.per_class}: classes count the same"
        )
    return config.per_class or least


def _chosen(by_class: dict[str, list[Source]], config: StudyConfig) -> dict[str, list[Source]]:
    """Return as many trials of each class, by a seeded hash of the sound: the same sounds for every system."""

    def place(one: Source) -> tuple[str, str]:
        return hashlib.sha256(str(config.seed).encode() + _content(one.audio)).hexdigest(), one.trial_id

    return {name: sorted(found, key=place)[: config.per_class] for name, found in by_class.items()}


def _with_foils(by_class: dict[str, list[Source]], config: StudyConfig) -> list[Source]:
    """Return the trials of one system; a picture is the foil once, where foils are drawn."""
    rng = np.random.Generator(np.random.Philox(key=config.seed))
    names = list(by_class)
    trials = []
    assert config.per_class is not None
    for number in range(config.per_class):
        shift = int(rng.integers(1, len(names)))
        for place, name in enumerate(names):
            one, other = by_class[name][number], names[(place + shift) % len(names)]
            drawn = replace(one, foil=by_class[other][number].picture, foil_category=other)
            trials.append(drawn if one.foil is None else one)
    return trials


def _photo_catches(rated: list[Source], folder: Path, config: StudyConfig) -> list[Source]:
    photos = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in PHOTO_TYPES}
    sounds = {one.category: one for one in rated}
    names = sorted(photos.keys() & sounds.keys())
    if len(names) < 2:
        raise BenchError(f"{folder}: has photos of {len(names)} of the classes, want 2 or more, each CLASS.jpg or .png")
    rng = np.random.Generator(np.random.Philox(key=config.seed + 1))
    order = [names[i] for _ in range(-(-config.catches // len(names))) for i in rng.permutation(len(names))]
    others = [[other for other in names if other != name] for name in order]
    drawn = [(name, wrong[int(rng.integers(len(wrong)))]) for name, wrong in zip(order, others, strict=True)]
    return [
        Source(
            trial_id=f"catch-{number}", category=name, audio=sounds[name].audio, picture=photos[name],
            foil=photos[wrong], foil_category=wrong, system=CATCH_SYSTEM, is_catch=True,
        )
        for number, (name, wrong) in enumerate(drawn[: config.catches])
    ]  # fmt: skip


def _check_foils(trials: list[Source]) -> None:
    """Refuse trials of one id, foils of the same class, and foils that another system made."""
    makers: dict[bytes, set[str]] = defaultdict(set)
    for one in trials:
        if not one.is_catch:
            makers[_content(one.picture)].add(one.system)
    seen: set[str] = set()
    for one in trials:
        if one.trial_id in seen:
            raise BenchError(f"trial {one.trial_id} is there twice; give each a trial_id of its own")
        seen.add(one.trial_id)
        if one.foil_category == one.category:
            raise BenchError(f"trial {one.trial_id}: its foil is of class {one.category} too; want another class")
        assert one.foil is not None
        known = makers.get(_content(one.foil), {one.system})
        if one.system not in known and not one.is_catch:
            raise BenchError(f"trial {one.trial_id}: its foil was made by {min(known)}, want one by {one.system}")


def _content(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as e:
        raise BenchError(f"{path}: {e.strerror or e}") from e
