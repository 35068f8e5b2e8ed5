"""The model in training: momentum copies, queues and gradients go where they should, and nowhere else."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unibrivl.model import unibrivl
from unibrivl.model.image_augment import picture_rng
from unibrivl.model.images import ImageTower, Preprocessing
from unibrivl.model.loss import Candidates, LossConfig
from unibrivl.model.unibrivl import TRAINING_ONLY, UniBriVL

IMAGE_DIM = 6
SMALL = LossConfig(queue_size=16, dropout=0, hidden=12)
FORMS = [SMALL, dataclasses.replace(SMALL, in_batch=False), dataclasses.replace(SMALL, topk=2)]
FORM_NAMES = ["both", "queue alone", "topk"]
each_form = pytest.mark.parametrize("config", FORMS, ids=FORM_NAMES)


def equal(first_N: Tensor, second_M: Tensor) -> Tensor:
    return first_N[:, None] == second_M


def nobody(first_N: Tensor, second_M: Tensor) -> Tensor:
    return torch.zeros(len(first_N), len(second_M), dtype=torch.bool)


@pytest.fixture(autouse=True)
def _tower(tiny_tower: str) -> None:
    """Make the tiny tower known to every test."""


def make_model(config: LossConfig = SMALL, seed: int = 0) -> UniBriVL:
    torch.manual_seed(seed)
    return UniBriVL("tiny", {}, IMAGE_DIM, config)


def batch(seed: int, count: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, pictures and ids of clips of their own."""
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 1, 64, 24, generator=rng)
    return features, torch.randn(count, IMAGE_DIM, generator=rng), torch.arange(count) + 100 * seed


def step(model: UniBriVL, optimizer: torch.optim.Optimizer, seed: int) -> float:
    model.begin_step()
    terms = model.loss(*batch(seed), equal)
    optimizer.zero_grad()
    terms.total.backward()
    optimizer.step()
    model.end_step()
    return terms.total.item()


def sgd(model: UniBriVL) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)


def test_without_a_queue_there_are_no_copies() -> None:
    model = make_model(LossConfig(queue_size=0))
    assert not [name for name in model.state_dict() if name.startswith(TRAINING_ONLY)]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.eval()
    model.begin_step()
    model.loss(*batch(0), equal)
    model.end_step()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())


@each_form
def test_the_gradient_to_queues_copies_and_pictures_is_exactly_zero(config: LossConfig) -> None:
    model = make_model(config)
    step(model, sgd(model), 0)
    features, image, ids = batch(1)
    image.requires_grad_()
    for buffer in (model.queues.audio, model.queues.image):
        buffer.requires_grad_()
    model.begin_step()
    model.loss(features, image, ids, equal).total.backward()
    assert image.grad is None and model.queues.audio.grad is None and model.queues.image.grad is None
    frozen = {name for name, p in model.named_parameters() if p.grad is None}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(TRAINING_ONLY)}
    assert frozen and all(p.grad.any() for name, p in model.named_parameters() if name.startswith(("f.", "g.")))


@each_form
def test_queues_and_frozen_parts_stay_as_they_are_until_the_end_of_the_step(config: LossConfig) -> None:
    model = make_model(config)
    optimizer = sgd(model)
    step(model, optimizer, 0)
    before = {name: tensor.clone() for name, tensor in model.queues.state_dict().items()}
    model.begin_step()
    model.loss(*batch(1), equal).total.backward()
    optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.queues.state_dict().items())
    model.end_step()
    assert model.queues.ids[:8].tolist() == [0, 1, 2, 3, 100, 101, 102, 103] and model.queues.filled == 8


class SmallImageTower(ImageTower):
    """A convolution with a batch norm, which would follow its pictures if it were not frozen."""

    def __init__(self) -> None:
        layers = nn.Sequential(nn.Conv2d(3, IMAGE_DIM, 3), nn.BatchNorm2d(IMAGE_DIM))
        super().__init__("small", layers, Preprocessing(size_px=8, resize="bilinear"), dim=IMAGE_DIM, description={})

    def _encode(self, x_BCHW: Tensor) -> Tensor:
        return self.module(x_BCHW).mean(dim=(2, 3))


@each_form
def test_a_hundred_steps_change_nothing_in_the_image_tower(config: LossConfig) -> None:
    tower, model = SmallImageTower(), make_model(config)
    before = {name: tensor.clone() for name, tensor in tower.module.state_dict().items()}
    optimizer, rng = sgd(model), np.random.default_rng(0)
    for number in range(100):
        frames = rng.integers(0, 256, (4, 8, 8, 3), np.uint8)
        image_BV = torch.from_numpy(tower.embed(frames, [picture_rng(0, number, i) for i in range(4)]))
        features, _, ids = batch(number)
        model.begin_step()
        optimizer.zero_grad()
        model.loss(features, image_BV, ids, equal).total.backward()
        optimizer.step()
        model.end_step()
    assert {"1.running_mean", "1.running_var", "1.num_batches_tracked"} <= before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in tower.module.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in tower.module.parameters())
    assert not any(tensor.requires_grad for tensor in model.queues.buffers())


