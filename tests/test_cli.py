"""The command line: quick help, exit codes, one line for an error, and what each command prints."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from unibrivl import (
    __version__,
    cli,
)
from unibrivl.index.errors import IndexStoreError
from unibrivl.model.checkpoint import read_state
from unibrivl.shards import ClipShards
from unibrivl.shards.console import print_table

HEAVY = ("torch", "torchvision", "torchaudio", "timm", "faiss", "av", "pyarrow", "matplotlib", "PIL", "soundfile")
TOWER = ("--set", "clip_s=1.0", "--set", "num_mels=32", "--set", "hop=706")

Call = Callable[..., tuple[int, str, str]]
"""Words of a command to exit code, standard output and standard error."""


@pytest.fixture(scope="session")
def tiny(index: Path) -> Path:
    """Return a folder with `shards`, `run` and `index` of the tiny corpus; do not write there."""
    return index.parent


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs a command in this process, as the interpreter would end it."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["unibrivl", *map(str, words)])
        capsys.readouterr()
        tail = ""
        try:
            cli.main()
            code = 0
        except SystemExit as e:
            code = e.code or 0
            if isinstance(code, str):  # the interpreter prints it
                code, tail = 1, f"{code}\n"
        out, err = capsys.readouterr()
        assert isinstance(code, int)
        return code, out, err + tail

    return run


def assert_one_error_line(result: tuple[int, str, str], *words: str) -> None:
    code, out, err = result
    assert (code, out) == (1, "")
    assert re.fullmatch(r"error: .+\n", err), err
    for word in words:
        assert word in err


def shell(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "unibrivl", *map(str, words)], capture_output=True, text=True, check=False,
        env=os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"} | variables,
    )  # fmt: skip


@pytest.fixture
def question(tiny: Path, tmp_path: Path) -> tuple[str, Path, Path]:
    """Return the key of a stored clip, its picture and its sound as files."""
    with ClipShards(tiny / "shards") as clips:
        sample = clips[9]
    Image.fromarray(sample.frame()).save(tmp_path / "question.png")
    soundfile.write(tmp_path / "question.wav", sample.audio(), 16_000)
    return sample.key, tmp_path / "question.png", tmp_path / "question.wav"


@pytest.mark.parametrize(
    "words", [["--help"], ["query", "--help"], ["bench", "retrieval", "--help"], ["train", "--help"]]
)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    command = (
        "import sys\n"
        f"sys.argv = ['unibrivl', *{words!r}]\n"
        "from unibrivl.cli import main\n"
        "try: main()\n"
        f"finally: print('loaded:', [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Usage:" in done.stdout
    assert done.stderr == "loaded: []\n"


def test_the_version() -> None:
    done = shell("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    "words",
    [
        ["frobnicate"], ["train"], ["train", "shards"], ["query", "index", "--audoi", "x"], ["bench", "everything"],
        ["query", "index"], ["query", "index", "--audio", "a", "--weight", "image=2"],
        ["query", "index", "--image", "b", "-k", "0"],
        ["query", "index", "--image", "b", "--to", "text"], ["train", "s", "--out", "o", "--epochs", "0"],
        ["train", "s", "--out", "o", "--lr", "nan"], ["train", "s", "--out", "o", "--set", "num_mels"],
        ["train", "s", "--out", "o", "--set", "num_mels=many"], ["train", "s", "--out", "o", "--preset", "huge"],
        ["train", "s", "--out", "o", "--set", "epoch=3"], ["train", "s", "--out", "o", "--set", "loss.queue_size=3"],
        ["bench", "retrieval", "i", "--permutations", "1"],
        ["bench", "demo", "--sample", "music"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_mistakes_of_usage_exit_with_2(call: Call, words: list[str]) -> None:
    code, out, err = call(*words)
    assert code == 2 and "Usage:" in err and out == ""
    assert "Traceback" not in err


def test_a_query_without_a_question_says_what_is_missing(call: Call) -> None:
    code, _, err = call("query", "index")
    assert code == 2 and "--audio" in err and "--image" in err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["query", "index", "--image", "b", "-k", "0"], "-k is 0, want 1 to 10000"),
        (["train", "s", "--out", "o", "--epochs", "0"], "--epochs is 0, want 1 to 100000"),
        (["train", "s", "--out", "o", "--val-share", "1"], "--val-share is 1.0, want 0 to 0.9"),
        (["bench", "retrieval", "i", "--permutations", "1"], "--permutations is 1, want at least 2"),
        (["bench", "speed", "ingest", "--memory-clips", "-1"], "--memory-clips is -1, want at least 0"),
        (["shards", "retry", "s", "--media-dir", "m", "--workers", "0"], "--workers is 0, want 1 to 1024"),
        (["shards", "verify", "s", "--level", "full"], "--level is 'full', want size, hash, deep"),
        (["shards", "report", "s", "--clips", "-1"], "--clips is -1, want 0 to 1000"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistake_of_usage_names_the_option_as_typed(call: Call, words: list[str], named: str) -> None:
    code, _, err = call(*words)
    assert code == 2
    assert f"Invalid value: {named}" in re.sub(r"[\s│]+", " ", err)


@pytest.mark.parametrize("kind", ["pipe", "folder"])
@pytest.mark.timeout(60)
def test_a_question_or_a_page_that_is_no_file_is_refused_at_once(
    call: Call, tiny: Path, question: tuple[str, Path, Path], tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "odd"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    for words in (("--audio", path), ("--image", path), ("--image", question[1], "--html", path)):
        assert_one_error_line(call("query", tiny / "index", *words), f"{path}: a {kind}, want a file")
    assert_one_error_line(call("bench", "retrieval", tiny / "index", "--html", path), f"{path}: a {kind}")
    assert_one_error_line(call("shards", "report", tiny / "shards", "--html", path), f"{path}: a {kind}")


def test_failures_are_json_too_where_that_is_asked_for(call: Call, tmp_path: Path) -> None:
    for words in (("query", tmp_path, "--image", "b"), ("train", tmp_path, "--out", tmp_path / "run")):
        code, out, err = call(*words, "--json")
        assert code == 1 and err == f"error: {json.loads(out)['error']}\n" and list(json.loads(out)) == ["error"]


def test_nothing_said_shows_the_help(call: Call) -> None:
    code, out, err = call()
    assert code in (0, 2) and "From video to answers" in out + err


def test_what_is_missing_is_an_error_of_one_line(call: Call, tmp_path: Path, tiny: Path) -> None:
    missing = tmp_path / "missing"
    assert_one_error_line(call("query", missing, "--audio", missing), f"{missing} is no index")
    assert_one_error_line(call("train", missing, "--out", tmp_path / "run"), f"{missing} is no shard set")
    assert_one_error_line(call("index", missing, tiny / "shards", "--out", tmp_path / "i"), f"{missing} is no run")
    assert_one_error_line(call("index", tiny / "run", missing, "--out", tmp_path / "i"), f"{missing} is no shard set")
    assert_one_error_line(call("bench", "retrieval", missing), f"{missing} is no index")
    words = ("--query-split", "val")
    assert_one_error_line(call("bench", "retrieval", tiny / "index", *words), "no split 'val'; it has test, train")
    assert_one_error_line(call("query", tiny / "index", "--audio", missing), f"{missing}: there is no such file")


@pytest.mark.parametrize(
    "setting", ["clip_s=0", "clip_s=NaN", "num_mels=64.5", 'num_mels="64"', "hop=200.5", "mels=64", "num_mels=[1]"]
)
def test_a_setting_that_the_tower_refuses_is_explained(call: Call, tiny: Path, tmp_path: Path, setting: str) -> None:
    words = ("train", tiny / "shards", "--out", tmp_path / "run", "--batch-size", "4", "--set", setting)
    code, out, err = call(*words)
    assert code == 2 and out == ""
    assert "Traceback" not in err and setting.partition("=")[0] in err
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("option", ["--language-tower", "--image-tower"])
def test_a_tower_that_there_is_not_is_a_mistake_of_usage(call: Call, tmp_path: Path, option: str) -> None:
    code, out, err = call("train", "shards", "--out", tmp_path / "run", option, "bert")
    assert (code, out) == (2, "") and "tower 'bert' is unknown; known: " in err
    assert not (tmp_path / "run").exists()


def test_a_full_disk_says_what_to_do(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "checkpoint.safetensors"))

    monkeypatch.setattr("unibrivl.model.train.train", full)
    result = call("train", "shards", "--out", tmp_path)
    assert_one_error_line(result, "checkpoint.safetensors: No space left on device", "run the same command again")


def test_an_interruption_says_how_to_go_on(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unibrivl.model.train.train", interrupted)
    code, out, err = call("train", "shards", "--out", tmp_path)
    assert code in (1, 130) and out == ""
    assert "the same command goes on where it was" in err and "Traceback" not in err


def test_a_traceback_comes_only_when_asked_for(tmp_path: Path) -> None:
    words = ("ingest", tmp_path / "missing.csv", "--dry-run")
    plain = shell(*words)
    assert (plain.returncode, plain.stdout) == (1, "")
    assert re.fullmatch(r"error: .+missing\.csv.+\n", plain.stderr)
    debug = shell("--debug", *words)
    assert debug.returncode == 1 and "Traceback" in debug.stderr and "ListError" in debug.stderr


def test_debug_goes_for_query_too(call: Call, tmp_path: Path) -> None:
    words = ("query", tmp_path, "--audio", tmp_path / "a.wav")
    assert_one_error_line(call(*words), "is no index")
    with pytest.raises(IndexStoreError, match="is no index"):
        call("--debug", *words)


def test_query_prints_a_table(call: Call, tiny: Path, question: tuple[str, Path, Path]) -> None:
    key, picture, _ = question
    code, out, err = call("query", tiny / "index", "--image", picture, "-k", "3")
    assert (code, err) == (0, "")
    assert "nearest image" in out and "nearest audio" in out and "cosine" in out
    first = next(line for line in out.splitlines() if key in line)
    assert "1.000" in first and "tone, block" in first and "0-1 s" in first
    assert len([line for line in out.splitlines() if "gen_clip" in line]) == 9  # two lists and both in one


def test_query_prints_json(call: Call, tiny: Path, question: tuple[str, Path, Path]) -> None:
    key, _, sound = question
    code, out, err = call("query", tiny / "index", "--audio", sound, "--to", "audio", "-k", "2", "--json")
    assert (code, err) == (0, "")
    value = json.loads(out)
    assert value["results"]["audio"][0]["key"] == key
    assert len(value["results"]["audio"]) == 2 and set(value["results"]) == {"audio"}
    assert value["mode"] == "exact" and [part["name"] for part in value["query"]["parts"]] == [str(sound)]


def test_query_writes_a_page(call: Call, tiny: Path, question: tuple[str, Path, Path], tmp_path: Path) -> None:
    page = tmp_path / "answers.html"
    code, out, _ = call("query", tiny / "index", "--audio", question[2], "-k", "2", "--html", page)
    assert code == 0 and f"page: {page}" in out
    html = page.read_text()
    assert "question.wav" in html and html.count("data:image/jpeg") >= 4
    code, out, _ = call("query", tiny / "index", "--audio", question[2], "-k", "2", "--html", page, "--json")
    assert code == 0 and json.loads(out)  # nothing beside the JSON


def test_query_combines_filters_and_explains(call: Call, tiny: Path, question: tuple[str, Path, Path]) -> None:
    key, picture, sound = question
    words = ("query", tiny / "index", "--audio", sound, "--minus-item", f"{key}/image", "--weight", "minus-item=0.25")
    code, out, err = call(*words, "--where", "split=test", "--where", "duration_s>=1", "-k", "2", "--explain")
    assert (code, err) == (0, "")
    for told in (
        "how it was found",
        "could be found was compared",
        "matched image",
        "6 by",
        "encode ms",
        "both, by calibrated",
    ):
        assert told in out
    code, out, _ = call(
        *words, "--image", picture, "--fuse", "rrf", "--no-distinct", "--near", "0.9", "--exact", "--json"
    )
    told = json.loads(out)["query"]
    assert [(p["modality"], p["weight"], p["minus"]) for p in told["parts"]] == [
        ("audio", 1, False), ("image", 1, False), ("image", 0.25, True),
    ]  # fmt: skip
    assert (told["fuse"], told["distinct"], told["near"], told["exact"]) == ("rrf", False, 0.9, True)


def test_query_answers_a_file_of_questions(
    call: Call, tiny: Path, question: tuple[str, Path, Path], tmp_path: Path
) -> None:
    key, picture, _ = question
    (tmp_path / "q.jsonl").write_text(json.dumps({"image": str(picture), "to": "image"}) + "\n")
    code, out, err = call("query", tiny / "index", "--batch", tmp_path / "q.jsonl", "-k", "1")
    assert (code, err) == (0, "") and json.loads(out)["results"]["image"][0]["key"] == key
    answers = tmp_path / "a.jsonl"
    words = ("query", tiny / "index", "--batch", tmp_path / "q.jsonl", "--out", answers)
    assert call(*words)[1] == f"1 questions answered in {answers}\n" and json.loads(answers.read_text())["id"] == 1
    assert json.loads(call(*words, "--json")[1]) == {"questions": 1, "failed": 0, "out": str(answers)}
    (tmp_path / "q.jsonl").write_text("nonsense\n")
    code, out, err = call(*words, "--json")
    assert code == 1 and "1 of 1 questions have no answer; their lines say why" in err
    assert json.loads(out)["failed"] == 1


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--batch", "q.jsonl", "--audio", "a"], "--batch has the questions"),
        (["--audio", "a", "--out", "o"], "--out is for"),
        (["--batch", "q.jsonl", "--html", "a.html"], "--html is the page of one question"),
        (["--batch", "q.jsonl", "--json"], "--batch prints JSONL as it is"),
        (["--audio", "a", "--weight", "audio"], "--weight is 'audio', want a kind and a number"),
        (["--audio", "a", "--weight", "audio=-1"], "weight of part 1 is -1.0, want 0 or more"),
        (["--audio", "a", "--near", "0.1"], "--near is 0.1, want 0.5 to 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_questions_that_contradict_themselves_are_mistakes_of_usage(call: Call, words: list[str], named: str) -> None:
    code, _, err = call("query", "index", *words)
    told = re.sub(r"[\s\u2502]+", " ", err)
    assert code == 2 and named in told


def test_filters_and_combinations_that_make_no_question_are_one_line(
    call: Call, tiny: Path, question: tuple[str, Path, Path]
) -> None:
    _, picture, _ = question
    words = ("query", tiny / "index", "--image", picture)
    assert_one_error_line(call(*words, "--where", "lables=Dog"), "no column 'lables'; did you mean labels?")
    assert_one_error_line(call(*words, "--where", "labels=tnoe"), "did you mean 'tone'?")
    assert_one_error_line(call(*words, "--text", "a dog"), "reads no text")
    assert_one_error_line(call("query", tiny / "index", "--item", "none/image"), "none/image")
    assert_one_error_line(call("query", "i", "--minus-text", "a"), "only take away")


def test_a_page_that_cannot_be_written_is_an_error_of_one_line(
    call: Call, tiny: Path, question: tuple[str, Path, Path], tmp_path: Path
) -> None:
    page = tmp_path / "no" / "such" / "a.html"
    assert_one_error_line(call("query", tiny / "index", "--audio", question[2], "--html", page), "a.html")


@pytest.mark.slow
def test_query_as_a_process(tiny: Path, question: tuple[str, Path, Path]) -> None:
    done = shell("query", tiny / "index", "--image", question[1], "-k", "1", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["results"]["image"][0]["key"] == question[0]


def test_a_preset_a_flag_and_a_setting(call: Call, tiny: Path, tmp_path: Path) -> None:
    """The flag goes before the preset, the setting before both."""
    words = ("--preset", "tiny", "--epochs", "1", "--batch-size", "16", "--set", "batch_size=4", *TOWER)
    code, _, err = call("train", tiny / "shards", "--out", tmp_path / "run", *words)
    assert (code, err) == (0, "")
    config = read_state(tmp_path / "run").config
    assert (config["epochs"], config["batch_size"], config["lr"], config["loss"]["queue_size"]) == (1, 4, 5e-4, 256)
    assert config["language_tower"]["options"]["num_mels"] == 32


def test_a_grid_prints_a_table_and_fails_for_a_failed_run(call: Call, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "grid.json").write_text(json.dumps({"points": [{"lr": 1e-3}, {"batch_size": 400}]}))
    words = ("train", tiny / "shards", "--out", tmp_path / "grid", "--grid", tmp_path / "grid.json", "--epochs", "1")
    code, out, err = call(*words, "--batch-size", "4", *TOWER)
    assert code == 1 and re.fullmatch(r"error: 1 of 2 runs failed; 001-batch_size-400: .* fewer than .*\n", err)
    assert re.search(r"000-lr-0\.001 .* 0\.\d{3} .* done", out) and "failed" in out and "MRR" in out
    code, out, _ = call(*words, "--batch-size", "4", *TOWER, "--json")
    points = json.loads(out)["points"]
    assert code == 1 and [point["state"] for point in points] == ["done", "failed"]
    assert points[0]["validation"]["audio_to_image"]["chance_mrr"] > 0
    assert_one_error_line(call(*words[:-3], tmp_path / "none.toml"), "none.toml: cannot be read")
    (tmp_path / "grid.json").write_text('{"rate": [1]}')
    code, out, err = call(*words)
    assert code == 2 and "no option 'rate'" in err and out == ""


def test_train_and_index_and_measure(call: Call, tiny: Path, tmp_path: Path) -> None:
    train_words = ("train", tiny / "shards", "--out", tmp_path / "run", "--epochs", "1", "--batch-size", "4", *TOWER)
    code, out, err = call(*train_words)
    assert (code, err) == (0, "")
    assert re.match(rf"\d+ steps in {tmp_path / 'run'}; curves: {tmp_path / 'run' / 'curves.html'}\n", out)
    assert re.search(r"^audio to image: R@10 [01]\.\d{3} among \d+ \(.+\), chance [01]\.\d{3}$", out, re.MULTILINE)
    code, out, _ = call(*train_words, "--json")  # complete: nothing to do
    value = json.loads(out)
    assert code == 0 and set(value) == {"run", "steps", "seconds", "validation", "best"}
    assert set(value["validation"]) == {"audio_to_image", "image_to_audio"}

    assert_one_error_line(call(*train_words, "--seed", "1"), "seed 0, not 1")

    index_words = ("index", tmp_path / "run", tiny / "shards", "--out", tmp_path / "index")
    code, out, err = call(*index_words)
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"24 audio and 24 image items in {tmp_path / 'index'}, snapshot [0-9a-f]{{16}}\n", out)
    code, out, _ = call(*index_words)
    assert code == 0 and out.endswith(" (was there)\n")
    code, out, _ = call(*index_words, "--json")
    value = json.loads(out)
    assert value["items"] == {"audio": 24, "image": 24} and value["built"] is False

    page = tmp_path / "retrieval.html"
    words = ("bench", "retrieval", tmp_path / "index", "--permutations", "5", "--seed", "3")
    code, out, err = call(*words, "--html", page)
    assert (code, err) == (0, "")
    for text in ("sound to picture", "picture to sound", "by chance", "permuted", "R@10"):
        assert text in out
    assert page.read_text().count("true answer at rank") == 6
    code, out, _ = call(*words, "--json")
    value = json.loads(out)
    assert set(value) == {"audio_to_image", "image_to_audio"}
    assert value["audio_to_image"]["seed"] == 3 and value["audio_to_image"]["gallery"] == 6
    split = ("--query-split", "train", "--gallery-split", "train")
    assert json.loads(call(*words, *split, "--json")[1])["audio_to_image"]["gallery"] == 18


def test_a_query_of_silence_is_answered(call: Call, tiny: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(4000, np.float32), 8000)
    code, out, _ = call("query", tiny / "index", "--audio", tmp_path / "silence.wav", "-k", "1", "--json")
    assert code == 0 and json.loads(out)["results"]["image"][0]["rank"] == 1


def test_a_table_into_a_pipe_is_not_cut(
    call: Call, tiny: Path, question: tuple[str, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = call("query", tiny / "index", "--image", question[1], "-k", "1")
    assert question[0] in out and "…" not in out


def test_captions_with_markup_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("[red]title[/red]", ("a",), [("[bold]dog[/bold] [/nothing]",)])
    assert "[bold]dog[/bold] [/nothing]" in capsys.readouterr().out
