"""Making pictures: each depends on its own seeds only, appears whole, is counted, and is made once."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.index.denoised import ESTIMATES, decode, denoised
from unibrivl.index.errors import GenerateError, PipelineError
from unibrivl.index.pictures import Candidate, read_png
from unibrivl.index.pipelines import Pipeline
from unibrivl.index.studio import Studio, chunk_size

from .generating import COST, SHOT, make_studio, pictures_of, seeds

# diffusers 0.42 under numpy 2.4, in the schedulers' own `set_timesteps`
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")


@pytest.fixture(scope="module")
def alone(tiny_pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Return the pictures of seeds 0 to 7, made one at a time."""
    return pictures_of(make_studio(tiny_pipeline, tmp_path_factory.mktemp("alone"), chunk=1), seeds(*range(8)))


def test_a_batch_of_four_equals_one_at_a_time(tiny_pipeline: Pipeline) -> None:
    """To 1e-5 of full scale, as the pipeline gives them: sums in another order round otherwise."""

    def floats(numbers: list[int]) -> np.ndarray:
        generators = [torch.Generator().manual_seed(number) for number in numbers]
        output = tiny_pipeline.pipe(
            ["a red square"] * len(numbers), num_inference_steps=4, generator=generators, output_type="np"
        )
        return output.images

    together = floats([0, 1, 2, 3])
    one_by_one = np.concatenate([floats([number]) for number in range(4)])
    assert np.abs(together - one_by_one).max() < 1e-5
    assert np.abs(together[0] - together[1]).max() > 0.05, "seeds make different pictures"


@settings(max_examples=4, deadline=None)
@given(order=st.permutations(range(8)), chunk=st.integers(1, 8))
def test_permuted_seeds_give_permuted_pictures(
    tiny_pipeline: Pipeline, alone: np.ndarray, tmp_path_factory: pytest.TempPathFactory, order: list[int], chunk: int
) -> None:
    studio = make_studio(tiny_pipeline, tmp_path_factory.mktemp("permuted"), chunk=chunk)
    made = pictures_of(studio, seeds(*order))
    assert np.abs(made.astype(int) - alone[order]).max() <= 1  # a rounded half may fall to either side


