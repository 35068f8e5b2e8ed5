"""Pipelines: what a folder must be, that nothing of it runs, and the defaults of each family."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from unibrivl.index.errors import PipelineError
from unibrivl.index.families import FAMILIES, family_of
from unibrivl.index.pipelines import Pipeline, PipelineConfig, component_hashes, local_folder, open_pipeline


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def change(folder: Path, **values: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_what_is_recorded_names_every_component(tiny_pipeline: Pipeline, copy: Path) -> None:
    told = tiny_pipeline.describe()
    assert (told["class"], told["scheduler"], told["family"]) == ("StableDiffusionPipeline", "DDIMScheduler", "sd")
    parts = {"model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae"}
    assert set(told["components"]) == parts and not told["safety_checker"]
    assert tiny_pipeline.side_px == 32
    described = json.loads((copy / "model_index.json").read_text())
    assert component_hashes(copy, described) == told["components"], "the same files elsewhere are the same"
    config = json.loads((copy / "scheduler/scheduler_config.json").read_text())
    (copy / "scheduler/scheduler_config.json").write_text(json.dumps(config | {"beta_end": 0.02}))
    changed = component_hashes(copy, described)
    assert {name for name in parts if changed[name] != told["components"][name]} == {"scheduler"}


def test_code_of_others_is_refused_before_anything_is_loaded(copy: Path) -> None:
    ran = copy / "ran"
    evil = f"open({str(ran)!r}, 'w').write('x')\n"
    (copy / "pipeline.py").write_text(evil)
    (copy / "unet" / "mine.py").write_text(evil)
    change(copy, _class_name=["pipeline", "StableDiffusionPipeline"])
    with pytest.raises(PipelineError, match=r"code of its own .*never run"):
        open_pipeline(PipelineConfig(name=str(copy)))
    change(copy, _class_name="StableDiffusionPipeline", unet=["mine", "UNet2DConditionModel"])
    with pytest.raises(PipelineError, match=r"unet is mine\.UNet2DConditionModel, code of its own"):
        open_pipeline(PipelineConfig(name=str(copy)))
    assert not ran.exists()


@pytest.mark.parametrize("name", ["DDPMPipeline", "StableDiffusionImg2ImgPipeline", "NoSuchPipeline", "UNet2DModel"])
def test_what_makes_no_pictures_from_text_is_refused(copy: Path, name: str) -> None:
    change(copy, _class_name=name)
    with pytest.raises(PipelineError, match=f"holds a {name}, which makes no pictures from text"):
        open_pipeline(PipelineConfig(name=str(copy)))


def test_pickled_weights_are_refused(copy: Path) -> None:
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(PipelineError, match=r"unet has its weights as a pickle only \(diffusion_pytorch_model\.bin\)"):
        open_pipeline(PipelineConfig(name=str(copy)))


def test_damaged_folders_are_one_line(copy: Path) -> None:
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(PipelineError, match="not loaded by diffusers") as caught:
        open_pipeline(PipelineConfig(name=str(copy)))
    assert "\n" not in str(caught.value)
    shutil.rmtree(copy / "vae")
    with pytest.raises(PipelineError, match="vae: there is no such folder; a part of the pipeline is missing"):
        open_pipeline(PipelineConfig(name=str(copy)))
    (copy / "model_index.json").write_text("{")
    with pytest.raises(PipelineError, match=r"has no readable model_index\.json"):
        open_pipeline(PipelineConfig(name=str(copy)))


def test_places_that_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(PipelineError, match="no such folder here, and not to be had from the hub") as caught:
        local_folder("somebody/something-that-is-not-here")
    assert "\n" not in str(caught.value)
    for name in (str(tmp_path / "missing"), "./a/b", "missing", "a/b/c", "owner/"):
        with pytest.raises(PipelineError, match="there is no such folder; want one that diffusers wrote, or a hub id"):
            local_folder(name)


def test_offloading_needs_a_gpu(tiny: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(PipelineError, match="--offload model needs a GPU"):
        open_pipeline(PipelineConfig(name=str(tiny), offload="model"))
    with pytest.raises(ValueError, match="offload is 'some', want none, model, sequential"):
        PipelineConfig(name=str(tiny), offload="some")


@pytest.mark.parametrize(
    ("wanted", "kind", "files"),
    [
        ("sd", "StableDiffusionPipeline", {"scheduler": {"_class_name": "PNDMScheduler"}}),
        ("sd-turbo", "StableDiffusionPipeline", {"scheduler": {"timestep_spacing": "trailing"}}),
        ("sdxl", "StableDiffusionXLPipeline", {"scheduler": {"timestep_spacing": "leading"}}),
        ("sdxl-turbo", "StableDiffusionXLPipeline", {"scheduler": {"timestep_spacing": "trailing"}}),
        ("sd3", "StableDiffusion3Pipeline", {}),
        ("lcm", "LatentConsistencyModelPipeline", {}),
        ("lcm", "StableDiffusionPipeline",
         {"scheduler": {"_class_name": "LCMScheduler"}, "unet": {"time_cond_proj_dim": 256}}),
        ("lcm-adapted", "StableDiffusionXLPipeline", {"scheduler": {"_class_name": "LCMScheduler"}}),
        ("flux-schnell", "FluxPipeline", {"transformer": {"guidance_embeds": False}}),
        ("flux-dev", "FluxPipeline", {"transformer": {"guidance_embeds": True}}),
        ("pixart", "PixArtSigmaPipeline", {}),
        ("sana", "SanaPipeline", {}),
        ("other", "AuraFlowPipeline", {}),
    ],
)  # fmt: skip
def test_the_family_is_told_by_configuration(tmp_path: Path, wanted: str, kind: str, files: dict[str, Any]) -> None:
    for name, told in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / ("scheduler_config.json" if name == "scheduler" else "config.json")).write_text(
            json.dumps(told)
        )
    assert family_of(tmp_path, {"_class_name": kind}).name == wanted


def test_few_step_families_want_no_guidance_of_others() -> None:
    told = {family.name: (family.steps, family.guidance) for family in FAMILIES}
    assert told["sdxl-turbo"] == (4, 0.0) and told["flux-schnell"] == (4, 0.0) and told["flux-dev"] == (50, 3.5)
