"""Towers by name."""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from .brivl_tower import brivl_tower
from .clip import clip_tower
from .errors import CheckpointError, TowerError
from .images import ImageTower
from .imported import load_imported, read_imported
from .library import LITE0, lite0_tower, timm_tower
from .speechlm_tower import SpeechlmTower, SpeechlmTowerConfig
from .tdnn import TdnnConfig, TdnnTower
from .wav2clip import Wav2clipConfig, Wav2clipTower

IMAGE_TOWERS: dict[str, Callable[[], ImageTower]] = {LITE0: lite0_tower}
PLACED_TOWERS: dict[str, tuple[str, Callable[[str], ImageTower]]] = {
    "brivl-b5": ("DIR", partial(brivl_tower, "b5")),
    "brivl-b7": ("DIR", partial(brivl_tower, "b7")),
    "timm": ("NAME:FILE", timm_tower),
    "clip": ("DIR", clip_tower),
}
"""Towers whose weights the user brings: what follows the kind and a colon, and what loads it."""
LanguageTower = Wav2clipTower | TdnnTower | SpeechlmTower
LANGUAGE_TOWERS: dict[str, tuple[Callable[..., Any], Callable[[Any], LanguageTower]]] = {
    "wav2clip": (Wav2clipConfig, Wav2clipTower),
    "tdnn": (TdnnConfig, TdnnTower),
    "speechlm-base": (partial(SpeechlmTowerConfig, size="base"), SpeechlmTower),
    "speechlm-large": (partial(SpeechlmTowerConfig, size="large"), SpeechlmTower),
}


def image_tower(name: str, *, device: str = "cpu", bf16: bool = False) -> ImageTower:
    """Load a frozen image tower.

    Args:
        name: of a tower whose weights are installed, or `brivl-b5:DIR`, `brivl-b7:DIR`, `timm:NAME:FILE`, `clip:DIR`.
        device: where it computes.
        bf16: whether it computes under bfloat16 autocast.

    Raises:
        CheckpointError: the name is unknown, or the weights are missing or do not fit.
    """
    check_image_tower(name)
    kind, _, place = name.partition(":")
    if name not in IMAGE_TOWERS and not place:
        raise CheckpointError(f"image tower {name!r} names no weights; want {kind}:{PLACED_TOWERS[kind][0]}")
    tower = IMAGE_TOWERS[name]() if name in IMAGE_TOWERS else PLACED_TOWERS[kind][1](place)
    return tower if device == "cpu" and not bf16 else tower.place(device, bf16=bf16)


def check_image_tower(name: str) -> None:
    """Refuse a name that no image tower has; where its weights lie is not looked at.

    Raises:
        TowerError: the name is unknown.
    """
    if name not in IMAGE_TOWERS and name.partition(":")[0] not in PLACED_TOWERS:
        known = [*IMAGE_TOWERS, *(f"{kind}:{what}" for kind, (what, _) in PLACED_TOWERS.items())]
        raise TowerError(f"image tower {name!r} is unknown; known: {', '.join(known)}")


def image_tower_kind(name: str) -> str:
    """Return a tower's name without the folder or file of its weights: two with one kind may be the same tower."""
    kind, _, place = name.partition(":")
    return f"{kind}:{place.partition(':')[0]}" if kind == "timm" else kind


def stored_image_tower(name: str) -> str:
    """Return the name to keep with a run: its folder or file absolute, so that it is found from anywhere."""
    kind = image_tower_kind(name)
    place = name.removeprefix(kind).removeprefix(":")
    return f"{kind}:{Path(place).expanduser().absolute()}" if place else name


def language_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Check a language tower's options and fill in its defaults.

    Raises:
        TowerError: the tower or an option is unknown, or a value is none.
        CheckpointError: the weights that they name are missing, damaged or of another network.
    """
    if name not in LANGUAGE_TOWERS:
        raise TowerError(f"language tower {name!r} is unknown; known: {', '.join(LANGUAGE_TOWERS)}")
    try:
        return asdict(LANGUAGE_TOWERS[name][0](**options))
    except (TypeError, ValueError) as e:
        raise TowerError(f"language tower {name}: {e}") from e


def language_tower(name: str, options: dict[str, Any]) -> LanguageTower:
    """Build a language tower with random weights."""
    config, tower = LANGUAGE_TOWERS[name]
    return tower(config(**language_options(name, options)))


def weights_fingerprint(options: dict[str, Any]) -> str:
    """Return the fingerprint of the imported weights that a language tower's options name; empty if they name none.

    Raises:
        CheckpointError: the folder is missing or damaged.
    """
    folder = options.get("weights")
    return read_imported(Path(folder)).fingerprint if folder else ""


def load_pretrained(tower: LanguageTower) -> None:
    """Give a new tower the weights that its options name, if it takes any.

    Raises:
        CheckpointError: the weights are missing, damaged or of another network.
    """
    if isinstance(tower, SpeechlmTower):
        tower.load_pretrained()
    elif isinstance(tower, Wav2clipTower) and tower.config.weights:
        found = load_imported(tower, "wav2clip", Path(tower.config.weights)).config
        for name in ("hop", "num_mels", "standardize"):
            if found[name] != getattr(tower.config, name):
                raise CheckpointError(
                    f"{tower.config.weights}: its weights want {name} {found[name]!r}, the tower has "
                    f"{getattr(tower.config, name)!r}; give it with --set {name}={json.dumps(found[name])}"
                )