def test_pictures_are_made_once_and_say_what_made_them(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    studio = make_studio(tiny_pipeline, tmp_path)
    first = studio.make(seeds(3, 5))
    written = {path: path.stat().st_mtime_ns for path in studio.folder.iterdir()}
    assert [path.name for path in sorted(written)] == ["00-000003.png", "00-000005.png"]
    told = read_png(first[0].path)[1]
    assert told == {
        "prompt": "a red square", "seeds": [3], "steps": 4, "guidance": 7.5, "width_px": 32, "height_px": 32,
        "mix": None, "pipeline": tiny_pipeline.fingerprint, "estimate_steps": None, "flagged": False,
        "evaluations": COST,
    }  # fmt: skip
    second = studio.make(seeds(3, 4, 5))
    assert studio.found == 2 and [one.candidate.seed for one in second] == [3, 4, 5]
    assert (second[0].picture == first[0].picture).all() and second[0].evaluations == COST
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert not list(studio.folder.glob(".*"))


def test_files_of_others_and_of_other_settings_are_refused(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    studio = make_studio(tiny_pipeline, tmp_path)
    (path,) = (one.path for one in studio.make(seeds(1)))
    studio.prompts = ("a green square",)
    with pytest.raises(GenerateError, match=r"was made with prompt 'a red square', want 'a green square'; remove it"):
        studio.make(seeds(1))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(GenerateError, match="not a picture that generate wrote"):
        studio.make(seeds(1))


def test_too_little_memory_halves_the_chunk_and_at_one_is_a_line(
    tiny_pipeline: Pipeline, alone: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is raised where the network would, by a hook on it: memory itself cannot be used up in a test."""
    sizes, most = [], 4

    def full(module: Any, args: tuple[Any, ...]) -> None:
        sizes.append(len(args[0]))
        if len(args[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\na lot")

    handle = tiny_pipeline.denoiser.register_forward_pre_hook(full)
    try:
        studio = make_studio(tiny_pipeline, tmp_path, chunk=8)
        made = pictures_of(studio, seeds(*range(4)))
        assert sizes[0] == 8 and max(sizes[1:]) == 4 and studio.chunk == 2
        assert np.abs(made.astype(int) - alone[:4]).max() <= 1
        most = 0
        with pytest.raises(PipelineError, match="memory does not suffice for one picture of 32x32; pass a smaller"):
            studio.make(seeds(9))
    finally:
        handle.remove()


def test_chunks_are_sized_to_memory(tiny_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    each = 4 * 32 * 32 * 8 * 4
    for available, wanted in ((1e9, 8), (2.5 * 3 * each, 3), (10, 1)):
        monkeypatch.setattr("unibrivl.index.studio.available_gb", lambda value=available: value / 1e9)
        assert chunk_size(tiny_pipeline, SHOT) == wanted


def test_the_estimate_of_the_last_step_is_the_picture(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    """DDIM without noise ends at x0 of its last step, apart from the last alpha of its schedule."""
    studio = make_studio(tiny_pipeline, tmp_path)
    made, estimates = studio.make(seeds(0, 1)), studio.estimate(seeds(0, 1), SHOT.steps)
    early = studio.estimate([Candidate(prompt=1, seeds=(0,))], 1)
    for one, estimate in zip(made, estimates, strict=True):
        assert np.abs(one.picture.astype(int) - estimate.picture).mean() < 3
    assert np.abs(made[0].picture.astype(int) - early[0].picture).mean() > 3
    assert [one.evaluations for one in (*estimates, *early)] == [COST, COST, 2], "only the steps that were made count"


@pytest.mark.parametrize("name", ESTIMATES)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_x0_is_found_where_the_network_is_right(name: str, kind: str) -> None:
    """A sample is made of a known picture and known noise; with the right output any scheduler's x0 is the picture."""
    import diffusers

    from unibrivl.index.denoised import FLOWS, KEPT_VARIANCE, _sigma

    if name in FLOWS and kind != "epsilon":
        pytest.skip("flows predict one thing only")
    if name.startswith("LMS"):
        pytest.importorskip("scipy", reason="diffusers asks for it here")
    options = {} if name in FLOWS else {"prediction_type": kind}
    scheduler: Any = getattr(diffusers, name)(**options)
    scheduler.set_timesteps(10)
    picture, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timestep = scheduler.timesteps[4]
    if name in FLOWS:
        sigma = _sigma(scheduler, timestep)
        sample, output = (1 - sigma) * picture + sigma * noise, noise - picture
    elif name in KEPT_VARIANCE:
        sigma = None
        alpha = scheduler.alphas_cumprod[int(timestep)]
        sample = alpha**0.5 * picture + (1 - alpha) ** 0.5 * noise
        output = noise if kind == "epsilon" else alpha**0.5 * noise - (1 - alpha) ** 0.5 * picture
    else:
        sigma = _sigma(scheduler, timestep)
        sample = picture + sigma * noise
        output = noise if kind == "epsilon" else (noise - sigma * picture) / (1 + sigma**2) ** 0.5
    found = denoised(scheduler, output, timestep, sample, sigma)
    assert torch.allclose(found, picture, atol=2e-3)  # float32 divided by a small alpha


def test_schedulers_without_a_known_estimate_are_refused(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    import diffusers

    kept = tiny_pipeline.pipe.scheduler
    try:
        tiny_pipeline.pipe.scheduler = diffusers.EDMEulerScheduler()
        with pytest.raises(PipelineError, match="denoised estimate of EDMEulerScheduler is not known"):
            make_studio(tiny_pipeline, tmp_path).estimate(seeds(0), 2)
    finally:
        tiny_pipeline.pipe.scheduler = kept
    with pytest.raises(PipelineError, match="in a form of its own"):
        decode(tiny_pipeline.pipe, torch.zeros(1, 4, 1, 16, 16), (32, 32))


def test_schedulers_that_draw_noise_are_reproducible_too(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    """They must get the candidate's own generator although their steps are watched."""
    import diffusers

    kept = tiny_pipeline.pipe.scheduler
    try:
        tiny_pipeline.pipe.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(kept.config)
        torch.manual_seed(1)
        first = pictures_of(make_studio(tiny_pipeline, tmp_path / "a"), seeds(0, 1))
        torch.manual_seed(2)
        second = pictures_of(make_studio(tiny_pipeline, tmp_path / "b"), seeds(1, 0))
        assert np.abs(first[::-1].astype(int) - second).max() <= 1
    finally:
        tiny_pipeline.pipe.scheduler = kept


def test_neighbours_are_near_and_of_unit_variance(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    studio = make_studio(tiny_pipeline, tmp_path / "a")
    studio.make(seeds(0))
    assert studio.probes == 0, "the noise of a picture that was made is known"
    pivot, near = studio.noise((0,)), studio.noise((0, 7))
    cosine = float((pivot * near).sum() / pivot.norm() / near.norm())
    assert cosine == pytest.approx((1 - SHOT.mix**2) ** 0.5, abs=0.08)
    assert float(near.std()) == pytest.approx(1, abs=0.08)
    other = make_studio(tiny_pipeline, tmp_path / "b")
    assert torch.equal(other.noise((0, 7)), near) and other.probes == 2, "it is found again without the picture"
    again = Studio(tiny_pipeline, studio.prompts, SHOT, studio.folder, studio.estimates)
    mixed = [Candidate(prompt=0, seeds=(0, 7)), Candidate(prompt=0, seeds=(0,))]
    assert np.abs(pictures_of(again, mixed)[0].astype(int) - pictures_of(other, mixed)[0]).max() <= 1


def test_previews_show_what_is_being_made(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "previews").mkdir()
    studio = make_studio(tiny_pipeline, tmp_path, previews=tmp_path / "previews")
    (made,) = studio.make(seeds(0))
    picture, told = read_png(tmp_path / "previews" / "00-000000.png")
    assert told == {"preview_after_steps": 4} and picture.shape == made.picture.shape
    assert json.dumps(studio.facts(made.candidate))
