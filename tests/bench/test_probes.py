"""Probes: the recipes as published, what can be learned is, and what cannot stays at chance."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unibrivl.bench.errors import BenchError
from unibrivl.bench.probes import PROBES, Point, Samples, fit_probe

FEW = {name: [recipe.points()[-1]] for name, recipe in PROBES.items()}


def blobs(count: int, seed: int, *, spread: float = 0.5) -> Samples:
    """Return points around four corners of a square."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % 4
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=np.float32)
    return Samples(corners[targets] + rng.normal(0, spread, (count, 2)), targets)


def test_the_recipes_are_the_published_ones() -> None:
    """Sources: marl/l3embedding, classifier/train.py; hear-eval-kit, heareval/predictions/task_predictions.py."""
    l3, hear = PROBES["l3"], PROBES["hear"]
    assert l3.hidden == ((512, 128),) and l3.l2 == 1e-5 and l3.lrs[0] == 1e-4
    assert (l3.batch_size, l3.epochs, l3.patience) == (64, 100, 20)
    assert len(hear.points()) == 16 and {width for h in hear.hidden for width in h} == {1024}
    assert hear.lrs == (3.2e-3, 1e-3, 3.2e-4, 1e-4) and hear.dropout == 0.1 and hear.batch_norm
    assert (hear.batch_size, hear.epochs, hear.patience, hear.check_every) == (1024, 500, 20, 3)
    assert hear.grid_on_first_split and not l3.grid_on_first_split


@pytest.mark.parametrize("name", PROBES)
def test_what_can_be_learned_is(name: str) -> None:
    points = [Point(hidden=PROBES[name].hidden[0], lr=1e-3, init="xavier_uniform")]
    probe = fit_probe(PROBES[name], blobs(256, 0), blobs(64, 1), 4, points=points)
    test = blobs(400, 2)
    found = probe.predict(test.features_ND)
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert (found.argmax(axis=1) == test.targets).mean() > 0.9  # the best rule gets 0.955
    assert probe.as_dict()["lr"] == 1e-3 and probe.epoch >= 1


def test_labels_that_tell_nothing_give_chance() -> None:
    rng = np.random.default_rng(0)
    train, valid = (Samples(rng.normal(size=(n, 8)), rng.integers(0, 4, n)) for n in (128, 64))
    probe = fit_probe(PROBES["l3"], train, valid, 4, points=[Point(hidden=(32,), lr=1e-3, init="xavier_uniform")])
    test = Samples(rng.normal(size=(1000, 8)), rng.integers(0, 4, 1000))
    assert abs((probe.predict(test.features_ND).argmax(axis=1) == test.targets).mean() - 0.25) < 0.06  # 4 deviations


def test_the_validation_split_chooses_and_the_seed_decides_the_rest() -> None:
    """A rate so small that nothing is learned loses to one that learns."""
    points = [Point(hidden=(16,), lr=lr, init="xavier_uniform") for lr in (1e-9, 1e-2)]
    probe, again, other = (
        fit_probe(PROBES["l3"], blobs(128, 0), blobs(64, 1), 4, points=points, seed=seed) for seed in (0, 0, 1)
    )
    assert probe.point.lr == 1e-2
    x = blobs(8, 3).features_ND
    assert np.array_equal(probe.predict(x), again.predict(x)) and not np.array_equal(probe.predict(x), other.predict(x))


def test_a_sample_may_have_several_classes() -> None:
    def signs(count: int, seed: int) -> Samples:
        x = np.random.default_rng(seed).normal(size=(count, 2))
        return Samples(x, (x > 0).astype(np.float64))

    points = [Point(hidden=(16,), lr=1e-2, init="xavier_uniform")]
    probe = fit_probe(PROBES["l3"], signs(256, 0), signs(64, 1), 2, points=points)
    test = signs(400, 2)
    assert ((probe.predict(test.features_ND) > 0.5) == (test.targets > 0.5)).mean() > 0.95


def test_an_empty_split_is_refused() -> None:
    nothing = Samples(np.zeros((0, 2)), np.zeros(0, int))
    with pytest.raises(BenchError, match="8 clips to train on, 0 to validate"):
        fit_probe(PROBES["l3"], blobs(8, 0), nothing, 4)


def test_the_threads_of_the_machine_change_nothing() -> None:
    rng = np.random.default_rng(0)
    train, valid = (Samples(rng.normal(0, 1, (n, 128)), np.arange(n) % 10) for n in (240, 80))
    recipe = replace(PROBES["l3"], epochs=5, lrs=(1e-3,))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(fit_probe(recipe, train, valid, 10).predict(valid.features_ND))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*found)