def test_copies_follow_parameters_and_not_buffers() -> None:
    model = make_model(dataclasses.replace(SMALL, momentum=0.9))
    optimizer = sgd(model)
    pairs = [(f"key_{name}", name) for name, p in model.named_parameters() if p.requires_grad and name != "log_scale"]
    assert len(pairs) == 4 + 4 + 4
    follow = {key: model.get_parameter(key).clone() for key, _ in pairs}
    for seed in range(3):
        for key, live in pairs:
            follow[key] = 0.9 * follow[key] + 0.1 * model.get_parameter(live).detach()
        step(model, optimizer, seed)
    for key in follow:
        # one float32 rounding a step
        torch.testing.assert_close(model.get_parameter(key).detach(), follow[key], rtol=1e-6, atol=1e-7)
    moved = [(key, live) for key, live in pairs if not torch.equal(model.get_parameter(key), model.get_parameter(live))]
    assert len(moved) == len(pairs)
    # the same sounds passed both batch norms once a step, so statistics of their inputs agree without a copy
    assert torch.equal(model.key_language.norm.running_mean, model.language.norm.running_mean)
    assert model.key_language.norm.num_batches_tracked == 3


def test_what_is_enqueued_are_the_copies_keys_and_the_pictures() -> None:
    model = make_model()
    optimizer = sgd(model)
    step(model, optimizer, 0)
    features, image, ids = batch(1)
    model.begin_step()
    with torch.no_grad():
        wanted = model.key_language.encode(features)
        assert not torch.equal(wanted, model.language.encode(features))
    model.loss(features, image, ids, equal)
    model.end_step()
    assert torch.equal(model.queues.audio[4:8], wanted) and torch.equal(model.queues.image[4:8], image)


def test_micro_batches_are_enqueued_together_and_a_step_given_up_is_forgotten() -> None:
    model = make_model()
    model.begin_step()
    model.loss(*batch(9), equal)
    model.begin_step()  # the last one never ended
    model.loss(*batch(1, 3), equal)
    model.loss(*batch(2, 2), equal)
    assert model.queues.filled == 0
    model.end_step()
    assert model.queues.ids[:6].tolist() == [100, 101, 102, 200, 201, -1]
    model.end_step()
    assert model.queues.filled == 5


@each_form
def test_a_loss_for_validation_leaves_no_keys(config: LossConfig) -> None:
    model = make_model(config)
    step(model, sgd(model), 0)
    model.eval()
    model.begin_step()
    assert math.isfinite(model.loss(*batch(1), equal).total.item())
    model.end_step()
    assert model.queues.filled == 4


def test_a_step_of_more_clips_than_the_queue_is_refused() -> None:
    model = make_model()
    model.begin_step()
    model.loss(*batch(0, 17), equal)
    with pytest.raises(ValueError, match="17 keys of one step do not fit a queue of 16"):
        model.end_step()


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=4), min_size=1, max_size=6),
    groups=st.integers(1, 6), in_batch=st.booleans(),
)  # fmt: skip
def test_no_related_clip_is_ever_a_negative(steps: list[list[int]], groups: int, in_batch: bool) -> None:
    """Neither in the batch nor in the queue, nor a clip's own key from before; and everybody else is one."""
    config = dataclasses.replace(SMALL, queue_size=7, in_batch=in_batch)
    model, seen, chosen = _MODELS.setdefault(config, make_model(config)), [], []
    model.queues.load_state_dict(make_model(config).queues.state_dict())
    with pytest.MonkeyPatch.context() as patch:
        real = unibrivl.choose_candidates
        patch.setattr(unibrivl, "choose_candidates", lambda *args: chosen.append(real(*args)) or chosen[-1])
        for ids in steps:
            model.begin_step()
            features, image, _ = batch(0, len(ids))
            model.loss(features, image, torch.tensor(ids), lambda x, y: (x[:, None] % groups == y % groups) & (y >= 0))
            rows: Candidates = chosen.pop()
            slots = model.queues.ids.tolist()
            assert sorted(slots) == sorted([*seen[-7:], *[-1] * (7 - len(seen))])
            columns = [*(ids if in_batch else [None]), *slots]
            for row, own in enumerate(ids):
                for column, other in enumerate(columns):
                    is_target = column == rows.target_B[row]
                    allowed = is_target or (other is not None and other >= 0 and other % groups != own % groups)
                    assert rows.barred_BC[row, column] == (not allowed)
            model.end_step()
            seen += ids


_MODELS: dict[LossConfig, UniBriVL] = {}


