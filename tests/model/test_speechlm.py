"""SpeechLM: the original's numbers, and what must hold for networks of any size."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from unibrivl.model.errors import CheckpointError, TextError
from unibrivl.model.speechlm import SPEECHLM_BASE, SPEECHLM_LARGE, SpeechLM, SpeechLMConfig, frame_padding, random_spans
from unibrivl.model.speechlm_layers import NormedConv, relative_bias, relative_index

NO_DROPOUT: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0, "input_dropout": 0.0, "layerdrop": 0.0}
CONV = ((8, 10, 5), (8, 3, 2), (12, 3, 2), (12, 2, 2))
"""60 samples make the first frame and 40 every further one: sizes unlike those of the reference files."""
POST = SpeechLMConfig(
    conv_layers=CONV, dim=24, ffn_dim=20, heads=3, speech_layers=3, shared_layers=1, conv_pos=7, conv_pos_groups=4,
    max_distance=6, positions=30, vocabulary=11, final_dim=5, label_classes=(11,), ctc_classes=4, mask_length=4,
    **NO_DROPOUT,
)  # fmt: skip
PRE = dataclasses.replace(
    POST, conv_norm="layer", conv_bias=True, dim=32, heads=2, conv_pos=8, pre_norm=True, normalize=True, shared_layers=2
)
both_orders = pytest.mark.parametrize("config", [POST, PRE], ids=["post-norm", "pre-norm"])


def network(config: SpeechLMConfig, seed: int = 0) -> SpeechLM:
    torch.manual_seed(seed)
    return SpeechLM(config).eval()


def sound(batch: int, samples: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=["base", "large"])
def reference(request: pytest.FixtureRequest, folder) -> tuple[dict[str, Tensor], SpeechLM]:
    """Return a reference file's tensors and our network with its weights."""
    path: Path = folder("reference") / f"speechlm_{request.param}_tiny.safetensors"
    with safe_open(path, "pt") as file:
        cfg = json.loads(file.metadata()["cfg"])
    tensors = load_file(path)
    weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    model = SpeechLM(SpeechLMConfig.from_fairseq(cfg, {name: tuple(t.shape) for name, t in weights.items()}))
    found = model.load_state_dict(weights, strict=False)
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    return tensors, model.eval()


def assert_same(found: Tensor, expected: Tensor, real: Tensor | None = None) -> None:
    """Compare real frames; 1e-5 is what the reference's README asks for, and both sides are float32 on a CPU."""
    real = torch.ones(expected.shape[:2], dtype=torch.bool) if real is None else real
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_every_layer_of_sound_is_the_originals(reference: tuple[dict[str, Tensor], SpeechLM]) -> None:
    tensors, model = reference
    states = model.speech(tensors["io.wav"], tensors["io.wav_padding_mask"])
    assert torch.equal(states.padding_BN, tensors["io.frame_padding_mask"]) and states.padding_BN.any()
    assert len(states.layers) == sum(name.startswith("io.speech_layer.") for name in tensors)
    for number, state in enumerate(states.layers):
        assert_same(state, tensors[f"io.speech_layer.{number}"], ~states.padding_BN)
    assert_same(states.last, tensors["io.speech_last"], ~states.padding_BN)
    assert_same(model.speech(tensors["io.wav"][:1]).last, tensors["io.single_last"])


@torch.inference_mode()
def test_every_layer_of_text_is_the_originals(reference: tuple[dict[str, Tensor], SpeechLM]) -> None:
    tensors, model = reference
    states, real = model.text(tensors["io.units"]), tensors["io.units"] != 1
    assert_same(states.embedded, tensors["io.text_state.0"], real)
    for number, state in enumerate(states.layers, start=1):
        assert_same(state, tensors[f"io.text_state.{number}"], real)
    assert_same(states.last, tensors["io.text_last"], real)
    assert (~real).any() and f"io.text_state.{len(states.layers) + 1}" not in tensors


