"""Pictures for a sound: the whole command, what is chosen, recorded and refused, and what a second run makes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner

from unibrivl.bench.tiny_pipeline import FLAG_ALL, FLAG_NOTHING, TinyPipelineConfig, make_tiny_pipeline
from unibrivl.cli import app
from unibrivl.index.engine import open_engine
from unibrivl.index.errors import GenerateError, IndexStoreError, PipelineError, QueryError
from unibrivl.index.generate import generate
from unibrivl.index.generation import Generation
from unibrivl.index.media import read_picture, read_sound
from unibrivl.index.pictures import png, read_png
from unibrivl.index.pipelines import PipelineConfig
from unibrivl.index.prompts import PromptConfig
from unibrivl.index.question import Part
from unibrivl.index.rerank import rerank
from unibrivl.model.embed import Encoder

from .generating import COST, make_config

ROW = {"path", "prompt", "seed", "score", "z", "percentile", "kept", "dropped_reason"}


@pytest.fixture(scope="module")
def made(index: Path, beep: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Generation:
    """Return six candidates of one prompt, of which two were chosen; do not write there."""
    return generate(make_config(index, beep, tiny, tmp_path_factory.mktemp("made")))


@pytest.fixture(scope="module")
def flagging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a pipeline whose checker flags everything."""
    return make_tiny_pipeline(TinyPipelineConfig(out=tmp_path_factory.mktemp("flagging"), flag_above=FLAG_ALL))


def test_the_command_prints_the_ranked_list(
    index: Path, beep: Path, tiny: Path, tmp_path: Path, one_encoder: Encoder, made: Generation
) -> None:
    words = ["generate", index, "--audio", beep, "--pipeline", tiny, "-n", 6, "--keep", 2, "--steps", 4, "--out",
             tmp_path / "out", "--prompt", "a red square"]  # fmt: skip
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert all(set(row) == ROW for row in rows) and [row["kept"] for row in rows] == [True] * 2 + [False] * 4
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    same = [{k: v for k, v in row.items() if k != "path"} for row in made.rows()]
    assert [{k: v for k, v in row.items() if k != "path"} for row in rows] == same, "same seeds, same order"
    shown = CliRunner().invoke(app, list(map(str, words)))
    assert shown.exit_code == 0 and "6 were there already" in shown.stdout and "first seed" in shown.stdout


def test_scores_are_those_of_rerank(made: Generation, index: Path, beep: Path, one_encoder: Encoder) -> None:
    """Of the files, read as any picture is, in any order."""
    engine = open_engine(index)
    rows = sorted(made.rows(), key=lambda row: row["seed"])
    side = engine.snapshot.manifest["encoder"]["frame_px"]
    parts = [Part("image", read_picture(Path(row["path"]), side)) for row in rows]
    ranked = {one.candidate: one for one in rerank(engine, [Part("audio", read_sound(beep))], parts).ranked}
    for number, row in enumerate(rows):
        found = ranked[number]
        told = (found.score, found.calibrated, found.percentile)
        assert (row["score"], row["z"], row["percentile"]) == pytest.approx(told, abs=2e-4)


def test_the_record_says_everything(made: Generation) -> None:
    out = made.config.out
    told = json.loads((out / "generation.json").read_text())
    assert told["evaluations"] == 6 * COST and told["dropped"] == {}
    assert told["pipeline"]["components"].keys() >= {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}
    assert told["verifier"]["fingerprints"].keys() >= {"audio", "image"}
    assert told["versions"].keys() >= {"torch", "diffusers", "unibrivl"}
    assert [one["seeds"] for one in told["candidates"]] == [[row["seed"]] for row in made.rows()]
    scores = [row["score"] for row in made.rows()]
    names = {one["name"]: one["score"] for one in told["baselines"]}
    first = next(row["score"] for row in made.rows() if row["seed"] == 0)
    assert list(names.values()) == pytest.approx([max(scores), first, np.mean(scores)], abs=1e-6)
    assert told["expected_best_of"][0] == [1, pytest.approx(np.mean(scores), abs=1e-5)]
    assert told["expected_best_of"][-1] == [6, pytest.approx(max(scores), abs=1e-5)]
    kept = sorted((out / "kept").iterdir())
    assert [path.name[0] for path in kept] == ["1", "2"]
    picture, inside = read_png(kept[0])
    assert inside["score"] == max(scores) and inside["prompt"] == "a red square" and inside["steps"] == 4
    assert inside["components"] == told["pipeline"]["components"]
    assert (picture == read_png(Path(made.rows()[0]["path"]))[0]).all()
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.size == (6 * 170 + 10, 206 + 10)