def test_a_clip_is_related_to_itself_whatever_the_relation_says() -> None:
    model = make_model()
    features, image, _ = batch(0)
    ids = torch.tensor([7, 7, 8, 9])
    model.begin_step()
    assert model.loss(features, image, ids, nobody).candidates.item() == pytest.approx((3 * 3 * 4 * 4) ** 0.25)
    model.end_step()
    model.begin_step()
    assert model.loss(features, image, ids, nobody).candidates.item() == pytest.approx((5 * 5 * 7 * 7) ** 0.25)


@pytest.mark.parametrize(("config", "candidates"), [(SMALL, 4 + 16), (FORMS[1], 1 + 16)], ids=FORM_NAMES[:2])
def test_a_collapsed_model_sits_at_its_level(config: LossConfig, candidates: int) -> None:
    model = make_model(dataclasses.replace(config, momentum=0))
    with torch.no_grad():
        for module in (model.language.layer, model.f[3], model.g[3]):
            module.weight.zero_()
            module.bias.fill_(1)
    ones = torch.ones(4, IMAGE_DIM)
    for seed in range(5):
        model.begin_step()
        features, _, ids = batch(seed)
        terms = model.loss(features, ones, ids, equal)
        model.end_step()
    assert terms.candidates.item() == pytest.approx(candidates)
    assert terms.per_direction.item() == pytest.approx(math.log(candidates), abs=1e-5)


def test_a_queue_adds_to_what_the_batch_teaches() -> None:
    """While the queue is empty, the loss is the one without it."""
    model, plain = make_model(), make_model(dataclasses.replace(SMALL, queue_size=0))
    first = [m.loss(*batch(0), equal) for m in (model, plain)]
    assert torch.equal(first[0].total, first[1].total) and first[0].candidates == 4
    model.begin_step()
    model.loss(*batch(1), equal)
    model.end_step()
    again = model.loss(*batch(0), equal)
    assert again.total > first[0].total and again.candidates.item() == pytest.approx(8)


def test_fewer_filled_slots_than_topk_is_no_trouble() -> None:
    model = make_model(dataclasses.replace(SMALL, topk=16))
    for seed in range(2):
        assert math.isfinite(step(model, sgd(model), seed))


@each_form
def test_the_state_dict_is_all_there_is(config: LossConfig) -> None:
    model = make_model(config)
    optimizer = sgd(model)
    for seed in range(5):
        step(model, optimizer, seed)
    other = make_model(config, seed=1)
    other.load_state_dict(model.state_dict(), strict=True)
    assert [step(other, sgd(other), seed) for seed in (5, 6)] == [step(model, optimizer, seed) for seed in (5, 6)]
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_the_fingerprint_knows_nothing_of_queues_and_copies() -> None:
    model, plain = make_model(), make_model(dataclasses.replace(SMALL, queue_size=0))
    assert model.fingerprint() == plain.fingerprint()
    before = model.fingerprint()
    with torch.no_grad():
        for name in TRAINING_ONLY:
            for tensor in model.get_submodule(name).state_dict().values():
                tensor.add_(1)
    assert model.fingerprint() == before
    assert model.describe() == plain.describe()


def test_copied_projections_stay_in_eval_mode_and_the_copied_tower_trains() -> None:
    model = make_model()
    for mode in (True, False, True):
        model.train(mode)
        assert (model.key_language.training, model.key_f.training, model.key_g.training) == (mode, False, False)


def test_copies_are_made_anew_after_weights_were_loaded() -> None:
    model = make_model()
    model.language.load_state_dict(make_model(seed=1).language.state_dict())
    assert not torch.equal(model.key_language.layer.weight, model.language.layer.weight)
    model.reset_keys()
    assert torch.equal(model.key_language.layer.weight, model.language.layer.weight)
    assert not any(p.requires_grad for p in model.key_language.parameters())


def test_temperatures_stay_fixed_or_are_learned_within_their_bound() -> None:
    fixed = make_model(dataclasses.replace(SMALL, learned_temperature=False, temperature=0.1))
    step(fixed, sgd(fixed), 0)
    assert fixed.log_scale.exp().tolist() == pytest.approx([10, 10])
    learned = make_model()
    step(learned, sgd(learned), 0)
    assert not torch.equal(learned.log_scale, make_model().log_scale)
    with torch.no_grad():
        learned.log_scale.fill_(9)
    learned.end_step()
    assert learned.log_scale.exp().tolist() == pytest.approx([100, 100])
    learned.loss(*batch(1), equal).total.backward()
    assert learned.log_scale.grad.all()  # at the bound it may still come down


def test_the_loss_is_float32_under_autocast_and_so_are_the_queues() -> None:
    model = make_model()
    model.begin_step()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = model.loss(*batch(0), equal)
    terms.total.backward()
    model.end_step()
    assert terms.total.dtype == terms.audio_space.dtype == torch.float32
    assert model.queues.audio.dtype == torch.float32 and model.queues.audio[:4].any()