@pytest.mark.parametrize(
    ("config", "parameters", "tensors"), [(SPEECHLM_BASE, 97_136_256, 245), (SPEECHLM_LARGE, 319_082_112, 475)]
)
def test_the_presets_have_the_size_of_the_cleaned_checkpoints(
    config: SpeechLMConfig, parameters: int, tensors: int
) -> None:
    with torch.device("meta"):
        model = SpeechLM(config)
    assert sum(p.numel() for p in model.parameters()) == parameters
    state = model.state_dict()
    assert len(state) == tensors
    assert state["encoder.pos_conv.0.weight_g"].shape == (1, 1, 128)
    assert state["unit_encoder.embed_positions.weight"].shape == (3002, config.dim)
    assert ("unit_encoder.layer_norm.weight" in state) == config.pre_norm


def test_a_full_checkpoint_has_a_place_for_each_tensor() -> None:
    full = dataclasses.replace(SPEECHLM_BASE, vocabulary=369, label_classes=(369, 369), ctc_classes=33)
    with torch.device("meta"):
        added = {name: tuple(t.shape) for name, t in SpeechLM(full).state_dict().items()}
        for name in SpeechLM(SPEECHLM_BASE).state_dict():
            del added[name]
    assert added == {
        "unit_embed_tokens.weight": (369, 768), "label_embs_list.0": (369, 256), "label_embs_list.1": (369, 256),
        "unit_encoder_ctc_head.1.weight": (768, 768, 2), "unit_encoder_ctc_head.3.2.weight": (768,),
        "unit_encoder_ctc_head.3.2.bias": (768,), "unit_encoder_ctc_head.5.weight": (33, 768),
        "unit_encoder_ctc_head.5.bias": (33,),
    }  # fmt: skip


@pytest.mark.parametrize(("samples", "frames"), [(160_000, 499), (400, 1), (719, 1), (720, 2), (16_000, 49)])
def test_ten_seconds_are_499_frames_and_400_samples_are_one(samples: int, frames: int) -> None:
    config = dataclasses.replace(SPEECHLM_BASE, conv_layers=[(2, k, s) for _, k, s in SPEECHLM_BASE.conv_layers])
    assert config.num_frames(samples) == frames and config.min_samples == 400
    small = dataclasses.replace(config, dim=8, ffn_dim=4, heads=2, conv_pos_groups=2, speech_layers=1, shared_layers=1)
    with torch.inference_mode():
        states = network(small).speech(sound(1, samples))
    assert [state.shape for state in states.layers] == [(1, frames, 8)] * 2


@both_orders
def test_too_little_sound_is_refused(config: SpeechLMConfig) -> None:
    model = network(config)
    with torch.inference_mode():
        assert model.speech(sound(1, config.min_samples)).last.shape == (1, 1, config.dim)
    assert config.num_frames(config.min_samples) == 1 and config.num_frames(config.min_samples - 1) == 0
    with pytest.raises(ValueError, match=f"{config.min_samples - 1} samples make no frame, want at least"):
        model.speech(sound(1, config.min_samples - 1))


def dense_bias(q_BHNE: Tensor, table_RE: Tensor, max_distance: int) -> Tensor:
    """The definition: a vector for each pair of frames, then its product with the query."""
    frames = q_BHNE.shape[2]
    vectors = torch.stack([
        torch.stack([table_RE[min(max(i - j, -max_distance), max_distance - 1) + max_distance] for j in range(frames)])
        for i in range(frames)
    ])  # fmt: skip
    return torch.einsum("bhie,ije->bhij", q_BHNE, vectors)


@settings(max_examples=40, deadline=None)
@given(frames=st.integers(1, 24), heads=st.integers(1, 4), width=st.integers(1, 9), max_distance=st.integers(1, 12),
       seed=st.integers(0, 2**31))  # fmt: skip