def test_a_second_run_makes_only_what_is_missing(
    made: Generation, index: Path, beep: Path, tiny: Path, tmp_path: Path, one_encoder: Encoder
) -> None:
    out = Path(shutil.copytree(made.config.out, tmp_path / "out"))
    lost = out / "candidates" / "00-000003.png"
    lost.unlink()
    (out / "candidates" / ".00-000004.png.tmp-1-a").write_bytes(b"half")
    again = generate(make_config(index, beep, tiny, out, keep=3, n=8))
    assert again.found == 5 and len(again.rows()) == 8 and lost.exists()
    assert not list((out / "candidates").glob(".*")) and len(list((out / "kept").iterdir())) == 3
    before = {row["seed"]: row["score"] for row in made.rows()}
    after = {row["seed"]: row["score"] for row in again.rows()}
    assert {seed: after[seed] for seed in before} == pytest.approx(before, abs=2e-4)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 5}, "steps was 4, is now 5"),
        ({"seed": 1}, "seed was 0, is now 1"),
        ({"prompts": PromptConfig(given=("a dog",))}, r'prompts was \["a red square"\], is now \["a dog"\]'),
        ({"guidance": 1.0}, r"guidance was 7\.5, is now 1\.0"),
        ({"method": "prune"}, 'search was "best-of-n", is now "prune"'),
    ],
)
def test_another_request_in_the_same_folder_is_refused(
    made: Generation, index: Path, beep: Path, tiny: Path, one_encoder: Encoder, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(GenerateError, match=f"holds pictures of another request: {told}; name another --out"):
        generate(make_config(index, beep, tiny, made.config.out, **changes))


def test_prompts_are_drawn_from_what_the_sound_is_near_to(
    index: Path, beep: Path, tiny: Path, tmp_path: Path, one_encoder: Encoder
) -> None:
    result = generate(make_config(index, beep, tiny, tmp_path / "out", prompts=PromptConfig(), n=1))
    assert sorted(prompt.text for prompt in result.prompts) == ["a photo of block", "a photo of tone"]
    assert sum(prompt.score or 0 for prompt in result.prompts) == pytest.approx(1, abs=1e-5)
    assert len(result.rows()) == 2, "one seed each"


def test_a_file_of_prompts_and_a_run_without_an_index(
    run: Path, beep: Path, tiny: Path, tmp_path: Path, one_encoder: Encoder
) -> None:
    (tmp_path / "texts").write_text("a dog\n\n a cat \na dog\n", encoding="utf-8-sig")
    prompts = PromptConfig(file=tmp_path / "texts")
    result = generate(make_config(run, beep, tiny, tmp_path / "out", prompts=prompts, n=2))
    assert [prompt.text for prompt in result.prompts] == ["a dog", "a cat"] and len(result.rows()) == 4
    assert {(row["z"], row["percentile"]) for row in result.rows()} == {(None, None)}
    assert result.verifier["index"] is None and "deviations" not in (tmp_path / "out/index.html").read_text()
    with pytest.raises(GenerateError, match="a run alone has no labels to draw prompts from"):
        generate(make_config(run, beep, tiny, tmp_path / "other", prompts=PromptConfig()))


def test_flagged_pictures_are_dropped_before_anything_is_scored(
    index: Path, beep: Path, flagging: Path, tmp_path: Path, one_encoder: Encoder
) -> None:
    with pytest.raises(GenerateError, match=r"all 6 pictures were dropped \(flagged by the safety checker\)"):
        generate(make_config(index, beep, flagging, tmp_path / "out"))
    told = json.loads((tmp_path / "out/generation.json").read_text())
    assert told["dropped"] == {"flagged by the safety checker": 6} and told["baselines"] == []
    assert {(one["score"], one["kept"]) for one in told["candidates"]} == {(None, False)}
    with pytest.raises(GenerateError, match="all 6 pictures were dropped"):  # known from their files
        generate(make_config(index, beep, flagging, tmp_path / "out"))
    assert (tmp_path / "out/index.html").exists() and not list((tmp_path / "out/kept").iterdir())


def test_some_flagged_and_a_black_picture(index: Path, beep: Path, tmp_path: Path, one_encoder: Encoder) -> None:
    checked = make_tiny_pipeline(TinyPipelineConfig(out=tmp_path / "checked", flag_above=FLAG_NOTHING))
    config = make_config(index, beep, checked, tmp_path / "out")
    all_scored = generate(config)
    assert all(row["dropped_reason"] is None for row in all_scored.rows())
    for seed, changes in ((2, {"flagged": True}), (4, {})):
        path = tmp_path / "out/candidates" / f"00-{seed:06d}.png"
        picture, told = read_png(path)
        path.write_bytes(png(np.zeros_like(picture), told | changes))
    rows = generate(config).rows()
    assert [(row["seed"], row["dropped_reason"]) for row in rows[4:]] == [
        (2, "flagged by the safety checker"), (4, "all black"),
    ]  # fmt: skip
    assert all(row["kept"] is False and row["score"] is None for row in rows[4:]) and rows[0]["kept"]


def test_mistakes_are_one_line(index: Path, beep: Path, tiny: Path, tmp_path: Path, one_encoder: Encoder) -> None:
    config = make_config(index, beep, tiny, tmp_path / "out")
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(16_000), 16_000)
    file = tmp_path / "file"
    file.write_text("x")
    for changes, kind, told in (
        ({"audio": silent}, QueryError, "is silent, so no picture fits it better"),
        ({"audio": tmp_path / "none.wav"}, QueryError, "there is no such file"),
        ({"place": tmp_path / "none"}, IndexStoreError, "there is no such folder; want a folder of `unibrivl index`"),
        ({"place": tiny}, IndexStoreError, "holds neither an index nor a run"),
        ({"pipeline": PipelineConfig(name=str(tmp_path / "none"))}, PipelineError, "there is no such folder"),
        ({"out": tiny}, GenerateError, "holds files of others"),
        ({"out": file}, GenerateError, "a file, want a folder"),
        ({"prompts": PromptConfig(file=tmp_path / "none")}, GenerateError, "no such file; want one prompt a line"),
        ({"prompts": PromptConfig(given=(" ",))}, GenerateError, "there are 0 prompts, want 1 to 100"),
        ({"prompts": PromptConfig(given=("a" * 2000,))}, GenerateError, "has 2000 characters, want 1000"),
        ({"size_px": (33, 32)}, PipelineError, "makes no picture .*divisible by 8"),
    ):
        with pytest.raises(kind, match=told) as caught:
            generate(replace(config, **changes))
        assert "\n" not in str(caught.value)


