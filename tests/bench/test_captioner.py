"""The decoder: beams against every possible caption, causality, and training that goes on where it was."""

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from unibrivl.bench import captioner_train
from unibrivl.bench.captioner import PRESETS, Captioner, CaptionerConfig
from unibrivl.bench.captioner_train import TRAINING_FILE, CaptionData, Place, train_captioner
from unibrivl.bench.captions import BOS, EOS, PAD, UNK
from unibrivl.bench.errors import BenchError

TINY = CaptionerConfig(
    dim=16, layers=2, heads=2, feedforward=32, dropout=0.2, lr=1e-2, schedule="cosine", weight_decay=0.1, batch_size=4,
    epochs=4, patience=4, label_smoothing=0.1, mixup=0.4, every_caption=False, beam=2, max_words=3,
)  # fmt: skip
NUM_WORDS, DIM = 7, 5


class StopError(Exception):
    pass


def features(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((1 + n % 3, DIM)).astype(np.float32) for n in range(count)]


def data(count: int, seed: int) -> CaptionData:
    rng = np.random.default_rng(seed)
    captions = [[[BOS, *rng.integers(4, NUM_WORDS, 1 + c % 3).tolist(), EOS] for c in range(5)] for _ in range(count)]
    return CaptionData(features(count, seed), captions)


def model(**changes: int) -> Captioner:
    torch.manual_seed(3)
    made = Captioner(dataclasses.replace(TINY, **changes), DIM, NUM_WORDS).eval()
    torch.nn.init.normal_(made.out.weight, std=1.0)  # so that captions differ in what they are worth
    return made


def log_probability(network: Captioner, clip: np.ndarray, words: list[int]) -> float:
    """Return the mean log probability a word, `EOS` counted, among words that may be written."""
    scaled, is_pad = network.prepared([clip])
    with torch.no_grad():
        logits = network(scaled, is_pad, network.embed_words(torch.tensor([[BOS, *words[:-1]]])))[0]
    logits[:, [PAD, BOS, UNK]] = -torch.inf
    return float(logits.log_softmax(dim=1)[range(len(words)), words].mean())


@pytest.mark.parametrize("min_words", [0, 2])
def test_enough_beams_find_the_best_of_all_captions(min_words: int) -> None:
    network = model(beam=64, min_words=min_words)
    every = [
        [*words, EOS]
        for count in range(min_words, TINY.max_words + 1)
        for words in itertools.product((*range(4, NUM_WORDS),), repeat=count)
    ]
    clips = features(6)
    for clip, written in zip(clips, network.write(clips), strict=True):
        assert written == max(every, key=lambda words: log_probability(network, clip, words))


def test_one_beam_takes_the_likeliest_word_each_time() -> None:
    network, clip = model(beam=1), features(1)[0]
    (written,) = network.write([clip])
    scaled, is_pad = network.prepared([clip])
    for n, word in enumerate(written[: TINY.max_words]):
        with torch.no_grad():
            logits = network(scaled, is_pad, network.embed_words(torch.tensor([[BOS, *written[:n]]])))[0, -1]
        logits[[PAD, BOS, UNK, *([EOS] if n < TINY.min_words else [])]] = -torch.inf
        assert word == int(logits.argmax())


def test_a_caption_does_not_depend_on_the_clips_beside_it() -> None:
    network, clips = model(), features(7)
    together = network.write(clips)
    assert together == [network.write([clip])[0] for clip in clips]
    assert network.write(clips[::-1]) == together[::-1]
    assert len({tuple(words) for words in together}) > 1  # and it does depend on the clip


def test_a_word_does_not_know_those_after_it() -> None:
    network = model()
    scaled, is_pad = network.prepared(features(1))
    first, second = (network(scaled, is_pad, network.embed_words(torch.tensor([[BOS, 4, w]]))) for w in (5, 6))
    assert torch.equal(first[:, :2], second[:, :2]) and not torch.allclose(first[:, 2], second[:, 2])


