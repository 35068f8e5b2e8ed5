"""Several processes train as one with their batches together: loss, gradients and queues.

Real processes and gloo; the work is handed over in files.
"""

import dataclasses
import multiprocessing
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unibrivl.model import towers
from unibrivl.model.gather import gather, rank
from unibrivl.model.loss import LossConfig
from unibrivl.model.unibrivl import UniBriVL

DIM, IMAGE_DIM, PER_RANK, STEPS = 10, 6, 3, 4
CONFIGS = {
    "both": LossConfig(queue_size=20, dropout=0, hidden=9, momentum=0.5),
    "no queue": LossConfig(queue_size=0, dropout=0, hidden=9),
    "queue alone": LossConfig(queue_size=20, dropout=0, hidden=9, momentum=0.5, in_batch=False),
    "topk": LossConfig(queue_size=20, dropout=0, hidden=9, momentum=0.5, topk=2),
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlainConfig:
    pass


class PlainTower(nn.Module):
    """One layer: batch norm would see each process's batch alone."""

    num_samples, embed_dim = 16, 5

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.layer = nn.Linear(DIM, self.embed_dim)

    def encode(self, features: Tensor) -> Tensor:
        return torch.tanh(self.layer(features))


def related(first_N: Tensor, second_M: Tensor) -> Tensor:
    """Clips of one third of their number are related: across steps and processes too."""
    return (first_N[:, None] // 3 == second_M // 3) & (second_M >= 0)


def run(config: LossConfig, rank: int, world: int, ranks: int) -> dict[str, Tensor]:
    """Train a few steps; process `rank` of `world` gets its share of the batches for `ranks` processes."""
    towers.LANGUAGE_TOWERS["plain"] = (PlainConfig, PlainTower)  # type: ignore[assignment]
    torch.manual_seed(0)
    model = UniBriVL("plain", {}, IMAGE_DIM, config)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    # queues are the same everywhere by themselves; sending them at every step would cost more than the step
    shared = DistributedDataParallel(model, broadcast_buffers=False) if world > 1 else model
    share = slice(rank * PER_RANK * ranks // world, (rank + 1) * PER_RANK * ranks // world)
    rng, losses, candidates = torch.Generator().manual_seed(1), [], []
    for _ in range(STEPS):
        features = torch.randn(PER_RANK * ranks, DIM, generator=rng)
        image = torch.randn(PER_RANK * ranks, IMAGE_DIM, generator=rng)
        ids = torch.randint(40, (PER_RANK * ranks,), generator=rng)
        model.begin_step()
        terms = shared(features[share], image[share], ids[share], related)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        model.end_step()
        losses.append(terms.total.detach())
        candidates.append(terms.candidates.log())
    grads = {f"grad.{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    totals = torch.stack([torch.stack(losses), torch.stack(candidates).float()])
    if world > 1:
        dist.all_reduce(totals)
    return model.state_dict() | grads | {"totals": totals / world}


def worker(rank: int, world: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    torch.set_num_threads(1)
    torch.save({name: run(config, rank, world, world) for name, config in CONFIGS.items()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_processes_train_as_one_with_the_whole_batch(world: int, tmp_path: Path) -> None:
    # a server that has the imports forks the processes: importing in each would take most of the test's time
    multiprocessing.get_context("forkserver").set_forkserver_preload(["pytest", "unibrivl.model.unibrivl"])
    context = mp.start_processes(worker, (world, str(tmp_path)), world, join=False, start_method="forkserver")
    assert context is not None
    alone = {name: run(config, 0, 1, world) for name, config in CONFIGS.items()}
    while not context.join(timeout=120):
        pass
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]
    for name, wanted in alone.items():
        assert len({totals.item() for totals in wanted["totals"][0]}) == STEPS
        for theirs in found:
            assert theirs[name].keys() == wanted.keys()
            for key, tensor in wanted.items():
                # float32 sums in another order; losses are up to 20
                torch.testing.assert_close(
                    theirs[name][key], tensor, rtol=1e-5, atol=1e-5, msg=lambda m, at=(name, key): f"{at}: {m}"
                )
        assert all(torch.equal(theirs[name][key], found[0][name][key]) for theirs in found for key in wanted)


def test_one_process_needs_no_group() -> None:
    rows = torch.ones(3, 2, requires_grad=True)
    assert gather(rows) is rows and rank() == 0