def test_the_gathered_bias_is_the_dense_one(frames: int, heads: int, width: int, max_distance: int, seed: int) -> None:
    q = torch.randn(2, heads, frames, width, generator=seeded(seed)).double().requires_grad_()
    table = torch.randn(2 * max_distance, width, generator=seeded(seed + 1)).double().requires_grad_()
    upstream = torch.randn(2, heads, frames, frames, generator=seeded(seed + 2)).double()
    gathered = relative_bias(q, table, relative_index(frames, max_distance))
    dense = dense_bias(q, table, max_distance)
    torch.testing.assert_close(gathered, dense)
    for ours, theirs in zip(
        torch.autograd.grad(gathered, (q, table), upstream), torch.autograd.grad(dense, (q, table), upstream),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(ours, theirs)


def test_the_positional_convolution_is_torchs_weight_norm() -> None:
    torch.manual_seed(0)
    ours = NormedConv(8, 5, 2)
    theirs = torch.nn.Conv1d(8, 8, 5, padding=2, groups=2)
    torch.nn.utils.parametrizations.weight_norm(theirs, dim=2)
    with torch.no_grad():
        ours.weight_g.mul_(torch.rand(1, 1, 5) + 0.5)
        theirs.parametrizations.weight.original0.copy_(ours.weight_g)
        theirs.parametrizations.weight.original1.copy_(ours.weight_v)
        theirs.bias.copy_(ours.bias.normal_())
    x = sound(3, 8 * 11).reshape(3, 8, 11)
    torch.testing.assert_close(ours(x), theirs(x))


def test_pre_norm_networks_with_layer_norms_ignore_padding() -> None:
    model = network(PRE)
    samples = PRE.min_samples + 19 * PRE.samples_per_frame  # 20 frames
    total = 1259  # 30 frames of 41 samples, so that the clip's last sample is in its last frame's share
    clip = sound(1, samples)
    padded = torch.zeros(2, total)
    padded[0, :samples], padded[1] = clip[0], sound(1, total, seed=1)[0]
    padding = torch.arange(total).expand(2, -1) >= torch.tensor([[samples], [total]])
    with torch.inference_mode():
        alone = model.speech(model.waveform(clip))
        together = model.speech(model.waveform(padded, padding), padding)
    assert (~together.padding_BN).sum(dim=1).tolist() == [20, 30] and together.last.isfinite().all()
    for ours, theirs in zip([*together.layers, together.last], [*alone.layers, alone.last], strict=True):
        # the same sums over other numbers of terms, in float32
        torch.testing.assert_close(ours[:1, :20], theirs, rtol=0, atol=2e-5)


@both_orders
def test_padded_text_is_the_same_text(config: SpeechLMConfig) -> None:
    model = network(config)
    units = torch.tensor([[4, 4, 5, 9, 2]])
    padded = torch.tensor([[4, 4, 5, 9, 2, 1, 1], [3, 6, 6, 6, 7, 8, 8]])
    with torch.inference_mode():
        alone, together = model.text(units).last, model.text(padded).last
    torch.testing.assert_close(together[:1, :5], alone, rtol=0, atol=1e-5)
    assert not torch.allclose(alone[:, 0], alone[:, 1], atol=1e-3)  # positions tell equal units apart


def test_text_without_a_unit_embedding_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no unit embedding; text needs those of a full checkpoint"):
        network(dataclasses.replace(POST, vocabulary=0)).text(torch.tensor([[4]]))


def test_units_beyond_the_vocabulary_are_refused() -> None:
    with pytest.raises(TextError, match="unit 11 is not among the network's 11; use its own vocabulary"):
        network(POST).text(torch.tensor([[4, 11, 1]]))


def test_frames_beyond_the_last_position_share_it() -> None:
    model = network(dataclasses.replace(POST, positions=3))
    x = torch.zeros(1, 6, POST.dim)
    embedded = model.unit_encoder.embed(x, torch.tensor([[False, True, False, False, False, False]]))[0]
    assert not embedded[1].any()
    assert not torch.equal(embedded[0], embedded[2]) and not torch.equal(embedded[2], embedded[3])
    assert torch.equal(embedded[3], embedded[4]) and torch.equal(embedded[4], embedded[5])


@both_orders
def test_waveforms_are_normalised_where_the_network_asks(config: SpeechLMConfig) -> None:
    audio = 3 + 5 * sound(2, 2000)
    found = network(config).waveform(audio)
    if not config.normalize:
        assert torch.equal(found, audio)
        return
    padding = torch.zeros(2, 2000, dtype=torch.bool)
    torch.testing.assert_close(network(config).waveform(audio, padding), found, rtol=0, atol=1e-5)
    padding[1, 700:] = True
    padded = network(config).waveform(audio, padding)
    torch.testing.assert_close(padded[1:, :700], network(config).waveform(audio[1:, :700]), rtol=0, atol=1e-5)
    assert not padded[1, 700:].any()


def test_frames_are_padding_when_all_of_their_samples_are() -> None:
    padding = torch.tensor([[False] * 7 + [True] * 4, [False] * 4 + [True] * 7])
    assert frame_padding(padding, 3).tolist() == [[False, False, False], [False, False, True]]


@given(real=st.integers(1, 120), surplus=st.integers(0, 30), prob=st.floats(0, 1), length=st.integers(1, 12),
       seed=st.integers(0, 2**31))  # fmt: skip
def test_spans_are_whole_and_within_the_clip(real: int, surplus: int, prob: float, length: int, seed: int) -> None:
    mask = random_spans(real, real + surplus, prob, length, seeded(seed))
    assert torch.equal(mask, random_spans(real, real + surplus, prob, length, seeded(seed)))
    assert mask.shape == (real + surplus,) and not mask[real:].any()
    if real > length:
        assert length <= mask.sum() <= length * max(2, int(prob * real / length) + 1)
        runs = "".join("x" if value else " " for value in mask.tolist()).split()
        assert min(map(len, runs)) >= length
    else:
        assert not mask.any()


def test_about_half_of_the_frames_are_masked() -> None:
    """Starts at 0.08 of the frames, ten frames each: 1 - (1 - 0.08)^10 = 0.57 of the frames, if starts were free."""
    generator = seeded()
    shares = [random_spans(499, 499, 0.8, 10, generator).float().mean().item() for _ in range(200)]
    assert sum(shares) / 200 == pytest.approx(0.56, abs=0.02)


@both_orders
def test_training_is_random_by_its_generator_alone(config: SpeechLMConfig) -> None:
    config = dataclasses.replace(config, layerdrop=0.4)
    model = network(config).train()
    audio, targets = sound(2, 3000), torch.full((2, config.num_frames(3000)), 5)
    found = {}
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        torch.manual_seed(seed + len(found))  # torch's own generator must not matter: there is no dropout
        found[name] = model.speech(audio, targets_BN=targets, generator=seeded(seed)).last
    assert torch.equal(found["first"], found["again"]) and not torch.equal(found["first"], found["other"])
    before = torch.random.get_rng_state()
    model.speech(audio, targets_BN=targets, generator=seeded())
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.inference_mode():
        calm = model.eval().speech(audio, targets_BN=targets, generator=seeded())
        assert torch.equal(calm.last, model.speech(audio).last)  # in eval mode nothing is masked, swapped or dropped


def test_dropout_and_defaults_draw_from_torchs_own_generator() -> None:
    model = network(dataclasses.replace(POST, dropout=0.2, layerdrop=0.2)).train()
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(model.speech(sound(2, 3000)).last)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_dropped_layer_hands_on_what_it_got() -> None:
    model = network(dataclasses.replace(POST, layerdrop=1.0, mask_prob=0.0)).train()
    states = model.speech(sound(1, 3000))
    assert len(states.layers) == 4
    assert torch.equal(states.layers[0], states.layers[2]) and torch.equal(states.layers[3], states.embedded)
    states.last.square().sum().backward()
    passed = [*model.encoder.layers.parameters(), *model.encoder.pos_emb.parameters()]
    assert all(p.grad is not None and not p.grad.any() for p in passed)
    assert model.post_extract_proj.weight.grad.any()


def test_swapped_frames_get_the_targets_embeddings() -> None:
    model = network(dataclasses.replace(POST, mask_prob=0.8)).train()
    frames = POST.num_frames(6000)
    hidden = torch.zeros(2, frames, POST.dim)
    targets = torch.full((2, frames), 7)
    masked = torch.zeros(2, frames, dtype=torch.bool)
    masked[:, ::2] = True
    padding = torch.zeros(2, frames, dtype=torch.bool)
    padding[1, 20:] = True
    swapped = model._swap(hidden, targets, padding, masked, seeded())
    changed = (swapped != 0).any(dim=-1)
    assert torch.equal(swapped[changed], model.unit_embed_tokens.weight[7].expand(int(changed.sum()), -1))
    assert changed.any(dim=1).all() and not (changed & (masked | padding)).any()
    freely = (model._swap(hidden, targets, None, None, seeded()) != 0).any(dim=-1).sum(dim=1)
    # half as many frames as are masked, in spans of half the length: at most 0.4 of them, and two for rounding
    assert (freely > 4).all() and (freely <= 0.4 * frames + 2).all()
    with pytest.raises(ValueError, match=r"targets have the shape \(2, 3\), want"):
        model.speech(sound(2, 6000), targets_BN=targets[:, :3])


@both_orders
def test_gradients_reach_all_that_sound_passes(config: SpeechLMConfig) -> None:
    model = network(dataclasses.replace(config, feature_grad_mult=0.5)).train()
    model.speech(sound(2, 3000), generator=seeded()).last.square().sum().backward()
    without = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is None}
    assert without - {"encoder", "unit_encoder"} == {
        "final_proj_list", "label_embs_list", "unit_embed_tokens", "unit_encoder_ctc_head"
    }  # fmt: skip
    missing = [name for name, p in model.named_parameters() if p.grad is None and name.startswith(("enc", "unit_enc."))]
    assert all("norm_k" in name for name in missing) and bool(missing) == (not config.pre_norm)
    assert model.mask_emb.grad.abs().sum() > 0 and model.unit_encoder.pos_emb.pe_k.weight.grad.abs().sum() > 0


