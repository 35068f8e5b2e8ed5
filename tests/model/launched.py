"""The command line, in a process that a launcher starts; one of them kills itself in the middle of a step, once.

python -m tests.model.launched MARKER RANK STEP train ...: MARKER is made before process RANK dies in STEP.
"""

import os
import sys
from pathlib import Path
from typing import Any

from unibrivl.cli import main
from unibrivl.model import train as train_module
from unibrivl.model.train import TrainResult
from unibrivl.model.train_config import TrainConfig

from .group import Fault, Orders, observed, register_tiny_towers


def train(config: TrainConfig, progress: Any) -> TrainResult:
    return observed(config, int(os.environ.get("RANK", "0")), ORDERS)


if __name__ == "__main__":
    marker, rank, step = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    del sys.argv[1:4]
    ORDERS = Orders() if marker.exists() else Orders(fault=Fault(rank=rank, step=step, marker=marker))
    register_tiny_towers()
    train_module.train = train
    main()
