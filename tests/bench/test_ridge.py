"""The linear control: its closed forms against plain ones, and what it can and cannot find."""

import numpy as np
import pytest

from unibrivl.bench import ridge
from unibrivl.bench.ridge import fit_ridge, mean_log_mel


def made_up(num: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((num, 6)) * [1, 5, 0.1, 2, 3, 1] + 7
    images = features @ rng.standard_normal((6, 9)) + noise * rng.standard_normal((num, 9)) + 3
    return features, images


def test_a_linear_relation_is_found() -> None:
    features, images = made_up(80, noise=0)
    mapped = fit_ridge(features[:60], images[:60])(features[60:])
    wanted = images[60:] / np.linalg.norm(images[60:], axis=1, keepdims=True)
    assert np.abs(mapped - wanted).max() < 1e-3  # the least strength tried is not 0
    assert np.linalg.norm(mapped, axis=1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("noise", [0.1, 10.0, 1000.0])
def test_the_strength_is_that_with_the_least_error_when_each_clip_is_left_out(
    noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, images = made_up(25, noise)
    found = fit_ridge(features, images)
    x = (features - found.mean_F) / found.deviation_F

    def left_out(strength: float) -> float:
        error = 0.0
        for n in range(len(x)):
            kept = np.arange(len(x)) != n
            # the same standardisation for all, as in the closed form; the offset is fitted with the weights
            a = np.hstack([x[kept], np.ones((len(x) - 1, 1))])
            penalty = strength * np.diag([1.0] * x.shape[1] + [0.0])
            weights = np.linalg.solve(a.T @ a + penalty, a.T @ images[kept])
            error += float(((images[n] - np.append(x[n], 1) @ weights) ** 2).sum())
        return error

    errors = {strength: left_out(strength) for strength in ridge.STRENGTHS}
    assert found.strength == min(errors, key=errors.__getitem__)


def test_noise_asks_for_more_strength() -> None:
    assert fit_ridge(*made_up(40, 1000.0)).strength > fit_ridge(*made_up(40, 0.1)).strength


def test_the_mean_spectrum_tells_tones_apart_and_not_their_order() -> None:
    time = np.arange(16_000) / 16_000
    low, high = (np.sin(2 * np.pi * f * time).astype(np.float32) for f in (300, 3000))
    first, second, both, turned = mean_log_mel([low, high, np.append(low, high), np.append(high, low)])
    assert first.shape == (ridge.NUM_MELS,) and first.argmax() < second.argmax()
    assert np.abs(both - turned).max() < 0.3 < np.abs(first - second).max()