def test_usage(index: Path, beep: Path, tiny: Path, tmp_path: Path) -> None:
    words = ["generate", index, "--audio", beep, "--pipeline", tiny, "--out", tmp_path / "out"]
    for more, told in (
        (["--size", "big"], "--size is 'big', want pixels such as 512 or 768x512"),
        (["--size", "4x4"], "--size is 4x4, want sides of 8 to 4096 pixels"),
        (["--keep", 0], "--keep is 0, want at least 1"),
        (["--template", "a photo"], "--template is 'a photo', want a text with {label} in it"),
        (["--prompt", "a", "--prompts", "b"], "--prompt gives texts, and prompts a file of them"),
    ):
        result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*map(str, words), *map(str, more)])
        assert result.exit_code == 2 and told in result.output, result.output
    result = CliRunner().invoke(app, [*map(str, words), "-n", "0"])
    assert isinstance(result.exception, GenerateError), "exit code 1"
    assert "there are no candidates: -n is 0, want 1 to 10000" in str(result.exception)


def test_without_diffusers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    from unibrivl.index.pipelines import open_pipeline

    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(PipelineError, match=r"pip install 'unibrivl\[generate\]'"):
        open_pipeline(PipelineConfig(name=str(tiny)))


def test_the_page_escapes_and_asks_for_nothing(
    index: Path, beep: Path, tiny: Path, tmp_path: Path, one_encoder: Encoder
) -> None:
    hostile = '<script>window.owned = 1</script>"><img src=https://evil.example/x onerror=alert(1)>'
    sound = Path(shutil.copy(beep, tmp_path / "<b>beep.wav"))
    generate(make_config(index, sound, tiny, tmp_path / "out", n=3, prompts=PromptConfig(given=(hostile,))))
    page = (tmp_path / "out/index.html").read_text()
    assert "<script" not in page and "<b>beep" not in page and "&lt;script&gt;window.owned" in page
    assert "default-src &#39;none&#39;" in page and "src=&#34;" not in page and 'src="http' not in page
    assert page.count("data:audio/flac;base64,") == 1 and page.count("data:image/jpeg;base64,") == 2
