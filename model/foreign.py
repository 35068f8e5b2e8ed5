"""Reads checkpoints that others have published, without running anything that stands in them.

PyTorch files are pickles, which may name any function. Before torch sees one, the names in it are read without
executing anything, and held against two lists: what tensors are made of, and classes of fairseq, omegaconf and the like
that carry settings; objects of the latter become `Inert`. Any other name is refused. Then torch's own `weights_only`
reader does the work, which knows no further name either.

Knows zip and legacy files of torch, and safetensors; nothing here knows what a checkpoint is of.
"""

import io
import pickletools
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.serialization import safe_globals

from ..shards.checks import first_line
from .errors import CheckpointError

MAX_PICKLE_BYTES = 1 << 26
"""Of the part of a file that describes its tensors: those of published models have a few 100 KB."""
MAX_HEADER_BYTES = 100_000_000
"""Of a safetensors header (safetensors' own limit)."""
MAX_VALUES = 1_000_000
"""Of a configuration, counted as often as it is referred to."""
MAX_DEPTH = 64
LEGACY_PICKLES = 5
"""Of a legacy file: magic number, protocol, system, content, names of the storages that follow."""

TENSOR_PARTS = frozenset(
    ["_codecs.encode", "collections.OrderedDict", "torch.Size", "torch.nn.parameter.Parameter",
     "torch.serialization._get_layout"]
    + [f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "parameter")]
    + [f"torch.{name}Storage" for name in (
        "Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool",
    )]
    + [f"torch.{name}" for name in (
        "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
    )]
)  # fmt: skip
"""What dictionaries of tensors and bytes need; torch's list is longer."""
HARMLESS = frozenset(
    [
        "argparse.Namespace", "builtins.bool", "builtins.dict", "builtins.float", "builtins.int", "builtins.list",
        "builtins.str", "builtins.tuple", "collections.defaultdict", "easydict.EasyDict",
        "fairseq.data.dictionary.Dictionary", "pathlib.PosixPath", "typing.Any", "yacs.config.CfgNode",
        "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", "omegaconf.dictconfig.DictConfig",
        "omegaconf.listconfig.ListConfig", "numpy.dtype", "numpy.ndarray",
    ]
    + [f"omegaconf.nodes.{name}Node" for name in ("Any", "Boolean", "Enum", "Float", "Integer", "String")]
    + [f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")]
)  # fmt: skip
"""Names that stand in published checkpoints beside the weights; objects of them are `Inert`, and functions uncalled."""
DICTIONARIES = ("builtins.dict", "easydict.EasyDict", "yacs.config.CfgNode")
"""Those of them that are filled as dictionaries."""


class Inert:
    """Stands for an object of another program: keeps what it was made of, and does nothing."""

    name = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> "Inert":
        """Keep the arguments."""
        made = object.__new__(cls)
        made.args, made.state = args, None
        return made

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state


@dataclass(frozen=True, slots=True)
class Foreign:
    """What a file holds."""

    path: Path
    container: str
    """`zip`, `legacy` or `safetensors`."""
    content: Any
    """Dictionaries, lists, tensors, numbers, texts and `Inert`."""
    metadata: dict[str, str]
    """Of a safetensors file."""


def read_foreign(path: Path) -> Foreign:
    """Return what a checkpoint file of PyTorch or safetensors holds; large tensors stay in the file until used.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint, or names something that is on no list.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be read ({e.strerror}); name a checkpoint file") from e
    if start.startswith(b"PK"):
        _check_zip(path)
        return Foreign(path, "zip", _load(path, mmap=True), {})
    if start.startswith(b"\x80\x02"):
        _check_legacy(path)
        return Foreign(path, "legacy", _load(path, mmap=False), {})
    if start[8:9] == b"{":
        return _read_safetensors(path, start)
    raise CheckpointError(f"{path}: {_guess(start)}")


def plain(value: Any) -> Any:
    """Return settings as JSON knows them: containers of omegaconf and argparse opened, what JSON lacks as None.

    Raises:
        CheckpointError: they are deeper or larger than settings can be.
    """
    return _plain(value, 0, [0])


def state_dict(value: Any, path: Path) -> dict[str, Tensor]:
    """Return a dictionary of tensors, each an ordinary one on the CPU.

    Raises:
        CheckpointError: it is something else.
    """
    if not isinstance(value, dict) or not value:
        raise CheckpointError(f"{path}: where the weights should stand is {_kind(value)}, want a dictionary of tensors")
    found: dict[str, Tensor] = {}
    for key, tensor in value.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"{path}: the weights hold {_kind(tensor)} under {str(key)[:80]!r}, want tensors only"
            )
        if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.layout != torch.strided or tensor.is_quantized:
            raise CheckpointError(f"{path}: {key[:80]!r} is no ordinary tensor; convert the checkpoint")
        found[key] = tensor.detach()
    return found


def is_state_dict(value: Any) -> bool:
    """Tell whether a value is a dictionary of nothing but tensors."""
    return isinstance(value, dict) and bool(value) and all(isinstance(tensor, Tensor) for tensor in value.values())


def _guess(start: bytes) -> str:
    """Say what a file that is no checkpoint may be, and what to do."""
    again = "fetch it again"
    if not start:
        return f"is empty; {again}"
    if start.startswith(b"\x80"):
        return "is a pickle, but no checkpoint of PyTorch; save it again with torch.save"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return f"is a web page, no checkpoint; {again}, perhaps by hand in a browser"
    if text.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, no checkpoint; fetch the file itself with: git lfs pull"
    return f"is no checkpoint of PyTorch or safetensors, or is damaged; {again}"


def _check_zip(path: Path) -> None:
    """Hold every member to its checksum and the names in the pickle to our lists."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise CheckpointError(f"{path}: a compressed archive, no checkpoint; unpack it and name the file in it")
            pickles = [member for member in members if member.filename.count("/") == 1
                       and member.filename.endswith("/data.pkl")]  # fmt: skip
            if len(pickles) != 1:
                raise CheckpointError(f"{path}: a zip file without one data.pkl, so no checkpoint of PyTorch")
            if any(member.filename.endswith("/constants.pkl") for member in members):
                raise CheckpointError(f"{path}: a TorchScript program, no state dict; save its state_dict() instead")
            if pickles[0].file_size > MAX_PICKLE_BYTES:
                raise CheckpointError(f"{path}: describes its tensors in {pickles[0].file_size} bytes, {_too_many()}")
            if sum(member.file_size for member in members) > path.stat().st_size:
                raise CheckpointError(f"{path}: an archive whose parts overlap, no checkpoint of PyTorch")
            bad = archive.testzip()
            if bad is not None:
                raise CheckpointError(f"{path}: damaged at {bad!r}, whose checksum differs; fetch it again")
            _check_names(path, io.BytesIO(archive.read(pickles[0])))
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError, RuntimeError) as e:
        raise CheckpointError(f"{path}: a truncated or damaged zip file ({_line(e)}); fetch it again") from e


