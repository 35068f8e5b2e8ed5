"""CLAP models of transformers, sounds and texts, from a local folder: nothing is fetched, no code of it runs.

Shapes: N sounds or texts, D dimensions.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..shards.checks import first_line
from .errors import BenchError

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
FILES = (
    "config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
    "tokenizer_config.json", "vocab.json", "merges.txt",
)  # fmt: skip


class ClapEncoder:
    """A model with `get_audio_features` and `get_text_features`."""

    def __init__(self, folder: Path) -> None:
        """Load the folder that `save_pretrained` wrote.

        Raises:
            BenchError: transformers is not installed, or the folder is damaged or of another kind.
        """
        try:
            from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel
        except ImportError as e:
            raise BenchError("clap: needs transformers; install it with: pip install 'unibrivl[clip]'") from e
        try:
            self._extractor = ClapFeatureExtractor.from_pretrained(folder, **LOCAL)
            self._tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
            loaded: Any = ClapModel.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **LOCAL
            )
            model, loading = loaded
        except Exception as e:  # transformers raises many kinds for a faulty folder
            raise BenchError(f"clap:{folder.name}: not readable by transformers ({first_line(e)})") from e
        if absent := sorted(map(str, loading["missing_keys"])):
            raise BenchError(f"clap:{folder.name}: {len(absent)} tensors are missing, such as {absent[0]}")
        self._model: Any = model.eval()
        self.name = f"clap:{folder.name}"
        self.sample_rate = int(self._extractor.sampling_rate)
        hashes = {name: _sha256(folder / name) for name in FILES if (folder / name).is_file()}
        self.fingerprint = hashlib.sha256(repr(sorted(hashes.items())).encode()).hexdigest()

    @torch.inference_mode()
    def embed_audio(self, sounds: list[np.ndarray], sample_rate: int) -> np.ndarray:
        """Return float32 (N, D); sounds longer than the model's window are cut to their middle, not at random."""
        window = int(self._extractor.nb_max_samples)
        cut = [sound[max(0, (len(sound) - window) // 2) :][:window] for sound in sounds]
        inputs = self._extractor(cut, sampling_rate=sample_rate, return_tensors="pt")
        return _features(self._model.get_audio_features(**inputs))

    @torch.inference_mode()
    def embed_text(self, texts: list[str]) -> np.ndarray:
        """Return float32 (N, D)."""
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
        return _features(self._model.get_text_features(**tokens))


def _features(output: Any) -> np.ndarray:
    """Return the features; transformers 5 wraps them."""
    tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return tensor.float().numpy()


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
