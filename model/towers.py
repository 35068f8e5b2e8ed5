"""Towers by name."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from .errors import CheckpointError
from .library import LITE0, TimmTower
from .wav2clip import Wav2clipConfig, Wav2clipTower

IMAGE_TOWERS: dict[str, Callable[[], TimmTower]] = {LITE0: lambda: TimmTower(LITE0)}
LANGUAGE_TOWERS: dict[str, tuple[type[Wav2clipConfig], type[Wav2clipTower]]] = {
    "wav2clip": (Wav2clipConfig, Wav2clipTower)
}


def image_tower(name: str) -> TimmTower:
    """Load a frozen image tower.

    Raises:
        CheckpointError: the name is unknown or the weights are missing.
    """
    if name not in IMAGE_TOWERS:
        raise CheckpointError(f"image tower {name!r} is unknown; known: {', '.join(IMAGE_TOWERS)}")
    return IMAGE_TOWERS[name]()


def language_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Check a language tower's options and fill in its defaults.

    Raises:
        CheckpointError: the tower or an option is unknown.
    """
    if name not in LANGUAGE_TOWERS:
        raise CheckpointError(f"language tower {name!r} is unknown; known: {', '.join(LANGUAGE_TOWERS)}")
    try:
        return asdict(LANGUAGE_TOWERS[name][0](**options))
    except (TypeError, ValueError) as e:
        raise CheckpointError(f"language tower {name}: {e}") from e


def language_tower(name: str, options: dict[str, Any]) -> Wav2clipTower:
    """Build a language tower with random weights."""
    config, tower = LANGUAGE_TOWERS[name]
    return tower(config(**language_options(name, options)))
