"""Weights of others: nothing in a file runs, and what does not fit is named."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from unibrivl.model.errors import CheckpointError
from unibrivl.model.weights import check_shapes, fit_weights, read_weights, shapes_of

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Payload:
    """Something that a careless reader would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
    ],
)
def test_state_dicts_are_unwrapped(tmp_path: Path, wrap: Any) -> None:
    torch.save(wrap(STATE), tmp_path / "weights.pth")
    found = read_weights(tmp_path / "weights.pth")
    assert found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "weights.safetensors")
    assert read_weights(tmp_path / "weights.safetensors").keys() == STATE.keys()


def test_nothing_in_a_file_runs(tmp_path: Path) -> None:
    torch.save({"a": Payload(tmp_path / "ran")}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"weights\.pth: names posix\.mkdir, which no list of harmless names has"):
        read_weights(tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"garbage " * 40])
def test_missing_and_damaged_files_are_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}: (cannot be read|is empty|is no checkpoint)"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, [torch.ones(2)], {"a": 1}, torch.ones(2)])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_weights(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a.bias": None}, r"1 missing: a\.bias"),
        ({"b": torch.ones(1)}, "1 superfluous: b"),
        ({f"b{n}": torch.ones(1) for n in range(5)}, "5 superfluous: b0, b1, b2 and 2 more"),
        ({"a.bias": None, "b": torch.ones(1)}, r"1 missing: a\.bias, 1 superfluous: b\)"),
        ({"a.bias": torch.ones(3)}, r"1 of another shape: a\.bias \(3,\), want \(2,\)"),
    ],
)
def test_weights_must_fit(change: dict[str, Any], message: str) -> None:
    module = nn.ModuleDict({"a": nn.Linear(3, 2)})
    weights = {name: tensor for name, tensor in (STATE | change).items() if tensor is not None}
    with pytest.raises(CheckpointError, match=rf"^x\.pth: does not fit the model \({message}") as caught:
        fit_weights(module, weights, Path("x.pth"))
    assert "\n" not in str(caught.value)
    fit_weights(module, STATE, Path("x.pth"))
    assert torch.equal(module["a"].weight, STATE["a.weight"])


def test_sizes_are_compared_before_memory_is_taken() -> None:
    shapes = shapes_of(STATE)
    check_shapes(lambda: nn.ModuleDict({"a": nn.Linear(3, 2)}), shapes, Path("x.pth"))
    huge = 1 << 24  # a thousand terabytes of weights
    with pytest.raises(CheckpointError, match=r"^x\.pth: does not fit the model \(2 of another shape: a\.weight"):
        check_shapes(lambda: nn.ModuleDict({"a": nn.Linear(huge, huge)}), shapes, Path("x.pth"))
    with pytest.raises(CheckpointError, match=r"^x\.pth: its configuration makes no network \(.*negative"):
        check_shapes(lambda: nn.ModuleDict({"a": nn.Linear(-1, 2)}), shapes, Path("x.pth"))
