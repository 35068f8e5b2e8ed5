"""Checks fetching with clients that are scripts on the PATH, and with pip kept off the network."""

import hashlib
import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from unibrivl.ingest import packages
from unibrivl.ingest.errors import SampleError

CONTENT = b"the package"
PACKAGE = packages.PackageFile(
    name="toy-stamps",
    version="1.0",
    file="toy-stamps_1.0_all.deb",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    other_sample="film",
)


@pytest.fixture
def fake_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an apt-get on an otherwise normal PATH; it notes its calls and runs `body`, a file of the test's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "apt-get"
    script.write_text(f'#!/bin/sh\necho "$1" >> {folder}/calls\n. {folder}/body\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def calls(fake_apt: Path) -> list[str]:
    return (fake_apt / "calls").read_text().split()


def test_a_package_is_fetched_once(tmp_path: Path, fake_apt: Path) -> None:
    (fake_apt / "body").write_text(f"printf '{CONTENT.decode()}' > toy-stamps_1.0_all.deb\n")
    cache = tmp_path / "new" / "cache"
    for _ in range(2):
        path = packages.fetch_debian(PACKAGE, cache)
        assert path.read_bytes() == CONTENT
    assert calls(fake_apt) == ["download"]
    assert list(cache.iterdir()) == [path]


def test_a_spoiled_copy_and_leftovers_are_replaced(tmp_path: Path, fake_apt: Path) -> None:
    (fake_apt / "body").write_text(f"printf '{CONTENT.decode()}' > toy-stamps_1.0_all.deb\n")
    (tmp_path / "cache" / ".fetch-killed").mkdir(parents=True)
    (tmp_path / "cache" / PACKAGE.file).write_bytes(CONTENT[:4])
    path = packages.fetch_debian(PACKAGE, tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    assert list((tmp_path / "cache").iterdir()) == [path]


def test_a_wrong_hash_leaves_nothing(tmp_path: Path, fake_apt: Path) -> None:
    (fake_apt / "body").write_text("printf 'another' > toy-stamps_1.0_all.deb\n")
    with pytest.raises(SampleError, match="expected " + PACKAGE.sha256):
        packages.fetch_debian(PACKAGE, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_client_that_brings_nothing_is_told(tmp_path: Path, fake_apt: Path) -> None:
    (fake_apt / "body").write_text("true\n")
    with pytest.raises(SampleError, match="left 0 files"):
        packages.fetch_debian(PACKAGE, tmp_path / "cache")


@pytest.mark.parametrize(("uid", "expected"), [(0, ["download", "update", "download"]), (1000, ["download"])])
def test_root_updates_the_lists_once(
    tmp_path: Path, fake_apt: Path, monkeypatch: pytest.MonkeyPatch, uid: int, expected: list[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    (fake_apt / "body").write_text(
        "echo 'E: Failed to fetch http://mirror.example.org/pool/a.deb  Could not connect to"
        " cache.example.org:3128 (192.0.2.7).' >&2\necho 'W: last line' >&2\nexit 100\n"
    )
    with pytest.raises(SampleError) as failure:
        packages.fetch_debian(PACKAGE, tmp_path / "cache")
    assert calls(fake_apt) == expected
    message = str(failure.value)
    assert "Failed to fetch [address]" in message and "unibrivl sample film" in message
    assert "example.org" not in message and "192.0.2.7" not in message and "\n" not in message
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_update_can_cure_a_failed_download(tmp_path: Path, fake_apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (fake_apt / "body").write_text(
        f"if [ $1 = update ]; then touch {fake_apt}/lists; exit 0; fi\n"
        f"[ -e {fake_apt}/lists ] || exit 100\nprintf '{CONTENT.decode()}' > toy-stamps_1.0_all.deb\n"
    )
    assert packages.fetch_debian(PACKAGE, tmp_path / "cache").read_bytes() == CONTENT


def test_a_missing_apt_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SampleError, match=r"apt-get is missing.*`unibrivl sample film` works without it"):
        packages.fetch_debian(PACKAGE, tmp_path / "cache")


def test_a_cached_copy_needs_no_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (tmp_path / PACKAGE.file).write_bytes(CONTENT)
    assert packages.fetch_debian(PACKAGE, tmp_path) == tmp_path / PACKAGE.file


def toy_source(folder: Path) -> packages.PackageFile:
    """Write a source package that pip can take, and return its pin."""
    files = {
        "pyproject.toml": '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "unibrivl-toy"\nversion = "1.0"\n',
        "PKG-INFO": "Metadata-Version: 2.1\nName: unibrivl-toy\nVersion: 1.0\n",
    }
    path = folder / "unibrivl_toy-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"unibrivl_toy-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return packages.PackageFile(
        name="unibrivl-toy",
        version="1.0",
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        other_sample="stamps",
    )


@pytest.fixture
def offline_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let pip look into one folder only, which starts empty."""
    found = tmp_path / "found"
    found.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(found))
    return found


def test_pip_brings_a_source_package(tmp_path: Path, offline_pip: Path) -> None:
    package = toy_source(offline_pip)
    path = packages.fetch_source(package, tmp_path / "cache")
    assert path.read_bytes() == (offline_pip / package.file).read_bytes()
    assert list((tmp_path / "cache").iterdir()) == [path]


def test_pip_refuses_another_hash(tmp_path: Path, offline_pip: Path) -> None:
    package = replace(toy_source(offline_pip), sha256="0" * 64)
    with pytest.raises(SampleError, match=r"pip could not fetch unibrivl-toy 1\.0"):
        packages.fetch_source(package, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_network_is_one_line(tmp_path: Path, offline_pip: Path) -> None:
    package = toy_source(offline_pip)
    (offline_pip / package.file).unlink()
    with pytest.raises(SampleError, match=r"No matching distribution.*unibrivl sample stamps") as failure:
        packages.fetch_source(package, tmp_path / "cache")
    assert "\n" not in str(failure.value)


def test_a_missing_pip_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SampleError, match=r"pip is missing.*unibrivl sample film"):
        packages.fetch_source(PACKAGE, tmp_path / "cache")


def test_addresses_are_hidden_and_files_are_not() -> None:
    text = "E: https://user:word@deb.example.org/x failed at proxy.example.org:8080, see toy-1.0.tar.gz (1.0.2)"
    assert packages.without_addresses(text) == "E: [address] failed at [address], see toy-1.0.tar.gz (1.0.2)"
