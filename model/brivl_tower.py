"""BriVL as a frozen image tower, from a local folder of imported weights.

The folder holds `config.json`: {"format": 1, "kind": "brivl", "config": the fields of `BrivlConfig`, "fingerprint": the
tower's, "source": where the weights came from}, and `weights.safetensors`: the encoder's tensors by their own names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..shards.checks import parse_json
from .brivl import BrivlConfig, BrivlImageEncoder
from .errors import CheckpointError
from .images import ImageTower, Preprocessing
from .weights import check_shapes, fit_weights, read_weights, shapes_of

FOLDER_FORMAT = 1
KIND = "brivl"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"


class BrivlTower(ImageTower):
    """BriVL's image encoder: pictures to embeddings before their final normalisation."""

    def __init__(self, name: str, encoder: BrivlImageEncoder) -> None:
        """Freeze an encoder whose weights are loaded."""
        config = encoder.config
        preprocessing = Preprocessing(size_px=config.image_px, resize="bilinear", antialias=config.antialias)
        super().__init__(name, encoder, preprocessing, dim=config.dim, description=_description(config))

    def _encode(self, x_BCHW: Tensor) -> Tensor:
        return self.module(x_BCHW)


def build_brivl(config: BrivlConfig, weights: Mapping[str, Tensor], source: Path) -> BrivlTower:
    """Return the tower of some weights; an importer stores its `fingerprint`.

    Raises:
        CheckpointError: the configuration makes no encoder, or the weights do not fit it.
    """
    check_shapes(lambda: BrivlImageEncoder(config), shapes_of(weights), source)
    encoder = BrivlImageEncoder(config)
    fit_weights(encoder, weights, source)
    return BrivlTower(f"brivl-{config.form}:{source}", encoder)


def brivl_tower(form: str, place: str) -> BrivlTower:
    """Load `brivl-b5` or `brivl-b7` from a folder of imported weights.

    Raises:
        CheckpointError: the folder is missing, damaged, or holds another model.
    """
    folder = Path(place).expanduser()
    stored = _read_config(folder)
    try:
        config = BrivlConfig(**stored["config"])
    except (TypeError, ValueError) as e:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: no configuration of BriVL ({e}); import the weights again"
        ) from e
    if config.form != form:
        raise CheckpointError(
            f"{folder} holds brivl-{config.form}, not brivl-{form}; name it brivl-{config.form}:{place}"
        )
    tower = build_brivl(config, read_weights(folder / WEIGHTS_FILE), folder)
    if tower.fingerprint != stored["fingerprint"]:
        raise CheckpointError(
            f"{folder} was imported as {str(stored['fingerprint'])[:12]} and is now {tower.fingerprint[:12]}; "
            "it was changed or damaged since, import the weights again"
        )
    return tower


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        stored = parse_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        what = "has no config.json" if folder.is_dir() else "there is no such folder"
        raise CheckpointError(f"{folder}: {what}; want a folder of imported BriVL weights") from None
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{path}: not readable ({e}); import the weights again") from e
    found = (stored.get("format"), stored.get("kind")) if isinstance(stored, dict) else (None, None)
    if found != (FOLDER_FORMAT, KIND):
        raise CheckpointError(
            f"{path}: format {found[0]!r} of kind {found[1]!r}, this program reads {FOLDER_FORMAT} of {KIND!r}"
        )
    if not isinstance(stored.get("config"), dict) or not isinstance(stored.get("fingerprint"), str):
        raise CheckpointError(f"{path}: lacks config or fingerprint; import the weights again")
    return stored


def _description(config: BrivlConfig) -> dict[str, Any]:
    """Name what decides the function; sizes that the weights show are left to them."""
    return {
        "tower": f"brivl-{config.form}", "backbone": config.backbone, "grid": config.grid, "whole": config.whole,
        "roi_grid": config.roi_grid, "heads": config.heads,
    }  # fmt: skip
