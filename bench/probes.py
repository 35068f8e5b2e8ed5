"""Small classifiers on frozen embeddings, by the recipes of two published harnesses; features are not standardised.

`l3`: marl/l3embedding, classifier/train.py (OpenL3's authors). `hear`: hearbenchmark/hear-eval-kit,
heareval/predictions/task_predictions.py. What each says of widths, rates, batches and patience is taken as it is;
where one is silent the choice is ours: the kept epoch is the best on the validation split, by accuracy, then by loss.

Shapes: N samples, D dimensions, C classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from .errors import BenchError


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One place of a recipe's grid."""

    hidden: tuple[int, ...]
    lr: float
    init: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a probe is trained."""

    hidden: tuple[tuple[int, ...], ...]
    """Widths of the hidden layers; several are tried."""
    lrs: tuple[float, ...]
    inits: tuple[str, ...] = ("xavier_uniform",)
    l2: float = 0.0
    """Weight of the squared matrices in the loss."""
    batch_norm: bool = False
    dropout: float = 0.0
    batch_size: int
    epochs: int
    patience: int
    """Validations without a better one, after which training ends."""
    check_every: int = 1
    """Epochs between validations."""
    grid_on_first_split: bool = False
    """True: the grid is searched on the first split, and the place found there serves all; False: on each."""

    def points(self) -> list[Point]:
        """Return the grid."""
        return [Point(hidden=h, lr=lr, init=i) for h, lr, i in product(self.hidden, self.lrs, self.inits)]


PROBES = {
    "l3": Recipe(
        hidden=((512, 128),), lrs=(1e-4, 1e-5, 1e-3), l2=1e-5, batch_size=64, epochs=100, patience=20
    ),
    "hear": Recipe(
        hidden=((1024,), (1024, 1024)), lrs=(3.2e-3, 1e-3, 3.2e-4, 1e-4), inits=("xavier_uniform", "xavier_normal"),
        batch_norm=True, dropout=0.1, batch_size=1024, epochs=500, patience=20, check_every=3,
        grid_on_first_split=True,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Samples:
    """Embeddings and what they are of."""

    features_ND: np.ndarray
    targets: np.ndarray
    """int64 (N,), one class each; or float (N, C), any number of them."""

    def take(self, numbers: np.ndarray) -> "Samples":
        """Return some of them."""
        return Samples(self.features_ND[numbers], self.targets[numbers])

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return float32 (N, D) and the targets."""
        targets = torch.from_numpy(np.asarray(self.targets))
        return torch.from_numpy(np.asarray(self.features_ND, dtype=np.float32)), (
            targets.float() if targets.ndim == 2 else targets.long()
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: sums in another order train another probe (0.690 became 0.705 on ESC-10)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, slots=True)
class Probe:
    """A trained probe."""

    network: nn.Module
    point: Point
    score: tuple[float, float]
    """On the validation split: accuracy (0 where a sample may have several classes), and the loss negated."""
    epoch: int
    many: bool

    @one_thread()
    @torch.inference_mode()
    def predict(self, features_ND: np.ndarray) -> np.ndarray:
        """Return float32 (N, C): probabilities, which sum to 1 unless a sample may have several classes."""
        logits = self.network.eval()(torch.from_numpy(np.asarray(features_ND, dtype=np.float32)))
        return (logits.sigmoid() if self.many else logits.softmax(dim=1)).numpy()

    def as_dict(self) -> dict[str, object]:
        """Return what was chosen, for a result file."""
        return asdict(self.point) | {"epoch": self.epoch, "validation": [round(value, 4) for value in self.score]}


@one_thread()
def fit_probe(
    recipe: Recipe,
    train: Samples,
    valid: Samples,
    num_classes: int,
    *,
    seed: int = 0,
    points: list[Point] | None = None,
) -> Probe:
    """Train at each place of the grid and return the probe that is best on the validation split.

    Raises:
        BenchError: a split is empty.
    """
    if not len(train.targets) or not len(valid.targets):
        raise BenchError(f"{len(train.targets)} clips to train on, {len(valid.targets)} to validate; want some of both")
    probes = [_train(recipe, point, train, valid, num_classes, seed) for point in points or recipe.points()]
    return max(probes, key=lambda probe: probe.score)


def _train(recipe: Recipe, point: Point, train: Samples, valid: Samples, num_classes: int, seed: int) -> Probe:
    torch.manual_seed(seed)
    network = _network(recipe, point, train.features_ND.shape[1], num_classes)
    optimizer = torch.optim.Adam(network.parameters(), lr=point.lr)
    x, y = train.tensors()
    best = Probe(network, point, (-1.0, -np.inf), 0, y.ndim == 2)
    since = 0
    for epoch in range(1, recipe.epochs + 1):
        _pass(recipe, network, optimizer, x, y)
        if epoch % recipe.check_every:
            continue
        score = _score(network, valid)
        since += 1
        if score > best.score:
            best, since = Probe(deepcopy(network), point, score, epoch, best.many), 0
        if since >= recipe.patience:
            break
    return best


def _pass(recipe: Recipe, network: nn.Sequential, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    network.train()
    for numbers in torch.randperm(len(x)).split(recipe.batch_size):
        if recipe.batch_norm and len(numbers) < 2:
            continue  # one sample has no variance
        loss = _loss(network(x[numbers]), y[numbers])
        if recipe.l2:
            loss = loss + recipe.l2 * torch.stack([p.square().sum() for p in network.parameters() if p.ndim > 1]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(logits, targets) if targets.ndim == 2 else cross_entropy(logits, targets)


@torch.inference_mode()
def _score(network: nn.Module, valid: Samples) -> tuple[float, float]:
    x, y = valid.tensors()
    logits = network.eval()(x)
    right = 0.0 if y.ndim == 2 else float((logits.argmax(dim=1) == y).float().mean())
    return right, -float(_loss(logits, y))


def _network(recipe: Recipe, point: Point, dim: int, num_classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in point.hidden:
        layers.append(nn.Linear(dim, width))
        layers += [nn.BatchNorm1d(width)] if recipe.batch_norm else []
        layers += [nn.Dropout(recipe.dropout)] if recipe.dropout else []
        layers.append(nn.ReLU())
        dim = width
    layers.append(nn.Linear(dim, num_classes))
    draw = nn.init.xavier_normal_ if point.init == "xavier_normal" else nn.init.xavier_uniform_
    for layer in layers:
        if isinstance(layer, nn.Linear):
            draw(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)
