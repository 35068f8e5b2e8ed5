"""A pipeline of another build than Stable Diffusion: FLUX packs its latents and flows instead of adding noise."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers

from unibrivl.bench.tiny_pipeline import tiny_text_side
from unibrivl.index.pictures import Candidate, Shot
from unibrivl.index.pipelines import Pipeline, PipelineConfig, open_pipeline, quiet_transformers
from unibrivl.index.studio import Studio

from .generating import seeds


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Return a FLUX pipeline with drawn weights and letters for words."""
    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8), guidance_embeds=False,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 8), latent_channels=4, norm_num_groups=2, shift_factor=0.06, scaling_factor=1.5,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    words: Any = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -1.0) for letter in "abcdefgrstu▁")]
    tokenizer: Any = transformers.T5Tokenizer(vocab=words, extra_ids=0)
    t5 = transformers.T5Config(vocab_size=20, d_model=16, d_ff=16, d_kv=8, num_heads=2, num_layers=1)
    pipe: Any = diffusers.FluxPipeline(
        transformer=transformer, vae=vae, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder_2=transformers.T5EncoderModel(t5), tokenizer_2=tokenizer, **tiny_text_side(),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("flux")
    with quiet_transformers():
        pipe.save_pretrained(folder)
    return open_pipeline(PipelineConfig(name=str(folder)))


def test_pictures_estimates_and_neighbours_of_a_flow(flux: Pipeline, tmp_path: Path) -> None:
    assert (flux.family.name, flux.family.steps, flux.family.guidance) == ("flux-schnell", 4, 0.0)
    shot = Shot(steps=4, guidance=0.0, width_px=32, height_px=32, mix=0.3)
    (tmp_path / "made").mkdir()
    (tmp_path / "estimates").mkdir()
    studio = Studio(flux, ("a red dog",), shot, tmp_path / "made", tmp_path / "estimates")
    made, estimates = studio.make(seeds(0, 1)), studio.estimate(seeds(0, 1), 4)
    for one, estimate in zip(made, estimates, strict=True):
        difference = np.abs(one.picture.astype(int) - estimate.picture)
        assert difference.max() <= 1, "a flow ends at the estimate of its last step"
    assert [one.evaluations for one in made] == [4, 4], "a distilled network is asked once a step"
    (near,) = studio.make([Candidate(prompt=0, seeds=(0, 7))])
    distances = [np.abs(near.picture.astype(int) - one.picture).mean() for one in made]
    assert distances[0] < 0.7 * distances[1], "a neighbour looks like the picture that it was mixed from"
