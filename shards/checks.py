"""Checks of what a user gives, for every part: numbers in their range, files that are files."""

from pathlib import Path

from .. import UnibrivlError


def check_ranges(config: object, **ranges: tuple[float, float | None]) -> None:
    """Refuse numbers beyond their range.

    Args:
        config: has an attribute for each range; one that is None was left open and is not checked.
        ranges: least and most that each may be, both included; None for most: there is no limit.

    Raises:
        ValueError: a number is too small or too large, or not a number (NaN).
    """
    for name, (least, most) in ranges.items():
        value = getattr(config, name)
        if value is not None and not (least <= value and (most is None or value <= most)):
            wanted = f"at least {least}" if most is None else f"{least} to {most}"
            raise ValueError(f"{name} is {value}, want {wanted}")


def check_file(path: Path, error: type[UnibrivlError]) -> None:
    """Raise `error` if something other than a file is there: a pipe may never be written to, a device never end."""
    if path.exists() and not path.is_file():
        kind = "folder" if path.is_dir() else "pipe" if path.is_fifo() else "device"
        raise error(f"{path}: a {kind}, want a file")
