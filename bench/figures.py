"""Figures of a result by name, for tables and for the command line."""

from typing import Any


def flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested figures by their path.

    >>> flat({"audio_to_image": {"instance": {"mrr": 0.5}}, "classes": 3})
    {'audio_to_image instance mrr': 0.5, 'classes': 3}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{above} {name}".strip()
        found |= flat(value, path) if isinstance(value, dict) else {path: value}
    return found
