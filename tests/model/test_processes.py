"""What processes say of each other, and what accelerate may not be told."""

from pathlib import Path

import pytest
import torch.distributed as dist

from unibrivl.model.errors import LostProcessError, TrainError
from unibrivl.model.processes import SHARDED, accelerated, watched
from unibrivl.model.train_config import TrainConfig

GLOO = (
    "[/__w/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:1: Connection reset by peer"
)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError(f"{GLOO}. This is typically caused by a remote worker"), r"Read error \[127.*\]:1: Co.* peer"),
        (dist.DistStoreError("wait timeout after 9 ms"), "wait timeout after 9 ms"),
    ],
)  # fmt: skip
def test_what_a_lost_process_causes_is_one_line(error: RuntimeError, words: str) -> None:
    told = rf"run in out is gone or hangs \({words}\); its last .* again"
    with pytest.raises(LostProcessError, match=told), watched(Path("out")):
        raise error


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), watched(Path("out")):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize("name", SHARDED)
def test_a_sharded_model_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "true")
    config = TrainConfig(shards=Path("s"), out=Path("o"))
    with pytest.raises(TrainError, match=f"{name} is set, .* leave out"), accelerated(config):
        pass
