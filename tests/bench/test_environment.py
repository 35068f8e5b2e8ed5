"""Where a figure was measured: enough to compare, nothing that names the machine."""

import getpass
import json
import platform
import socket

import pytest

from unibrivl import __version__
from unibrivl.bench import environment as module
from unibrivl.bench.environment import environment


def test_it_names_what_matters() -> None:
    found = environment()
    assert found["cores"] >= 1 and found["memory_gib"] > 0.1
    assert found["processor"] and found["python"] == platform.python_version()
    assert found["packages"]["unibrivl"] == __version__
    assert all(version and version != "not installed" for version in found["packages"].values())
    assert json.loads(json.dumps(found)) == found


def test_it_does_not_name_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """With names that occur in no other value, so that a short one cannot be found by chance."""
    monkeypatch.setattr(socket, "gethostname", lambda: "quokka-host")
    monkeypatch.setattr(platform, "node", lambda: "quokka-host")
    monkeypatch.setenv("HOSTNAME", "quokka-host")
    monkeypatch.setattr(getpass, "getuser", lambda: "quokka-user")
    text = json.dumps(environment())
    assert "quokka" not in text
    monkeypatch.undo()
    for name in {socket.gethostname(), platform.node(), platform.release()} - {""}:
        assert len(name) < 4 or name not in json.dumps(environment())
    assert set(environment()) == {"processor", "cores", "memory_gib", "system", "python", "packages"}


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", ("no-such-package",))
    assert environment()["packages"] == {"no-such-package": "not installed"}