def test_the_front_ends_gradient_is_scaled() -> None:
    gradients = {}
    for factor in (1.0, 0.25):
        model = network(dataclasses.replace(POST, feature_grad_mult=factor))
        model.speech(sound(1, 3000)).last.square().sum().backward()
        gradients[factor] = [p.grad for p in model.feature_extractor.parameters()], model.layer_norm.weight.grad
    for scaled, plain in zip(gradients[0.25][0], gradients[1.0][0], strict=True):
        torch.testing.assert_close(scaled, plain / 4)
    assert torch.equal(gradients[0.25][1], gradients[1.0][1])


def test_a_network_as_wide_as_its_predictions_projects_between_the_stacks() -> None:
    """The original's convert_embeddings does so where the widths are equal, which no released model has."""
    config = dataclasses.replace(POST, final_dim=POST.dim)
    model = network(config)
    with torch.inference_mode():
        states = model.speech(sound(1, 2000))
        expected = model.unit_encoder.embed(model.final_proj_list[0](states.layers[2]), None)
    assert torch.equal(states.embedded, expected)


def test_half_precision_runs() -> None:
    model = network(PRE)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        half = model.speech(sound(2, 3000)).last.float()
    with torch.inference_mode():
        full = model.speech(sound(2, 3000)).last
    # bfloat16 has 8 bits: about 0.4 % a rounding, over six layers of unit scale
    torch.testing.assert_close(half, full, rtol=0, atol=0.2)
