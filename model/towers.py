"""Towers by name."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from .errors import CheckpointError
from .library import LITE0, TimmTower
from .speechlm_tower import SpeechlmTower, SpeechlmTowerConfig
from .wav2clip import Wav2clipConfig, Wav2clipTower

IMAGE_TOWERS: dict[str, Callable[[], TimmTower]] = {LITE0: lambda: TimmTower(LITE0)}
LanguageTower = Wav2clipTower | SpeechlmTower
LANGUAGE_TOWERS: dict[str, tuple[Callable[..., Any], Callable[[Any], LanguageTower]]] = {
    "wav2clip": (Wav2clipConfig, Wav2clipTower),
    "speechlm-base": (partial(SpeechlmTowerConfig, size="base"), SpeechlmTower),
    "speechlm-large": (partial(SpeechlmTowerConfig, size="large"), SpeechlmTower),
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


def language_tower(name: str, options: dict[str, Any]) -> LanguageTower:
    """Build a language tower with random weights."""
    config, tower = LANGUAGE_TOWERS[name]
    return tower(config(**language_options(name, options)))


def load_pretrained(tower: LanguageTower) -> None:
    """Give a new tower the weights that its options name, if it takes any.

    Raises:
        CheckpointError: the weights are missing, damaged or of another network.
    """
    if isinstance(tower, SpeechlmTower):
        tower.load_pretrained()
