"""A judge beside the verifier: never the verifier itself, and what it shares is said."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from unibrivl.index.baselines import expected_best
from unibrivl.index.engine import Engine, open_engine
from unibrivl.index.errors import GenerateError
from unibrivl.index.generate import generate, word_cosines
from unibrivl.index.judge import open_judge
from unibrivl.index.pipelines import quiet_transformers
from unibrivl.index.question import Part
from unibrivl.index.verifier import BareRun, picture_part
from unibrivl.model.clip import clip_tower
from unibrivl.model.embed import Encoder, load_encoder
from unibrivl.model.errors import CheckpointError
from unibrivl.model.text import ClipText

from ..conftest import picture, tone
from .generating import another_run, make_config

SIDE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
WORDS = ["<|startoftext|>", "<|endoftext|>", *ascii_lowercase, *(f"{letter}</w>" for letter in ascii_lowercase)]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a CLIP with drawn weights and letters for words."""
    folder = tmp_path_factory.mktemp("clip")
    text = SIDE | {"vocab_size": len(WORDS), "max_position_embeddings": 20, "bos_token_id": 0, "eos_token_id": 1,
                   "pad_token_id": 1}  # fmt: skip
    vision = SIDE | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    with quiet_transformers():
        model: Any = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
        )
        model.save_pretrained(folder)
    processor: Any = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(folder)
    tokenizer: Any = transformers.CLIPTokenizer(vocab={word: n for n, word in enumerate(WORDS)}, merges=[])
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def other_run(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run with one tensor of its sound model changed."""
    return another_run(run, tmp_path_factory.mktemp("other"))


@pytest.fixture
def engine(index: Path, one_encoder: Encoder) -> Engine:
    return open_engine(index)


def test_the_verifier_is_no_judge_of_its_own(engine: Engine, run: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(run, tmp_path / "moved"))
    with pytest.raises(GenerateError, match="the judge is the verifier itself"):
        open_judge(moved, engine)
    with pytest.raises(CheckpointError, match="there is no such folder"):
        open_judge(tmp_path / "none", engine)


def test_the_model_that_sees_for_the_verifier_is_no_judge_either(
    run: Path, clip_folder: Path, encoder: Encoder
) -> None:
    sees = BareRun(replace(encoder, images=clip_tower(str(clip_folder))))
    with pytest.raises(GenerateError, match="the judge is the verifier itself"):
        open_judge(clip_folder, sees)


def test_another_run_judges_by_the_sound_and_what_it_shares_is_said(engine: Engine, other_run: Path) -> None:
    judge = open_judge(other_run, engine)
    assert judge.kind == "sound" and judge.shared == ("image",)
    pictures, sound = [picture(n) for n in range(3)], tone(1.0, 440, 16_000)
    encoder = load_encoder(other_run)
    seen = encoder.image([picture_part(BareRun(encoder), one).value for one in pictures])
    wanted = seen @ encoder.audio([sound])[0]
    assert judge.scores(Part("audio", sound), ["a"] * 3, pictures) == pytest.approx(wanted, abs=1e-5)
    assert len(judge.scores(Part("audio", sound), [], [])) == 0


def test_a_clip_judges_by_the_prompt(engine: Engine, clip_folder: Path) -> None:
    judge = open_judge(clip_folder, engine)
    assert judge.kind == "prompt" and judge.shared == ()
    pictures = [picture(n) for n in range(3)]
    found = judge.scores(Part("audio", None), ["a dog", "a cat", "a dog"], pictures)
    one_by_one = [
        judge.scores(Part("audio", None), [text], [shown])[0]
        for text, shown in zip(["a dog", "a cat", "a dog"], pictures, strict=True)
    ]
    assert found == pytest.approx(one_by_one, abs=1e-5) and np.abs(found).max() <= 1


def test_its_opinion_stands_beside_the_choice(
    index: Path, beep: Path, tiny: Path, tmp_path: Path, clip_folder: Path, one_encoder: Encoder
) -> None:
    made = generate(make_config(index, beep, tiny, tmp_path / "out", judge=clip_folder))
    told = json.loads((tmp_path / "out/generation.json").read_text())
    judged = {one["seed"]: one["judge"] for one in told["candidates"]}
    names = {one["name"]: one for one in told["baselines"]}
    assert names["chosen: nearest to the sound"]["judged"] == judged[made.rows()[0]["seed"]]
    assert names["the judge's own choice"]["judged"] == max(judged.values())
    assert names["random: mean of 6"]["judged"] == pytest.approx(np.mean(list(judged.values())), abs=1e-5)
    page = (tmp_path / "out/index.html").read_text()
    assert "compares each picture with the prompt; it shares no model" in page


def test_the_picture_nearest_to_its_prompt_is_told_where_the_run_reads_text(
    run: Path, encoder: Encoder, clip_folder: Path
) -> None:
    tower = clip_tower(str(clip_folder))
    reads = BareRun(replace(encoder, images=tower, words=ClipText(tower)))
    texts, pictures = ["a dog", "a cat", "a dog"], [picture(n) for n in range(3)]
    found = word_cosines(reads, texts, pictures)
    assert found is not None and len(found) == 3
    for text, shown, value in zip(texts, pictures, found, strict=True):
        seen, read = reads.embed([picture_part(reads, shown), Part("text", text)])
        assert value == pytest.approx(float(seen @ read), abs=1e-5)
    assert word_cosines(BareRun(encoder), texts, pictures) is None


def test_the_expected_best_is_that_of_all_draws() -> None:
    from itertools import combinations

    scores = [0.1, 0.5, -0.2, 0.5, 0.3]
    for n, found in enumerate(expected_best(scores), 1):
        assert found == pytest.approx(np.mean([max(drawn) for drawn in combinations(scores, n)]))
    many = expected_best(np.random.default_rng(0).normal(size=1000).tolist())
    assert len(many) == 1000 and np.isfinite(many).all() and (np.diff(many) >= -1e-9).all()
