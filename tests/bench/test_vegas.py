"""Judging pictures: ceiling and chance, the rows that bracket, circular judges, and everything that is refused."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unibrivl.bench.encoders import KnownEncoder, run_fingerprint
from unibrivl.bench.errors import BenchError, NeedsError
from unibrivl.bench.tables import read_row, table_rows
from unibrivl.bench.tiny_pipeline import TinyPipelineConfig, make_tiny_pipeline
from unibrivl.bench.vegas import VegasConfig, measure_vegas
from unibrivl.bench.vegas_data import is_plain, pictures_of, read_clips, stays_inside
from unibrivl.bench.vegas_figures import Figures, Judged, Models, open_models, others
from unibrivl.index.generate import generate
from unibrivl.index.pictures import png

from ..index.generating import another_run, make_config
from .conftest import Call
from .table_sets import VEGAS_CLASSES, write_generated, write_picture, write_vegas

ORACLE, RANDOM = KnownEncoder(name="oracle"), KnownEncoder(name="random")


class Colours:
    """Sees the mean colour of a picture, hears nothing; words have the colour of their class."""

    name, fingerprint, sample_rate = "colours", "colours", 0

    def embed_image(self, pictures: list[np.ndarray]) -> np.ndarray:
        return np.stack([picture.reshape(-1, 3).mean(axis=0) - 90 for picture in pictures])

    def embed_text(self, texts: list[str]) -> np.ndarray:
        colours = ((130, -50, -50), (-50, 130, -50), (-50, -50, 130), (130, 130, -50))
        numbers = [next(n for n, name in enumerate(VEGAS_CLASSES) if name.replace("_", " ") in text) for text in texts]
        return np.float32([colours[number] for number in numbers])


@pytest.fixture
def config(tmp_path: Path) -> VegasConfig:
    data = write_vegas(tmp_path / "VEGAS")
    return VegasConfig(data=data, images=write_generated(tmp_path / "pictures", data))


def test_a_judge_that_sees_the_class_is_at_the_ceiling_and_other_clips_are_not(config: VegasConfig) -> None:
    result = measure_vegas(config, Models(judge=Colours(), extractor=ORACLE, scorer=RANDOM))
    told = result.as_dict()
    assert told["metrics"]["r1"] == told["oracle"]["r1"] == told["metrics"]["aic"] == 1
    assert told["chance"]["r1"] == 0.25 and told["interval"]["r1"] == [1, 1]
    # of 11 other clips, 2 are of the same class; 100 permutations of 12 clips: 0.02 is three deviations of their mean
    assert told["shuffled"]["r1"]["mean"] == pytest.approx(2 / 11, abs=0.03)
    assert told["shuffled"]["iis"]["mean"] < 0.2 < 0.9 < told["metrics"]["iis"] <= 1
    assert abs(told["metrics"]["ais"]) < 0.1 and 3.5 < told["metrics"]["is_judge"] <= 4
    assert "fid" not in told["metrics"] and "want 2,048 of each" in told["fid_flag"] and told["kid_subset"] == 12
    assert told["config"]["candidates"] == sorted(VEGAS_CLASSES) and told["config"]["prompts"] == ["a photo of {}."]
    assert told["coverage"] == {
        "clips": 12, "listed": 12, "pictures": 24, "black": 0, "short_clips": 0, "missing_classes": [],
    }  # fmt: skip
    assert told["status"] == "ok" and told["circular"] == [] and told["tower"] == "pictures"
    assert str(config.data.parent) not in json.dumps(told, allow_nan=False)
    table = result.predictions
    assert (
        table is not None and table["item"][0].as_py() == "clip00/0.png" and len(set(table["group"].to_pylist())) == 12
    )
    assert table["label"].to_pylist() == table["predicted"].to_pylist()
    assert np.mean(table["iis"]) == pytest.approx(told["metrics"]["iis"], abs=1e-6)


def test_chance_is_met_by_a_judge_that_sees_nothing(tmp_path: Path) -> None:
    """480 pictures of 120 clips, four to a clip: independent verdicts, of which 0.25 +- 0.06 is three deviations."""
    data = write_vegas(tmp_path / "VEGAS", per_class=30)
    config = VegasConfig(data=data, images=write_generated(tmp_path / "pictures", data, per_clip=4))
    told = measure_vegas(config, Models(judge=RANDOM)).as_dict()
    assert told["metrics"]["r1"] == pytest.approx(0.25, abs=0.06)
    assert abs(told["metrics"]["iis"]) < 0.01 and "ais" not in told["metrics"] and "aic" not in told["metrics"]
    whole = measure_vegas(config, Models(judge=ORACLE)).as_dict()
    assert whole["metrics"]["r1"] == 1 and whole["metrics"]["iis"] == pytest.approx(1)


def test_fid_is_told_of_enough_pictures() -> None:
    judged = Judged(clips=[], names=(), classes_K=np.zeros(0), clip_N=np.zeros(0))
    found = Figures(judged=judged, seed=0, predicted_N=np.zeros(0))
    features = np.random.default_rng(0).standard_normal((2048, 4))
    found.add_distances(features, features + np.array([3, 0, 0, 0]))
    assert found.metrics["fid"] == pytest.approx(9, abs=1e-6) and found.more["fid_flag"] is None
    assert (found.more["kid_subset"], found.more["kid_subsets"]) == (1000, 100)
    found.add_distances(features, features[:50])
    assert "2,048 pictures and 50 frames" in found.more["fid_flag"] and found.more["kid_subsets"] == 100
    found.add_distances(features[:50], features[50:100])
    assert (found.more["kid_subset"], found.more["kid_subsets"]) == (50, 1)  # all there is, drawn once


def test_other_clips_are_others() -> None:
    for count in (2, 7):
        assert all(sorted(one) == list(range(count)) and (one != np.arange(count)).all() for one in others(count, 0))


def test_a_model_may_judge_itself_only_by_name(config: VegasConfig) -> None:
    with pytest.raises(BenchError, match="the scorer is the judge, so its figure is circular"):
        measure_vegas(config, Models(judge=ORACLE, scorer=ORACLE))
    labelled = VegasConfig(data=config.data, images=config.images, same_judge=True)
    told = measure_vegas(labelled, Models(judge=ORACLE, scorer=ORACLE)).as_dict()
    assert told["circular"] == ["the scorer is the judge"] and told["metrics"]["ais"] == pytest.approx(1)
    verifier = {"audio": "a", "image": "b"}
    pixels = np.asarray(Image.open(config.images / "clip00" / "0.png"))
    (config.images / "clip00" / "kept").mkdir()
    (config.images / "clip00" / "kept" / "1-00-000003.png").write_bytes(png(pixels, {"verifier": verifier}))

    class Chooser(Colours):
        fingerprint = run_fingerprint(verifier)

    with pytest.raises(BenchError, match="the judge chose the pictures"):
        measure_vegas(config, Models(judge=Chooser()))
    with pytest.raises(BenchError, match="the extractor chose the pictures"):  # AIC and KID are its
        measure_vegas(config, Models(judge=Colours(), extractor=Chooser()))
    assert measure_vegas(config, Models(judge=Colours())).coverage["short_clips"] == 1  # of `kept` only


def test_folders_of_generate_are_judged_by_others_only(
    config: VegasConfig, index: Path, run: Path, tmp_path: Path
) -> None:
    tiny = make_tiny_pipeline(TinyPipelineConfig(out=tmp_path / "tiny"))
    made = tmp_path / "made"
    for clip in read_clips(config.data)[:2]:
        generate(make_config(index, clip.audio, tiny, made / clip.clip_id, n=2))
    asked = VegasConfig(data=config.data, images=made)
    with pytest.raises(BenchError, match="the scorer chose the pictures, so its figure is circular"):
        measure_vegas(asked, open_models("oracle", None, str(index)))
    (tmp_path / "other").mkdir()
    told = measure_vegas(asked, open_models("oracle", None, str(another_run(run, tmp_path / "other")))).as_dict()
    assert told["coverage"]["clips"] == 2 and told["coverage"]["pictures"] == 4 and told["status"] == "partial"
    assert -1 <= told["metrics"]["ais"] <= 1 and told["config"]["scorer"] == "other"


def test_black_and_flagged_pictures_are_counted_and_left_out(config: VegasConfig) -> None:
    Image.new("RGB", (32, 24)).save(config.images / "clip00" / "0.png")
    (config.images / "clip01" / "1.png").write_bytes(png(np.full((8, 8, 3), 9, np.uint8), {"flagged": True}))
    for name in ("0.png", "1.png"):
        Image.new("RGB", (32, 24)).save(config.images / "clip02" / name)
    told = measure_vegas(config, Models(judge=Colours())).as_dict()
    assert told["coverage"]["black"] == 4 and told["coverage"]["clips"] == 11 and told["coverage"]["pictures"] == 20
    assert told["coverage"]["short_clips"] == 2 and told["status"] == "partial" and told["metrics"]["r1"] == 1
    for path in config.images.glob("*/*.png"):
        Image.new("RGB", (4, 4)).save(path)
    with pytest.raises(BenchError, match="all 24 pictures are black or flagged"):
        measure_vegas(config, Models(judge=Colours()))


def test_pictures_a_clip_are_explicit(config: VegasConfig) -> None:
    one = VegasConfig(data=config.data, images=config.images, per_clip=1)
    told = measure_vegas(one, Models(judge=Colours())).as_dict()
    assert told["coverage"]["pictures"] == 12 and told["config"]["per_clip"] == 1 and "the first 1" in told["protocol"]
    shutil.rmtree(config.images / "clip03")
    told = measure_vegas(config, Models(judge=Colours())).as_dict()
    assert told["coverage"]["clips"] == 11 and told["status"] == "partial" and told["config"]["per_clip"] == 2
    with pytest.raises(ValueError, match="per_clip is 0, want 1"):
        VegasConfig(data=config.data, images=config.images, per_clip=0)


def test_folders_of_classes_are_read(tmp_path: Path, config: VegasConfig) -> None:
    for row in read_clips(config.data)[:-1]:
        for path in (row.audio, row.frame):
            place = tmp_path / "folders" / row.category / f"{row.clip_id}{path.suffix}"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    again = VegasConfig(data=tmp_path / "folders", images=config.images)
    first, second = (measure_vegas(one, Models(judge=Colours())).metrics for one in (config, again))
    assert first["r1"] == second["r1"] and set(first) == set(second)


def test_embeddings_are_kept(tmp_path: Path, config: VegasConfig) -> None:
    kept = VegasConfig(data=config.data, images=config.images, cache=tmp_path / "kept")
    told = [measure_vegas(kept, Models(judge=Colours())).metrics for _ in range(2)]
    assert told[0] == told[1] and list((tmp_path / "kept").rglob("*.npy"))


def rewrite(data: Path, **changes: str) -> None:
    """Change the first row of a manifest."""
    path = data / "manifest.csv"
    with path.open(newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    rows[0] |= {name.replace("category", "class"): value for name, value in changes.items()}
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_id": "../../etc"}, r"manifest.csv:2: clip_id is '../../etc', want the name of a folder"),
        ({"clip_id": ".hidden"}, "want the name of a folder"),
        ({"audio": "/etc/passwd"}, r"audio is '/etc/passwd', want a path within VEGAS/"),
        ({"frame": "frames/../../x.png"}, "frame is .* want a path within"),
        ({"category": " "}, "class is empty"),
        ({"clip_id": "clip01"}, "clip clip01 stands twice"),
    ],
)
def test_a_wrong_manifest_is_refused(config: VegasConfig, changes: dict[str, Any], message: str) -> None:
    rewrite(config.data, **changes)
    with pytest.raises(BenchError, match=message):
        measure_vegas(config, Models(judge=ORACLE))


def test_what_is_missing_or_damaged_is_said(config: VegasConfig, tmp_path: Path) -> None:
    models = Models(judge=Colours())
    with pytest.raises(NeedsError, match="has pictures of none of 12 clips"):
        measure_vegas(VegasConfig(data=config.data, images=tmp_path / "none"), models)
    with pytest.raises(BenchError, match="no clip of split 'val'; there is test, train"):
        measure_vegas(VegasConfig(data=config.data, images=config.images, split="val"), models)
    with pytest.raises(BenchError, match="colours embeds no audio"):
        measure_vegas(config, Models(judge=ORACLE, scorer=Colours()))
    with pytest.raises(BenchError, match="tf_efficientnet_lite0 embeds no text"):
        measure_vegas(config, open_models("image:tf_efficientnet_lite0", None, None))
    (config.images / "clip05" / "0.png").write_bytes(b"no picture")
    with pytest.raises(BenchError, match=r"clip05/0.png: not readable as a picture"):
        measure_vegas(config, models)
    write_picture(config.images / "clip05" / "0.png", 1, 0)
    shutil.rmtree(config.data / "frames")
    with pytest.raises(NeedsError, match="there is no such file, nor of any other clip"):
        measure_vegas(config, models)
    (config.data / "manifest.csv").write_text("clip_id,class\na,b\n", encoding="utf-8")
    with pytest.raises(BenchError, match="want the columns clip_id, class, split, audio, frame"):
        measure_vegas(config, models)


def test_names_lead_nowhere_else(tmp_path: Path) -> None:
    assert is_plain("a clip-1.x") and stays_inside("audio/a b.wav")
    assert not any(map(is_plain, ("", ".", "..", "a/b", "a\\b", "C:x", "a\nb", "a\0")))
    assert not any(map(stays_inside, ("/a", "../a", "a/../../b", "a\\..\\b", "C:/a")))
    write_picture(tmp_path / "clip" / "._hidden.png", 0, 0)
    assert pictures_of(tmp_path / "clip") == []


def test_the_command_tells_writes_and_refuses(config: VegasConfig, tmp_path: Path, call: Call) -> None:
    words = ("vegas", "--data", config.data, "--images", config.images)
    out = tmp_path / "row.json"
    code, told, _ = call(*words, "--judge", "oracle", "--scorer", "random", "--name", "noise", "--out", out)
    assert code == 0 and "12 clips, of 12 listed; 0 black ones left out" in told and "FID: not told" in told
    rows = table_rows([read_row(out)])["vegas"]
    assert [row.figure for row in rows if row.is_ours] == ["r1", "iis", "ais", "is_judge", "kid"]
    assert rows[0].tower == "noise" and rows[0].value == 1 and rows[0].chance == 0.25
    assert out.with_name("row.predictions.parquet").is_file()
    code, told, _ = call(*words, "--judge", "oracle", "--scorer", "oracle", "--same-judge", "--out", out)
    assert code == 0 and "circular: the scorer is the judge" in told
    assert "circular: the scorer is the judge" in call("table", out)[1]  # wherever the row stands
    code, told, _ = call(*words, "--judge", "random", "--json")
    assert code == 0 and json.loads(told)["bench"] == "vegas"
    code, told, _ = call(*words, "--judge", f"clip:{tmp_path}/vit", "--json")
    assert code == 1 and json.loads(told)["status"] == "needs-weights" and json.loads(told)["metrics"] == {}
    code, told, _ = call(
        *words, "--judge", "oracle", "--extractor", f"image:timm:inception_v3:{tmp_path}/x.safetensors"
    )
    assert code == 1 and "needs-weights" in told and "expected: x.safetensors" in told
    code, told, _ = call("vegas", "--data", tmp_path / "none", "--images", tmp_path, "--judge", "oracle")
    assert code == 1 and "needs-data" in told and "manifest.csv" in told
    assert call(*words, "--judge", "oracle", "--per-clip", "0")[0] == 2
    (config.images / "clip00" / "0.png").write_bytes(b"")
    code, _, err = call(*words, "--judge", "oracle")
    assert code == 1 and err.count("\n") == 1 and "clip00/0.png" in err
