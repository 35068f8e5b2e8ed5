"""Checks what a machine of a cluster looks at before it works; `tests/test_cluster.py` has a cluster."""

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest

from unibrivl.ingest.errors import IngestError
from unibrivl.ingest.machine import LOCK_FILE, Desk, check_storage
from unibrivl.ingest.patience import PatienceConfig
from unibrivl.ingest.worker import WorkerConfig


@pytest.fixture
def config(worker_config: Callable[..., WorkerConfig], tmp_path: Path) -> WorkerConfig:
    return worker_config(tmp_path)


def test_a_machine_that_sees_the_output_and_its_lock_may_work(config: WorkerConfig) -> None:
    with (config.out / "ledger" / "r" / LOCK_FILE).open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        check_storage(config)


def test_a_machine_without_the_output_is_refused(config: WorkerConfig) -> None:
    with pytest.raises(IngestError, match=r"does not see .*out as .*No such file.*under the same paths") as caught:
        check_storage(config)
    assert "\n" not in str(caught.value)


def test_a_machine_that_locks_do_not_reach_is_refused(config: WorkerConfig) -> None:
    (config.out / "ledger" / "r" / LOCK_FILE).touch()
    with pytest.raises(IngestError, match="file locks do not reach"):
        check_storage(config)


def test_the_desk_gives_each_report_once_in_order() -> None:
    desk = Desk(PatienceConfig(pause_s=8.0))
    assert desk.report(("a", 0, [("", "", True)]), None) == (0.0, 0.0, 0.0)
    assert desk.report(("a", 1, []), (7.0, 8.0, 7.0))[1:] == (8.0, 7.0)
    desk.report(("b", 0, [("media.no_audio", "x", True)]), None)
    assert desk.take() == [("a", 0, [("", "", True)]), ("b", 0, [("media.no_audio", "x", True)])]
    assert desk.take() == []
