"""A diffusion pipeline of 192 kB with drawn weights, made without a hub, for tests and measurements.

Its pictures mean nothing, but everything is there that a real one has: text encoder, network, autoencoder, scheduler
and, where it is asked for, a safety checker. `AutoPipelineForText2Image` loads it like any other.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..index.pipelines import load_diffusers, quiet_transformers

WIDTH = 8
"""Of the text encoder, and of what the network attends to."""
TOKENS = 77
"""Longest prompt."""
FLAG_NOTHING, FLAG_ALL = 2.0, -2.0
"""Thresholds of the checker that no cosine reaches, and that every one does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyPipelineConfig:
    """What is made."""

    out: Path
    """Folder of the pipeline."""
    seed: int = 0
    """Of the weights."""
    side_px: int = 32
    """Side of its pictures."""
    flag_above: float | None = None
    """Has a safety checker that flags pictures whose cosine with a drawn concept is above this; None: has none."""

    def __post_init__(self) -> None:
        """Refuse a side that the autoencoder cannot halve."""
        if self.side_px < 8 or self.side_px % 4:
            raise ValueError(f"side_px is {self.side_px}, want a multiple of 4 from 8")


def make_tiny_pipeline(config: TinyPipelineConfig) -> Path:
    """Write the pipeline as `save_pretrained` does and return its folder.

    Raises:
        PipelineError: diffusers is not installed.
    """
    diffusers = load_diffusers()

    state = torch.get_rng_state()
    torch.manual_seed(config.seed)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(4, 8), layers_per_block=1, sample_size=config.side_px // 2, in_channels=4, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=2, norm_num_groups=2,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 8), in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    words = tiny_text_side()
    guard = {"safety_checker": None, "feature_extractor": None} if config.flag_above is None else _guard(config)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae, unet=unet, scheduler=scheduler, requires_safety_checker=config.flag_above is not None, **words, **guard
    )
    torch.set_rng_state(state)
    with quiet_transformers():
        pipeline.save_pretrained(config.out)
    return config.out


def tiny_text_side() -> dict[str, Any]:
    """Return a text encoder, and a tokenizer whose words are bytes."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    numbers = {token: number for number, token in enumerate(tokens)}
    tokenizer: Any = CLIPTokenizer(vocab=numbers, merges=[], model_max_length=TOKENS)
    config = CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=WIDTH, intermediate_size=16, num_attention_heads=2, num_hidden_layers=2,
        max_position_embeddings=TOKENS, projection_dim=WIDTH, bos_token_id=len(tokens) - 2,
        eos_token_id=len(tokens) - 1, pad_token_id=len(tokens) - 1,
    )  # fmt: skip
    return {"text_encoder": CLIPTextModel(config), "tokenizer": tokenizer}


def _guard(config: TinyPipelineConfig) -> dict[str, Any]:
    """Return a safety checker with one drawn concept, and what prepares its pictures."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    side = {"height": 16, "width": 16}
    vision = {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 16, "patch_size": 8,
    }  # fmt: skip
    checker: Any = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=WIDTH))
    checker.concept_embeds.data = torch.randn(17, WIDTH)
    checker.special_care_embeds.data = torch.randn(3, WIDTH)
    checker.concept_embeds_weights.data = torch.full((17,), config.flag_above or 0.0)
    checker.special_care_embeds_weights.data = torch.full((3,), FLAG_NOTHING)
    extractor: Any = CLIPImageProcessor(size=side, crop_size=side)
    return {"safety_checker": checker, "feature_extractor": extractor}
