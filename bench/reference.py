"""`bench reference`: our networks and losses beside what the original code gave for the same weights and inputs.

Every `*.safetensors` of a folder is one check, its kind the beginning of its name. An error is the largest difference
of a tensor's elements, or that as a share of the original's largest element. Outputs may differ by the tolerance, 1e-5.
Deep states that no norm has passed may differ by ten times that, or by 1e-5 of their scale if that is more: an
EfficientNet run with another number of threads is 1e-3 apart in a map that reaches 797. Whole numbers and truth values
must be equal.
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import BenchError
from .reference_checks import CHECKS, INPUTS, Reference

TOLERANCE = 1e-5
"""For outputs of unit scale, both sides being float32 on a CPU, which sum in different orders."""
DEEP = r"io\.(speech_layer|text_state)\.\d+|io\.feature_map|io\.patch_features"
"""Tensors that no norm need have passed: what sums of many layers, in float32, is rounded by its scale."""
UNIT_SCALE = 8.0
"""Largest element of a tensor that counts as of unit scale: a layer norm's outputs reach some deviations."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One tensor of a file."""

    name: str
    max_abs: float
    max_rel: float
    scale: float
    """The original's largest element."""
    tolerance: float
    passed: bool


@dataclass(frozen=True, slots=True)
class FileResult:
    """One file."""

    file: str
    kind: str
    tensors: tuple[Compared, ...]
    unchecked: tuple[str, ...]
    """Tensors of the file that are neither inputs nor results of ours."""

    @property
    def passed(self) -> bool:
        """Tell whether every tensor is within its tolerance."""
        return all(tensor.passed for tensor in self.tensors)

    @property
    def worst(self) -> Compared:
        """Return the tensor that uses most of its tolerance."""
        return max(self.tensors, key=lambda t: (not t.passed, t.max_abs / t.tolerance if t.tolerance else t.max_abs))

    def as_dict(self, *, verbose: bool = False) -> dict[str, Any]:
        """Return the result as JSON values; `verbose`: with every tensor."""
        told: dict[str, Any] = {
            "file": self.file, "kind": self.kind, "tensors": len(self.tensors),
            "max_abs": max(tensor.max_abs for tensor in self.tensors),
            "max_rel": max(tensor.max_rel for tensor in self.tensors), "worst": self.worst.name, "passed": self.passed,
            "unchecked": list(self.unchecked),
        }  # fmt: skip
        return told | ({"each": [asdict(tensor) for tensor in self.tensors]} if verbose else {})


def check_folder(folder: Path, tolerance: float = TOLERANCE) -> list[FileResult]:
    """Check every file of a folder, in the order of their names.

    Raises:
        BenchError: there is no file, or one is damaged, of an unknown kind, or lacks what its kind needs.
        CheckpointError: a file's weights do not fit our network.
    """
    if not folder.is_dir():
        raise BenchError(f"{folder}: there is no such folder; name one with files of reference tensors")
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise BenchError(f"{folder}: holds no *.safetensors; name a folder with files of reference tensors")
    return [check_file(path, tolerance) for path in paths]


def check_file(path: Path, tolerance: float = TOLERANCE) -> FileResult:
    """Check one file; raises as `check_folder`."""
    kind = next((kind for kind in CHECKS if path.name.startswith(kind)), None)
    if kind is None:
        raise BenchError(f"{path}: of no known kind, want a name that begins with {', '.join(CHECKS)}")
    reference = _read(path)
    try:
        pairs = CHECKS[kind](reference)
    except (RuntimeError, ValueError, IndexError, KeyError, TypeError) as e:
        first = (str(e).splitlines() or [type(e).__name__])[0]
        raise BenchError(f"{path}: its tensors do not go together as those of {kind.rstrip('_')} ({first})") from e
    compared = tuple(compare(name, ours, theirs, tolerance) for name, (ours, theirs) in pairs.items())
    unchecked = tuple(n for n in reference.tensors if n not in pairs and not re.fullmatch(INPUTS[kind], n))
    return FileResult(path.name, kind.rstrip("_"), compared, unchecked)


def compare(name: str, ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> Compared:
    """Return how far two tensors of one shape are apart; anything not finite is infinitely far."""
    if not theirs.numel():
        return Compared(name, 0.0, 0.0, 0.0, tolerance, passed=False)  # nothing compared proves nothing
    error = (ours.double() - theirs.double()).abs().max().item()
    scale = theirs.double().abs().max().item()
    allowed = _allowed(name, theirs, scale, tolerance)
    finite = bool(torch.isfinite(ours.double()).all() and torch.isfinite(theirs.double()).all())
    error = error if finite else float("inf")
    return Compared(name, error, error / scale if scale else error, scale, allowed, passed=finite and error <= allowed)


def _allowed(name: str, theirs: Tensor, scale: float, tolerance: float) -> float:
    if not theirs.is_floating_point():
        return 0.0
    return tolerance * max(10.0, scale) if scale > UNIT_SCALE and re.fullmatch(DEEP, name) else tolerance


def _read(path: Path) -> Reference:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
            return Reference(path, tensors, dict(file.metadata() or {}))
    except (SafetensorError, OSError, RuntimeError, ValueError) as e:
        first = (str(e).splitlines() or [type(e).__name__])[0]
        raise BenchError(f"{path}: a damaged file of tensors ({first}); fetch it again") from e


COLUMNS = ("file", "tensors", "largest error", "relative", "worst tensor", "its error", "allowed", "")
EACH_COLUMNS = ("tensor", "largest error", "relative", "scale", "allowed", "")


def rows(results: list[FileResult]) -> list[tuple[str, ...]]:
    """Return a row of `COLUMNS` for each file."""
    found = []
    for result in results:
        told, worst = result.as_dict(), result.worst
        errors = (f"{told['max_abs']:.1e}", f"{told['max_rel']:.1e}")
        cells = (result.file, str(told["tensors"]), *errors, worst.name, f"{worst.max_abs:.1e}")
        found.append((*cells, f"{worst.tolerance:.0e}", _verdict(result.passed)))
    return found


def each_rows(result: FileResult) -> list[tuple[str, ...]]:
    """Return a row of `EACH_COLUMNS` for each tensor of a file."""
    return [
        (t.name, f"{t.max_abs:.1e}", f"{t.max_rel:.1e}", f"{t.scale:.3g}", f"{t.tolerance:.0e}", _verdict(t.passed))
        for t in result.tensors
    ]


def _verdict(passed: bool) -> str:
    return "same" if passed else "DIFFERS"
