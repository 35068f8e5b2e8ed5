"""Checks of what a user gives, for every part: numbers in their range, files that are files, JSON that is JSON."""

import json
from pathlib import Path
from typing import Any

from .. import UnibrivlError


def check_ranges(config: object, **ranges: tuple[float, float | None]) -> None:
    """Refuse numbers beyond their range.

    Args:
        config: has an attribute for each range; one that is None was left open and is not checked.
        ranges: least and most that each may be, both included; None for most: there is no limit.

    Raises:
        ValueError: a number is too small or too large, or not a number (NaN, or of another kind).
    """
    check_numbers(config, **{name: range for name, range in ranges.items() if getattr(config, name) is not None})


def check_numbers(config: object, **ranges: tuple[float, float | None]) -> None:
    """Do as `check_ranges`, where nothing may be left open."""
    for name, (least, most) in ranges.items():
        _check(name, getattr(config, name), int | float, least, most, "")


def check_whole(config: object, **ranges: tuple[int, int]) -> None:
    """Refuse what is no whole number within its range, None too."""
    for name, (least, most) in ranges.items():
        _check(name, getattr(config, name), int, least, most, "a whole number from ")


def _check(name: str, value: Any, kind: Any, least: float, most: float | None, what: str) -> None:
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if not (is_number and least <= value and (most is None or value <= most)):
        wanted = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"{name} is {value if is_number else repr(value)}, want {what}{wanted}")


def parse_json(text: str | bytes) -> Any:
    """Return what JSON says.

    Raises:
        ValueError: it is no JSON, nested deeper than anything that we write, or names something twice in one object.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError as e:
        raise ValueError("nested too deeply") from e


def first_line(error: BaseException) -> str:
    """Return the first line of what an error of a library says, or its kind if it is silent: a message has one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} stands there twice")
    return found


def check_file(path: Path, error: type[UnibrivlError]) -> None:
    """Raise `error` if something other than a file is there: a pipe may never be written to, a device never end."""
    if path.exists() and not path.is_file():
        kind = "folder" if path.is_dir() else "pipe" if path.is_fifo() else "device"
        raise error(f"{path}: a {kind}, want a file")
