"""Reads an imported SpeechLM: a folder with `config.json` and `weights.safetensors`, in the network's own names.

`config.json` holds {"format": 1, "kind": "speechlm", "config": ..., "fingerprint": ..., "source": ...}, where `config`
is `SpeechLMConfig.as_dict()`, `fingerprint` is over it and every tensor, and `source` says where the weights are from.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from .errors import CheckpointError
from .library import fingerprint
from .speechlm import SpeechLM, SpeechLMConfig

FOLDER_FORMAT = 1
KIND = "speechlm"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"


def read_speechlm_config(folder: Path) -> SpeechLMConfig:
    """Return the configuration of an imported network.

    Raises:
        CheckpointError: `folder` is no imported SpeechLM.
    """
    stored = _stored(folder)
    try:
        return SpeechLMConfig(**stored["config"])
    except (TypeError, ValueError) as e:
        raise CheckpointError(f"{folder / CONFIG_FILE}: describes no SpeechLM ({e}); import it again") from e


def _stored(folder: Path) -> dict[str, Any]:
    """Return what `config.json` holds: of this format and kind, with a configuration and a fingerprint."""
    path = folder / CONFIG_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if (stored["format"], stored["kind"]) != (FOLDER_FORMAT, KIND):
            raise CheckpointError(
                f"{path}: kind {stored['kind']!r} of format {stored['format']!r}, want {KIND!r} of {FOLDER_FORMAT}; "
                "import the checkpoint again with this program"
            )
        return {"config": stored["config"], "fingerprint": stored["fingerprint"]}
    except OSError as e:
        raise CheckpointError(f"{folder}: no imported SpeechLM ({e.strerror}: {CONFIG_FILE}); import one there") from e
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(f"{path}: describes no SpeechLM ({e}); import the checkpoint again") from e


def load_speechlm(folder: Path) -> SpeechLM:
    """Return an imported network, in eval mode.

    Raises:
        CheckpointError: a file is missing or damaged, or a tensor is missing, superfluous, of another shape, or not
            what was imported.
    """
    model = SpeechLM(read_speechlm_config(folder))
    load_speechlm_weights(model, folder)
    return model.eval()


def load_speechlm_weights(model: nn.Module, folder: Path) -> None:
    """Fill a network with an imported one's weights.

    Raises:
        CheckpointError: as `load_speechlm`.
    """
    path = folder / WEIGHTS_FILE
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as e:
        raise CheckpointError(f"{path}: missing or damaged ({e}); import the checkpoint again") from e
    wanted = model.state_dict()
    for fault, names in (("lacks", wanted.keys() - found.keys()), ("has too much:", found.keys() - wanted.keys())):
        if names:
            raise CheckpointError(f"{path}: {fault} {min(names)} (tensors so: {len(names)}); import it again")
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: {name} has the shape {tuple(found[name].shape)}, want {tuple(tensor.shape)}; import it again"
            )
        if not found[name].isfinite().all():
            raise CheckpointError(f"{path}: {name} holds values that are no numbers; the weights are damaged")
    stored = _stored(folder)
    if fingerprint({"network": KIND, "config": stored["config"]}, found) != stored["fingerprint"]:
        raise CheckpointError(
            f"{path}: not the weights that {CONFIG_FILE} was written for; import the checkpoint again"
        )
    model.load_state_dict(found)