def test_features_are_brought_to_one_scale() -> None:
    network, clips = model(), [1000 + 50 * clip for clip in features(30)]
    clips = [np.concatenate([clip, np.full((len(clip), 1), 7.0)], axis=1)[:, 1:] for clip in clips]  # one is constant
    network.fit_scale(clips)
    scaled, is_pad = network.prepared(clips)
    rows = scaled[~is_pad]
    assert rows.mean(dim=0).abs().max() < 1e-3  # float32 of numbers around 1000
    assert rows.std(dim=0, correction=0)[:-1] == pytest.approx(1, abs=1e-3)
    assert not rows[:, -1].any() and not scaled[is_pad].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beam": 0}, "beam is 0"),
        ({"min_words": 4}, "min_words is 4, want 0 to 3"),
        ({"heads": 3}, "dim is 16, want an even multiple of heads, 3"),
        ({"schedule": "step"}, "schedule is 'step', want one of constant, cosine"),
        ({"dropout": math.nan}, "dropout is nan"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


def test_the_presets_are_the_published_ones() -> None:
    old, new = PRESETS["dcase2020"], PRESETS["dcase2024"]
    assert (old.dim, old.dropout, old.max_words, old.lr, old.batch_size, old.epochs, old.patience, old.beam) == (
        256, 0.25, 22, 1e-4, 16, 300, 10, 1,
    )  # fmt: skip
    assert (new.dim, new.layers, new.beam, new.label_smoothing, new.mixup, new.epochs, new.weight_decay) == (
        256, 6, 3, 0.2, 0.4, 400, 2.0,
    )  # fmt: skip


def train(
    work: Path | None, config: CaptionerConfig = TINY, seed: int = 1, stop: int = 0, train_seed: int = 5
) -> tuple[Captioner, Place]:
    def watch(done: int, total: int, text: str) -> None:
        if done == stop:
            raise StopError

    return train_captioner(config, NUM_WORDS, data(9, train_seed), data(3, 6), seed=seed, work=work, progress=watch)


def same(first: Captioner, second: Captioner) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("stops", [(1,), (2, 3), (4,)])
def test_training_that_was_stopped_is_bit_for_bit_an_undisturbed_one(
    tmp_path: Path, stops: tuple[int, ...], every: bool
) -> None:
    config = dataclasses.replace(TINY, every_caption=every, mixup=0.0 if every else 0.4)
    undisturbed, place = train(None, config)
    for stop in stops:
        with pytest.raises(StopError):
            train(tmp_path / "work", config, stop=stop)
    resumed, resumed_place = train(tmp_path / "work", config)
    assert same(undisturbed, resumed) and place == resumed_place and place.epoch == TINY.epochs
    again, _ = train(tmp_path / "work", config)
    assert same(again, resumed)
    other, _ = train(None, config, seed=2)
    assert not same(other, undisturbed)


def test_a_batch_is_learnt_in_parts_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(TINY, mixup=0.0, dropout=0.0, epochs=1, batch_size=9, weight_decay=0.0)
    whole, _ = train(None, config)
    monkeypatch.setattr(captioner_train, "AT_ONCE", 2)
    parts, _ = train(None, config)
    for one, other in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        assert torch.allclose(one, other, atol=2e-3)  # Adam's first step is the rate, 1e-2, by a gradient's sign
    assert not same(whole, parts)


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StopError):
        train(tmp_path / "work", stop=1)
    rewrite(tmp_path / "work" / TRAINING_FILE, lambda tensors, metadata: told(metadata, format=9))
    with pytest.raises(BenchError, match="format 9, this program reads 1; delete it"):
        train(tmp_path / "work")


def test_the_epoch_with_the_least_validation_loss_counts_and_patience_ends_it() -> None:
    config = dataclasses.replace(TINY, epochs=60, patience=3, lr=5e-2, schedule="constant", mixup=0.0, dropout=0.0)
    best, place = train(None, config)
    losses = [valid for _, valid in place.losses]
    assert place.best_epoch == 1 + int(np.argmin(losses)) and place.epoch == place.best_epoch + 3 < 60
    shorter, _ = train(None, dataclasses.replace(config, epochs=place.best_epoch))
    assert same(best, shorter)


def test_a_loss_that_is_no_number_is_told(tmp_path: Path) -> None:
    broken = CaptionData([np.full((1, DIM), 1e30, np.float32), *features(3)], data(4, 5).captions)
    broken.features[0][0, 0] = np.nan
    with pytest.raises(BenchError, match="the loss became nan in epoch 1"):
        train_captioner(TINY, NUM_WORDS, broken, data(3, 6), seed=0, work=tmp_path / "work")


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StopError):
        train(tmp_path / "work", stop=1)
    changes: list[tuple[Callable[[], object], str]] = [
        (lambda: train(tmp_path / "work", seed=2), "with other seed"),
        (lambda: train(tmp_path / "work", dataclasses.replace(TINY, lr=1e-3)), "with other lr"),
        (lambda: train(tmp_path / "work", train_seed=7), "with other features or captions"),
    ]
    for change, message in changes:
        with pytest.raises(BenchError, match=f"{message}; give the same options and data, or delete it"):
            change()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(BenchError, match=f"holds other files and no {TRAINING_FILE}"):
        train(tmp_path / "mine")


def test_a_damaged_file_is_refused_and_a_half_written_one_cleared(tmp_path: Path) -> None:
    work = tmp_path / "work"
    with pytest.raises(StopError):
        train(work, stop=1)
    path, whole = work / TRAINING_FILE, (work / TRAINING_FILE).read_bytes()
    leftover = work / f".{TRAINING_FILE}.tmp-1-aa"
    leftover.touch()
    damages: list[Callable[[], object]] = [
        lambda: path.write_bytes(whole[:100]),
        lambda: path.write_bytes(b""),
        lambda: rewrite(path, lambda tensors, metadata: tensors.pop("model.out.bias")),
        lambda: rewrite(path, lambda tensors, metadata: tensors.update({"optimizer.out.bias.exp_avg": torch.ones(1)})),
        lambda: rewrite(path, lambda tensors, metadata: told(metadata, place={"epochs": 1})),
        lambda: rewrite(path, lambda tensors, metadata: told(metadata, about=None)),
    ]
    for damage in damages:
        damage()
        with pytest.raises(BenchError, match="damaged; delete it to train again"):
            train(work)
        path.write_bytes(whole)
    assert not leftover.exists()
    train(work)
    assert [file.name for file in work.iterdir()] == [TRAINING_FILE]


def told(metadata: dict[str, str], **changes: object) -> None:
    metadata["unibrivl"] = json.dumps(json.loads(metadata["unibrivl"]) | changes)


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, str]], object]) -> None:
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, path, metadata)
