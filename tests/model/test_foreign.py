"""Foreign checkpoints: what is harmless is read, what would run is refused by name and never runs."""

import argparse
import builtins
import collections
import importlib
import io
import os
import pickle
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from unibrivl.model import foreign
from unibrivl.model.errors import CheckpointError
from unibrivl.model.foreign import plain, read_foreign, state_dict

MAGIC = 0x1950A86A20F9469CFC6C
FORMS = ("zip", "legacy")


def torch_zip(content: bytes, *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a file as torch.save lays it out, with these bytes as its pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in {"data.pkl": content, "byteorder": b"little", "version": b"3\n"}.items():
            archive.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def torch_legacy(content: bytes) -> bytes:
    """Return a file as torch.save laid it out before 1.6, with these bytes as the pickle of its content."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    return b"".join([*(pickle.dumps(x, 2) for x in (MAGIC, 1001, system)), content, pickle.dumps([], 2)])


def write(path: Path, form: str, content: bytes) -> Path:
    path.write_bytes(torch_zip(content) if form == "zip" else torch_legacy(content))
    return path


def refused(path: Path) -> str:
    """Return the one line with which a file is refused."""
    with pytest.raises(CheckpointError) as caught:
        read_foreign(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message and len(message) < 400
    return message


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def hostile(marker: Path) -> dict[str, Any]:
    """Return objects that create `marker` when they are unpickled in earnest, by a word of the refusal."""
    code = f"open({str(marker)!r}, 'w').close()"
    inner = io.BytesIO()
    torch.save(Call(os.system, f"touch {marker}"), inner)
    return {
        "posix.system": Call(os.system, f"touch {marker}"),
        "builtins.eval": Call(eval, code),
        "builtins.exec": Call(exec, code),
        "io.open": Call(open, str(marker), "w"),
        "builtins.getattr": Call(getattr, Call(importlib.import_module, "os"), "system"),
        "builtins.__import__": Call(builtins.__import__, "os"),
        "subprocess.Popen": Call(subprocess.Popen, ["touch", str(marker)]),
        "importlib.import_module": Call(importlib.import_module, "antigravity"),
        "torch.storage._load_from_bytes": Call(torch.storage._load_from_bytes, inner.getvalue()),
        "torch.serialization.load": Call(torch.load, str(marker)),
        "torch.jit._serialization.load": Call(torch.jit.load, str(marker)),
        "numpy.load": Call(np.load, str(marker), None, True),
        "functools.partial": Call(importlib.import_module("functools").partial, os.system),
    }


NAMES = tuple(hostile(Path("marker")))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", [lambda x: x, lambda x: {"model": {"w": x}}, lambda x: {x: 1}])
def test_what_calls_a_function_is_refused_by_name_and_never_runs(
    name: str, form: str, place: Callable[[Any], Any], tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    value = hostile(marker)[name]
    path = write(tmp_path / "a.pt", form, pickle.dumps(place(value), 2))
    assert f"names {name}" in refused(path)
    assert not marker.exists()


def test_these_objects_do_run_where_pickle_is_trusted(tmp_path: Path) -> None:
    """Else the tests above would prove nothing."""
    for name in ("posix.system", "builtins.eval"):
        marker = tmp_path / name
        pickle.loads(pickle.dumps(hostile(marker)[name], 2))
        assert marker.exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"(S'touch MARKER'\nios\nsystem\n.", "names os.system"),
        (b"cos\nsystem\n(S'touch MARKER'\ntR.", "names os.system"),
        (b"c__builtin__\neval\n(S'1'\ntR.", "names builtins.eval"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch MARKER\x85R.", "pickle protocol 4"),
        (b"\x80\x02\x82\x01.", ""),  # a registered extension
        (
            b"cfairseq.data.dictionary\nDictionary.__init__.__globals__\n)R.",
            "names fairseq.data.dictionary.Dictionary.",
        ),
        (b"cfairseq.data.dictionary\nOther\n)R.", "names fairseq.data.dictionary.Other"),
        (b"ctorch\nsave\n)R.", "names torch.save"),
    ],
)
def test_pickles_by_hand(content: bytes, words: str, form: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = write(tmp_path / "a.pt", form, content.replace(b"MARKER", str(marker).encode()[:6].ljust(6)))
    assert words in refused(path)
    assert not marker.exists()


def test_torch_alone_would_refuse_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are held against lists twice; without the first check the second still stands."""
    monkeypatch.setattr(foreign, "_check_names", lambda path, file: None)
    marker = tmp_path / "marker"
    for form in FORMS:
        for value in hostile(marker).values():
            path = write(tmp_path / "a.pt", form, pickle.dumps(value, 2))
            assert "not a checkpoint" in refused(path)
            assert not marker.exists()


@pytest.fixture
def fairseq(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a class under the name of fairseq's dictionary, there only while a file is written."""
    for name in ("fairseq", "fairseq.data", "fairseq.data.dictionary"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    kind = type("Dictionary", (), {"__module__": "fairseq.data.dictionary", "__setstate__": lambda self, state: 1 / 0})
    sys.modules["fairseq.data.dictionary"].Dictionary = kind  # type: ignore[attr-defined]
    return kind


@pytest.mark.parametrize("form", FORMS)
def test_known_harmless_classes_become_inert(form: str, fairseq: Any, tmp_path: Path) -> None:
    words = fairseq()
    words.symbols = ["a", "b"]
    counts = collections.defaultdict(int, a=3)
    value = {
        "model": collections.OrderedDict(w=torch.randn(2, 3), h=torch.ones(2).half(), n=torch.tensor(7)),
        "args": argparse.Namespace(lr=0.5, layers=[1, 2], inner=argparse.Namespace(deep="x")),
        "task_state": {"dictionaries": [words]}, "counts": counts, "cfg": {"model": {"dim": 4}, "none": None},
    }  # fmt: skip
    path = tmp_path / "a.pt"
    torch.save(value, path, _use_new_zipfile_serialization=form == "zip")
    allowed = set(torch.serialization.get_safe_globals())
    read = read_foreign(path)
    assert read.container == form
    found = state_dict(read.content["model"], path)
    assert all(torch.equal(found[name], tensor) for name, tensor in value["model"].items())
    assert found["h"].dtype == torch.float16
    assert plain(read.content["args"]) == {"lr": 0.5, "layers": [1, 2], "inner": {"deep": "x"}}
    assert plain(read.content["cfg"]) == value["cfg"]
    assert read.content["counts"] == {"a": 3}
    (stub,) = read.content["task_state"]["dictionaries"]
    assert type(stub) is not fairseq and stub.name == "fairseq.data.dictionary.Dictionary"
    assert plain(read.content["task_state"]) == {"dictionaries": [None]}
    assert set(torch.serialization.get_safe_globals()) == allowed


@pytest.mark.parametrize("form", FORMS)
def test_numbers_of_numpy_beside_the_weights_do_no_harm(form: str, tmp_path: Path) -> None:
    """Trainers keep a loss or a learning rate as such a number; it is of no use here, and no array is made."""
    path = tmp_path / "a.pt"
    value = {"model": {"w": torch.ones(2)}, "best": np.float64(0.5), "bytes": b"xyz", "curve": np.arange(3)}
    torch.save(value, path, _use_new_zipfile_serialization=form == "zip")
    content = read_foreign(path).content
    assert torch.equal(content["model"]["w"], torch.ones(2)) and content["bytes"] == b"xyz"
    assert plain({"best": content["best"], "curve": content["curve"]}) == {"best": None, "curve": None}


def test_settings_of_omegaconf_are_opened() -> None:
    def made(name: str, **state: Any) -> Any:
        stub = foreign._stub(f"omegaconf.{name}")()
        stub.__setstate__(state)
        return stub

    numbers = made("listconfig.ListConfig", _content=[made("nodes.IntegerNode", _val=3)], _parent=None)
    value = made("dictconfig.DictConfig", _content={"heads": made("nodes.AnyNode", _val=8), "n": numbers}, _metadata={})
    assert plain({"model": value}) == {"model": {"heads": 8, "n": [3]}}


def test_settings_that_refer_to_themselves_or_explode_are_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    laughs: Any = ["ha"]
    for _ in range(40):
        laughs = [laughs, laughs]
    for value in (loop, laughs):
        with pytest.raises(CheckpointError, match="deeper or larger"):
            plain(value)


def test_safetensors_are_read_with_their_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.arange(6.0).reshape(2, 3)}, path, metadata={"format": "pt"})
    read = read_foreign(path)
    assert read.container == "safetensors" and read.metadata == {"format": "pt"}
    assert torch.equal(read.content["w"], torch.arange(6.0).reshape(2, 3))


HEADER = (1 << 60).to_bytes(8, "little") + b"{}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"  <!DOCTYPE html><html>Sign in", "a web page"),
        (b"<html>404", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "pointer of Git LFS"),
        (b"\x00" * 4096, "no checkpoint"),
        (b"just text, nothing else", "no checkpoint"),
        (HEADER, "cannot be"),
        ((10).to_bytes(8, "little") + b'{"w":12345' + b"\x00" * 100, "damaged safetensors"),
        (pickle.dumps({"w": 1}, 2), "no checkpoint"),
        (pickle.dumps({"w": 1}, 5), "is a pickle, but no checkpoint"),
        (torch_zip(pickle.dumps({}, 2))[:-30], "truncated or damaged zip"),
        (torch_zip(pickle.dumps({}, 2), compression=zipfile.ZIP_DEFLATED), "compressed archive"),
        (torch_zip(b""), "no checkpoint"),
        (torch_zip(pickle.dumps({}, 2)[:-1]), "no checkpoint"),
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_is_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    assert words in refused(path)


def archive_of(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"m/{name.replace('_', '.')}", data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"inner_pt": torch_zip(pickle.dumps({}, 2))}, "without one data.pkl"),  # a zip in a zip
        ({"readme_txt": b"hello"}, "without one data.pkl"),
        ({"data_pkl": pickle.dumps({}, 2), "constants_pkl": b"x", "version": b"3\n"}, "TorchScript"),
    ],
)
def test_other_archives_are_one_line(members: dict[str, bytes], words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(archive_of(**members))
    assert words in refused(path)


def test_two_pickles_of_one_name_are_refused(tmp_path: Path) -> None:
    """One reader might check the first and another run the second."""
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("m/data.pkl", pickle.dumps({}, 2))
        archive.writestr("m/data.pkl", pickle.dumps(Call(os.system, "true"), 2))
    assert "without one data.pkl" in refused(path)


@pytest.mark.parametrize("form", FORMS)
def test_a_huge_description_is_refused(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "MAX_PICKLE_BYTES", 1000)
    path = write(tmp_path / "a.pt", form, pickle.dumps(list(range(1000)), 2))
    assert "want at most 1000" in refused(path)


def test_missing_files_and_folders_are_one_line(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.pt")
    assert "Is a directory" in refused(tmp_path)


@pytest.mark.parametrize("value", [[1], {}, {"w": 1}, {1: torch.ones(1)}, {"w": torch.eye(3).to_sparse()}, None])
def test_weights_that_are_no_tensors_are_one_line(value: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"weights|no ordinary tensor"):
        state_dict(value, tmp_path / "a.pt")


@pytest.fixture(scope="module")
def sound_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, bytes]]:
    path = tmp_path_factory.mktemp("sound") / "a.pt"
    value = {"model": {"w": torch.arange(12.0).reshape(3, 4), "b": torch.zeros(3)}, "cfg": {"dim": 4}}
    found = {}
    for form in FORMS:
        torch.save(value, path, _use_new_zipfile_serialization=form == "zip")
        found[form] = path.read_bytes()
    save_file(value["model"], path)
    yield found | {"safetensors": path.read_bytes()}


@pytest.mark.parametrize("form", [*FORMS, "safetensors"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 1), place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), flip=st.booleans())
def test_a_damaged_file_is_one_line_or_reads(
    form: str, sound_files: dict[str, bytes], tmp_path: Path, cut: float, place: float, value: int, flip: bool
) -> None:
    """Whatever byte is changed or wherever the file ends, nothing but our error comes out."""
    data = bytearray(sound_files[form])
    if flip:
        data[int(place * len(data))] = value
    else:
        del data[int(cut * len(data)) :]
    path = tmp_path / "b.pt"
    path.write_bytes(data)
    try:
        read_foreign(path)
    except CheckpointError as e:
        assert "\n" not in str(e)


def test_a_flipped_bit_in_a_tensor_is_seen(sound_files: dict[str, bytes], tmp_path: Path) -> None:
    data = bytearray(sound_files["zip"])
    data[data.index(torch.arange(12.0).numpy().tobytes()) + 20] ^= 1
    path = tmp_path / "b.pt"
    path.write_bytes(data)
    assert "checksum differs" in refused(path)
