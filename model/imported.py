"""The folder that an import leaves: `config.json` and `weights.safetensors`, in the network's own names.

`config.json` holds {"format": 1, "kind": "speechlm" | "brivl" | "wav2clip", "config": ..., "fingerprint": ...,
"source": {"file", "sha256", "layout", "keys_ignored"}, "fresh": [...]}, the last being the tensors that the release did
not hold.
"""

import glob
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..shards.atomic import (
    TEMPORARY_MARK,
    canonical_json,
    hold_directory,
    naming,
    sync_directory,
    temporary_path,
)
from ..shards.checks import parse_json
from .brivl import BrivlConfig, BrivlImageEncoder
from .brivl_tower import build_brivl
from .errors import CheckpointError
from .images import fingerprint
from .speechlm import SpeechLM, SpeechLMConfig
from .wav2clip import Wav2clipConfig, Wav2clipTower
from .weights import check_shapes, fit_weights, read_weights

FOLDER_FORMAT = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"
NETWORKS: dict[str, tuple[type, type[nn.Module]]] = {
    "brivl": (BrivlConfig, BrivlImageEncoder),
    "speechlm": (SpeechLMConfig, SpeechLM),
    "wav2clip": (Wav2clipConfig, Wav2clipTower),
}
"""Configuration and network of each kind of folder."""
Config = BrivlConfig | SpeechLMConfig | Wav2clipConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What `config.json` says."""

    kind: str
    config: dict[str, Any]
    fingerprint: str
    source: dict[str, Any]
    fresh: tuple[str, ...] = ()
    """Tensors that the release did not hold, at a neutral start."""


def config_as_dict(config: Config) -> dict[str, Any]:
    """Return a configuration as JSON keeps it."""
    return config.as_dict() if isinstance(config, SpeechLMConfig) else asdict(config)


def fingerprint_of(kind: str, config: Config, weights: dict[str, Tensor], path: Path) -> str:
    """Return the fingerprint that a network's own loader will compare, or that tells two imports apart."""
    if isinstance(config, BrivlConfig):
        return build_brivl(config, weights, path).fingerprint
    return fingerprint({"network": kind, "config": config_as_dict(config)}, weights)


def write_imported(folder: Path, imported: Imported, weights: dict[str, Tensor]) -> None:
    """Write an imported network, whole or not at all, in the place of an earlier import.

    Raises:
        CheckpointError: the folder holds something else.
    """
    refuse_foreign(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = temporary_path(folder)
    with naming(folder, made):
        made.mkdir()
    try:
        with hold_directory(made, wait=True):
            _write_files(made, imported, weights, folder)
            _put_in_place(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    _clear_leftovers(folder)


def _write_files(made: Path, imported: Imported, weights: dict[str, Tensor], folder: Path) -> None:
    try:
        save_file(weights, made / WEIGHTS_FILE, metadata={"format": "pt"})
    except SafetensorError as e:  # what it says of a full disk
        raise CheckpointError(f"{folder}: cannot be written ({e}); make room there and import again") from e
    stored = {"format": FOLDER_FORMAT} | asdict(imported) | {"fresh": list(imported.fresh)}
    with naming(folder):
        (made / CONFIG_FILE).write_bytes(canonical_json(stored))
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        with (made / name).open("rb") as file:
            os.fsync(file.fileno())
    sync_directory(made)


def _clear_leftovers(folder: Path) -> None:
    """Delete what killed imports to the same place left; one that is at work holds its own."""
    for path in folder.parent.glob(f".{glob.escape(folder.name)}{TEMPORARY_MARK}*"):
        with hold_directory(path, wait=False) as is_nobodys:
            if is_nobodys:
                shutil.rmtree(path, ignore_errors=True)


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder that an import must not replace.

    Raises:
        CheckpointError: there is a file, or a folder with something other than an import in it.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: is a file; name a new folder with --out")
    names = {path.name for path in folder.iterdir()}
    if names <= {CONFIG_FILE, WEIGHTS_FILE} and (not names or _is_ours(folder)):
        return
    raise CheckpointError(f"{folder}: holds other files than an import; name a new or empty folder with --out")


def read_imported(folder: Path, kind: str | None = None) -> Imported:
    """Return what an imported network is.

    Args:
        folder: made by an import.
        kind: the one that is wanted; None: any.

    Raises:
        CheckpointError: the folder holds none, or of another kind, or weights of other sizes than it says.
    """
    found = _read_config(folder)
    if kind not in (None, found.kind):
        raise CheckpointError(f"{folder}: holds weights of {found.kind}, want those of {kind}")
    config_type, network = NETWORKS[found.kind]
    config = config_type(**found.config)
    check_shapes(lambda: network(config), tensor_sizes(folder / WEIGHTS_FILE), folder)
    return found


def _read_config(folder: Path) -> Imported:
    path = folder / CONFIG_FILE
    try:
        stored = parse_json(path.read_text(encoding="utf-8"))
        if stored["format"] != FOLDER_FORMAT or stored["kind"] not in NETWORKS:
            raise CheckpointError(
                f"{path}: kind {stored['kind']!r} of format {stored['format']!r}, this program reads "
                f"{', '.join(NETWORKS)} of format {FOLDER_FORMAT}; import the checkpoint again"
            )
        found = Imported(
            kind=stored["kind"], config=dict(stored["config"]), fingerprint=str(stored["fingerprint"]),
            source=dict(stored["source"]), fresh=tuple(stored.get("fresh", ())),
        )  # fmt: skip
        NETWORKS[found.kind][0](**found.config)
    except OSError as e:
        raise CheckpointError(f"{folder}: no imported network ({e.strerror}: {CONFIG_FILE})") from e
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(f"{path}: describes no imported network ({e}); import the checkpoint again") from e
    return found


def load_imported(network: nn.Module, kind: str, folder: Path) -> Imported:
    """Fill a network with imported weights.

    Raises:
        CheckpointError: the folder holds none, others, or not what was imported.
    """
    found = read_imported(folder, kind)
    weights = read_weights(folder / WEIGHTS_FILE)
    if fingerprint_of(kind, NETWORKS[kind][0](**found.config), weights, folder) != found.fingerprint:
        raise CheckpointError(f"{folder}: not the weights that {CONFIG_FILE} was written for; import them again")
    fit_weights(network, weights, folder)
    return found


def tensor_sizes(path: Path, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Return the shapes of a safetensors file's tensors whose names begin so, without reading them.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118  (no mapping)
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError, RuntimeError) as e:
        raise CheckpointError(f"{path}: missing or damaged ({e}); import or train again") from e


def _is_ours(folder: Path) -> bool:
    try:
        stored = parse_json((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(stored, dict) and stored.get("kind") in NETWORKS and "fingerprint" in stored


def _put_in_place(made: Path, folder: Path) -> None:
    """Rename a finished folder to its place; what stood there goes first."""
    old = temporary_path(folder)
    if folder.exists():
        folder.rename(old)
    try:
        made.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
    sync_directory(folder.parent)