def _check_legacy(path: Path) -> None:
    """Hold the names in every pickle of a legacy file to our lists."""
    with path.open("rb") as file:
        for _ in range(LEGACY_PICKLES):
            _check_names(path, file)
            if file.tell() > MAX_PICKLE_BYTES:
                raise CheckpointError(f"{path}: describes its tensors in more than {file.tell()} bytes, {_too_many()}")


def _check_names(path: Path, file: BinaryIO) -> None:
    """Read one pickle without executing it; refuse a name that is on neither list."""
    try:
        for opcode, argument, position in pickletools.genops(file):
            if opcode.name in ("GLOBAL", "INST"):
                full = _full_name(*str(argument).split(" ", 1))
                if full not in TENSOR_PARTS and full not in HARMLESS:
                    raise CheckpointError(
                        f"{path}: names {full}, which no list of harmless names has, so it is not loaded; "
                        "convert the checkpoint to safetensors where you trust it"
                    )
            elif opcode.proto > 2:
                raise CheckpointError(
                    f"{path}: uses {opcode.name} of pickle protocol {opcode.proto}, PyTorch's checkpoints are of 2; "
                    "save it again with torch.save"
                )
            if position is not None and position > MAX_PICKLE_BYTES:
                raise CheckpointError(f"{path}: describes its tensors in more than {position} bytes, {_too_many()}")
    except (ValueError, EOFError, IndexError, AttributeError, UnicodeDecodeError, OverflowError, MemoryError) as e:
        raise CheckpointError(f"{path}: {_guess(b'?')} ({_line(e)})") from e


def _full_name(module: str, name: str) -> str:
    """Return today's name of what these pickles call by its name in Python 2, as every reader of them does."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _load(path: Path, *, mmap: bool) -> Any:
    # The lists were held against the file already; here they are the only names beside torch's own.
    stubs = [(_stub(name), name) for name in sorted(HARMLESS)]
    try:
        with safe_globals(stubs):  # type: ignore[arg-type]
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mmap)
    except MemoryError as e:
        raise CheckpointError(f"{path}: asks for more memory than there is; it is damaged or hostile") from e
    except Exception as e:  # torch.load raises whatever its reader meets
        raise CheckpointError(f"{path}: not a checkpoint that PyTorch can read ({_line(e)}); fetch it again") from e


def _stub(name: str) -> Any:
    if name == "collections.defaultdict":
        return _default_dictionary
    return OrderedDict if name in DICTIONARIES else type(name.rpartition(".")[2], (Inert,), {"name": name})


def _default_dictionary(*_: Any) -> dict[Any, Any]:
    return {}


def _read_safetensors(path: Path, start: bytes) -> Foreign:
    header = int.from_bytes(start[:8], "little")
    if header > min(MAX_HEADER_BYTES, path.stat().st_size - 8):
        raise CheckpointError(f"{path}: a safetensors file whose header of {header} bytes cannot be; fetch it again")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
            return Foreign(path, "safetensors", tensors, dict(file.metadata() or {}))
    except (SafetensorError, OSError, ValueError, RuntimeError) as e:
        raise CheckpointError(f"{path}: a damaged safetensors file ({_line(e)}); fetch it again") from e


def _plain(value: Any, depth: int, seen: list[int]) -> Any:
    seen[0] += 1
    if depth > MAX_DEPTH or seen[0] > MAX_VALUES:
        raise CheckpointError("the checkpoint's settings are deeper or larger than settings can be; it is hostile")
    if isinstance(value, Inert):
        return _plain(_inside(value), depth + 1, seen)
    if isinstance(value, dict):
        return {str(key): _plain(item, depth + 1, seen) for key, item in value.items()
                if isinstance(key, str | int | float)}  # fmt: skip
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1, seen) for item in value]
    return value if isinstance(value, str | int | float | bool) else None


def _inside(value: Inert) -> Any:
    """Return the settings in an object of omegaconf or argparse."""
    if not isinstance(value.state, dict):
        return None
    if value.name.startswith("omegaconf."):
        return value.state.get("_content", value.state.get("_val"))
    return value.state if value.name == "argparse.Namespace" else None


def _kind(value: Any) -> str:
    return f"an object of {value.name}" if isinstance(value, Inert) else f"a value of type {type(value).__name__}"


def _too_many() -> str:
    return f"want at most {MAX_PICKLE_BYTES}; it is damaged or hostile"


def _line(error: BaseException) -> str:
    """Return the first line of a message, shortened."""
    return first_line(error)[:160]
