"""Processes meet under a new name, whatever the dead have left in the store."""

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch.distributed as dist

from unibrivl.model import rendezvous
from unibrivl.model.errors import LostProcessError
from unibrivl.model.rendezvous import _welcome, _welcomed, meet


def together(*parts: Callable[[], str]) -> list[str]:
    """Return what each part returns, the later ones started later."""
    found: dict[int, str] = {}
    threads = [threading.Thread(target=lambda n=n, p=p: found.update({n: p()})) for n, p in enumerate(parts)]
    for thread in threads:
        thread.start()
        thread.join(0.1)  # an attempt begins as a machine has time: the first has long looked around then
    for thread in threads:
        thread.join(30)
    return [found[n] for n in range(len(parts))]


@pytest.mark.parametrize("first_last", [False, True])
def test_every_attempt_agrees_on_a_name_of_its_own(first_last: bool) -> None:
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=30))
    names = []
    for _ in range(3):  # the same store, as torchrun's
        parts = [lambda: _welcome(store, 3), lambda: _welcomed(store, 1), lambda: _welcomed(store, 2)]
        found = together(*(parts[::-1] if first_last else parts))
        assert len(set(found)) == 1
        names.append(found[0])
    assert len(set(names)) == 3


def test_one_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "MEETING", timedelta(seconds=0.1))
    with pytest.raises(LostProcessError, match=r"process 1 of 2 did not start within 0\.1 s; see"):
        _welcome(dist.HashStore(), 2)


def test_a_process_alone_joins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    meet("gloo", timedelta(seconds=1))
    assert not dist.is_initialized()
