"""Settings by name, `lr=1e-3` or `loss.queue_size=9600`: from the command line, a grid file or a preset.

A value is JSON where it reads as JSON, and text otherwise; it must be of the kind that the option's field declares.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from ..shards.checks import parse_json

ALIKE = 0.6
"""Share of letters in common from which one name may be meant for another (difflib's own choice)."""
KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "an object",
    list: "a list",
}


def read_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Return the settings of words like `lr=1e-3`, in their order.

    Raises:
        ValueError: a word has no name or no value.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not name or not equals or not text:
            raise ValueError(f"--set {pair}: want NAME=VALUE, as in --set num_mels=64")
        try:
            settings[name] = parse_json(text)
        except ValueError:
            settings[name] = text
    return settings


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings, as TOML makes of `loss.queue_size`, by dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def option_kinds(config: Any) -> dict[str, tuple[type, ...]]:
    """Return the kinds of value that each field of a dataclass takes; none for what is no dataclass."""
    if not is_dataclass(config):
        return {}
    hints = get_type_hints(config)
    return {f.name: _kinds(hints[f.name]) for f in fields(config)}


def _kinds(hint: Any) -> tuple[type, ...]:
    if get_origin(hint) in (dict, list, tuple):
        return (dict if get_origin(hint) is dict else list,)
    return tuple(kind for arg in get_args(hint) for kind in _kinds(arg)) if get_args(hint) else (hint,)


def check_kind(name: str, value: Any, kinds: tuple[type, ...]) -> Any:
    """Return the value as its field wants it: a whole number will do for a number.

    Raises:
        ValueError: it is of another kind.
    """
    for kind in kinds:
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is kind or (kind is dict and isinstance(value, Mapping)):
            return value
    want = " or ".join(KINDS.get(kind, kind.__name__) for kind in kinds)
    raise ValueError(f"{name} is {value!r}, want {want}")


def unknown_option(name: str, known: Iterable[str]) -> ValueError:
    """Return the error of a name that is no option, with those that are spelt like it."""
    known = sorted(known)
    last = name.rpartition(".")[2]
    likeness = {k: max(_alike(name, k), _alike(last, k.rpartition(".")[2])) for k in known}
    best = max(likeness.values(), default=0)
    near = [k for k in sorted(known, key=lambda k: -likeness[k]) if likeness[k] >= max(ALIKE, best - 0.1)][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return ValueError(f"there is no option {name!r}; {hint}")


def _alike(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first, second).ratio()
