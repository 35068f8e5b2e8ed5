"""VGGSound's lists, clips, retrieval and classes: on the real test list, and on a made-up folder in its layout."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unibrivl.bench import vggsound_classes
from unibrivl.bench.clip_media import read_frame, read_sound_at, tiled
from unibrivl.bench.encoders import open_encoder, unit
from unibrivl.bench.errors import BenchError, NeedsError
from unibrivl.bench.probes import Recipe
from unibrivl.bench.vggsound import read_list, shares_of
from unibrivl.bench.vggsound_classes import VggsoundConfig, measure_vggsound
from unibrivl.bench.vggsound_retrieval import VggsoundRetrievalConfig, measure_vggsound_retrieval

from .table_sets import LABELS, write_vggsound

SMALL = Recipe(hidden=((16,),), lrs=(1e-2,), batch_size=16, epochs=60, patience=20)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 12 clips to be measured and 24 to be trained on; do not write there."""
    return write_vggsound(tmp_path_factory.mktemp("vgg") / "VGGSound", clips=4, train=8)


class Eyes:
    """Tells the classes of the made-up clips apart by what is heard and by the tint of the picture."""

    name, fingerprint, sample_rate = "eyes", "eyes", 16_000

    def embed_audio(self, sounds: list[np.ndarray], sample_rate: int) -> np.ndarray:
        assert {sound.shape for sound in sounds} == {(160_000,)}  # ten seconds
        crossings = np.array([(np.diff(np.sign(sound)) != 0).mean() for sound in sounds])
        return np.eye(3, dtype=np.float32)[np.searchsorted([0.1, 0.25], crossings)]

    def embed_image(self, pictures: list[np.ndarray]) -> np.ndarray:
        return np.eye(3, dtype=np.float32)[[picture.mean(axis=(0, 1)).argmax() for picture in pictures]]


def retrieval(data: Path, **changes: object) -> VggsoundRetrievalConfig:
    return replace(VggsoundRetrievalConfig(data=data), **changes)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_real_list_has_the_published_chance(folder: Callable[[str], Path]) -> None:
    """Random embeddings measure what chance says: 0.00066 by clip, 0.01865 by class (five deviations)."""
    data = folder("data") / "vggsound" / "test.csv"
    result = measure_vggsound_retrieval(retrieval(data), open_encoder("random"))
    assert result.coverage["clips"] == result.coverage["listed"] == 15_446
    assert result.coverage["classes"] == 309 and result.coverage["missing_classes"] == [] and result.status == "ok"
    for direction in ("audio_to_image", "image_to_audio"):
        chance, found = result.chance[direction], result.metrics[direction]
        assert round(chance["instance"]["mrr"], 5) == 0.00066 and round(chance["class"]["mrr"], 5) == 0.01865
        assert chance["class_without_self"]["mrr"] < chance["class"]["mrr"]
        assert found["instance"]["mrr"] == pytest.approx(0.00066, abs=5 * 0.000083)
        assert found["class"]["mrr"] == pytest.approx(0.01865, abs=5 * 0.0005)


def test_both_kinds_of_list_are_read(tmp_path: Path) -> None:
    whole = tmp_path / "vggsound.csv"
    rows = [
        ("# YouTube ID", "start seconds", "label", "train/test split"), ("abc-_123xyz", "30", "race car, auto", "test"),
        ("abc-_123xyz", "40", "dog", "train"), ("bbbbbbbbbbb", "0", "dog", "test"),
    ]  # fmt: skip
    with whole.open("w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows(rows)
    test = read_list(tmp_path)
    assert test.names == ("abc-_123xyz_000030", "bbbbbbbbbbb_000000") and test.labels == ("dog", "race car, auto")
    assert read_list(tmp_path, "train").names == ("abc-_123xyz_000040",)
    (tmp_path / "test.csv").write_text('a_000001.mp4,"b, c"\n', encoding="utf-8")
    assert read_list(tmp_path).labels == ("b, c",)  # the split's own list comes first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4,b,c\n", r"test\.csv:1: .* want <id>_<start>\.mp4,label"),
        ("a_1.mp4,b\na_1.mp4,c\n", "clip a_1 stands twice"),
        ("", "lists no clip of split test"),
    ],
)
def test_a_list_that_is_not_vggsounds_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "test.csv").write_text(text, encoding="utf-8")
    with pytest.raises(BenchError, match=message):
        read_list(tmp_path)


def test_missing_lists_and_clips_are_named(tmp_path: Path) -> None:
    with pytest.raises(NeedsError, match=r"has no test\.csv nor vggsound\.csv") as caught:
        read_list(tmp_path)
    assert caught.value.status == "needs-data" and "test.csv" in caught.value.expected
    data = write_vggsound(tmp_path / "VGGSound", media=False)
    with pytest.raises(NeedsError, match="not one of 12 clips is there") as caught:
        measure_vggsound_retrieval(retrieval(data), Eyes())
    assert caught.value.expected[0] == "video/testvid0000_000000.mp4"


def test_media_are_read_at_the_rate_and_place_asked_for(clips: Path) -> None:
    path = clips / "video" / "testvid0000_000000.mp4"
    assert abs(len(read_sound_at(path, 8000)) - 4000) < 1200  # AAC pads to whole frames
    early, late = read_frame(path, 0.0), read_frame(path, 0.9)
    assert early.shape == (48, 64, 3) and late[..., 1].mean() > early[..., 1].mean() + 60
    assert tiled(np.array([0.5, 2.0, -3.0]), 5).tolist() == [0.5, 1, -1, 0.5, 1]
    with pytest.raises(BenchError, match="not readable as sound"):
        read_sound_at(clips / "test.csv", 8000)
    with pytest.raises(BenchError, match="not readable as a picture"):
        read_frame(clips / "test.csv", 0.5)


def test_frames_are_drawn_by_seed_and_clip() -> None:
    assert shares_of("a", "middle", 0) == [0.5] and shares_of("a", "mean-of-2", 0) == [0.25, 0.75]
    assert shares_of("a", "single", 0) == shares_of("a", "single", 0) != shares_of("a", "single", 1)
    drawn = np.array([shares_of(f"clip{n}", "single", 0)[0] for n in range(2000)])
    assert drawn.min() >= 0 and drawn.max() < 1 and abs(drawn.mean() - 0.5) < 0.03  # 4 deviations
    with pytest.raises(ValueError, match="frames is 'mean-of-x', want single, middle, or mean-of-N"):
        VggsoundRetrievalConfig(data=Path("a"), frames="mean-of-x")


@pytest.mark.parametrize("frames", ["single", "middle", "mean-of-3"])
def test_real_media_find_their_class(clips: Path, frames: str) -> None:
    """Every clip of a class embeds alike: by class all is found, by clip a tie of four."""
    result = measure_vggsound_retrieval(retrieval(clips, frames=frames), Eyes())
    for figures in result.metrics.values():
        assert figures["class"]["mrr"] == figures["class_without_self"]["mrr"] == 1
        assert figures["instance"]["mrr"] == pytest.approx(1 / 2.5) and figures["instance"]["tied"] == 12
    broken = result.more["ties_broken_at_random"]["audio_to_image"]["instance"]
    assert broken["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, abs=1e-6)
    assert result.status == "partial" and result.coverage["clips"] == 12


def test_ceiling_and_chance_by_every_scoring(tmp_path: Path) -> None:
    data = write_vggsound(tmp_path / "VGGSound", clips=60, media=False)
    for tower in ("oracle", "random"):
        result = measure_vggsound_retrieval(retrieval(data), open_encoder(tower))
        for direction, scorings in result.metrics.items():
            for scoring, figures in scorings.items():
                chance = result.chance[direction][scoring]["mrr"]
                low, high = result.interval[direction][scoring]["mrr"]
                assert figures["mrr"] == 1 if tower == "oracle" else low - 0.05 < chance < high + 0.05, scoring


def test_coverage_names_the_classes_without_a_clip(tmp_path: Path) -> None:
    data = write_vggsound(tmp_path / "VGGSound", clips=2)
    for path in (data / "video").glob("*"):
        if int(path.name[7:11]) % 3 == 1 or path.name.startswith("testvid0005"):
            path.unlink()
    result = measure_vggsound_retrieval(retrieval(data), Eyes())
    assert (result.coverage["clips"], result.coverage["listed"]) == (3, 6)
    assert result.coverage["missing_classes"] == [LABELS[1]]
    assert result.coverage["unanswerable"] == {"instance": 0, "class": 0, "class_without_self": 1}


def test_smaller_galleries_are_drawn_or_listed_and_told(tmp_path: Path) -> None:
    data = write_vggsound(tmp_path / "VGGSound", clips=8, media=False)
    first, again, other = (
        measure_vggsound_retrieval(retrieval(data, gallery="5-per-class", seed=seed), open_encoder("oracle"))
        for seed in (0, 0, 1)
    )
    assert first.more["gallery_clips"] == again.more["gallery_clips"] != other.more["gallery_clips"]
    assert len(first.more["gallery_clips"]) == 15 and first.coverage["clips"] == 15
    (tmp_path / "own.txt").write_text("\n".join(first.more["gallery_clips"][:7]), encoding="utf-8")
    own = measure_vggsound_retrieval(retrieval(data, only=tmp_path / "own.txt"), open_encoder("oracle"))
    assert own.more["gallery_clips"] == first.more["gallery_clips"][:7] and "own list" in own.protocol
    (tmp_path / "own.txt").write_text("nothing\n", encoding="utf-8")
    with pytest.raises(BenchError, match="names none of the 24 clips"):
        measure_vggsound_retrieval(retrieval(data, only=tmp_path / "own.txt"), open_encoder("oracle"))


def test_given_embeddings_are_those_of_a_tower(tmp_path: Path) -> None:
    """As .npy in the list's order, and as `unibrivl embed` writes them: by medium and start, in any order."""
    data = write_vggsound(tmp_path / "VGGSound", clips=4, media=False)
    names = read_list(data).names
    sides = [unit(np.random.default_rng(n).standard_normal((12, 8))) for n in range(2)]
    for name, vectors in zip(("audio", "image"), sides, strict=True):
        np.save(tmp_path / f"{name}.npy", vectors)
    shuffled = np.random.default_rng(2).permutation(12)
    columns = {
        "media_id": [names[n][:-7] for n in shuffled], "start_ms": [1000 * int(names[n][-6:]) for n in shuffled],
        "audio": [sides[0][n] for n in shuffled], "image": [sides[1][n] for n in shuffled],
    }  # fmt: skip
    (tmp_path / "set" / "test").mkdir(parents=True)
    pq.write_table(pa.table(columns), tmp_path / "set" / "test" / "a.parquet")

    def measure(audio: str, image: str) -> object:
        config = retrieval(data, audio_embeddings=tmp_path / audio, image_embeddings=tmp_path / image)
        return measure_vggsound_retrieval(config, None)

    plain, embedded = measure("audio.npy", "image.npy"), measure("set", "set")
    assert plain.metrics == embedded.metrics and plain.coverage["clips"] == 12  # type: ignore[attr-defined]
    pq.write_table(pa.table(columns).slice(3), tmp_path / "set" / "test" / "a.parquet")
    assert measure("set", "set").coverage["clips"] == 9  # type: ignore[attr-defined]
    np.save(tmp_path / "audio.npy", sides[0][:5])
    with pytest.raises(BenchError, match=r"audio\.npy: 5 rows, want 12"):
        measure("audio.npy", "image.npy")
    with pytest.raises(BenchError, match="no image embeddings are given; want --image-embeddings or --tower"):
        measure_vggsound_retrieval(retrieval(data, audio_embeddings=tmp_path / "set"), None)
    np.save(tmp_path / "audio.npy", sides[0][:, :4])
    with pytest.raises(BenchError, match="sounds have 4 dimensions, pictures 8"):
        measure("audio.npy", "image.npy")
    with pytest.raises(NeedsError, match="there is no such file"):
        measure("nothing.npy", "image.npy")


def test_classes_by_a_probe_on_real_media(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vggsound_classes.PROBES, "l3", SMALL)
    result = measure_vggsound(VggsoundConfig(data=clips), Eyes())
    assert result.metrics["map"] == result.metrics["top1"] == result.metrics["auc"] == 1
    assert result.metrics["d_prime"] is None and result.metrics["classes"] == 3
    assert result.config["chosen"]["train_clips"] == 22 and result.config["chosen"]["train_listed"] == 24
    assert result.chance["map"] == pytest.approx(1 / 3, abs=1e-5) and result.chance["map_random_order"] > 1 / 3


def test_ceiling_and_chance_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vggsound_classes.PROBES, "l3", SMALL)
    data = write_vggsound(tmp_path / "VGGSound", clips=50, train=30, media=False)
    for probe in ("l3", "zero-shot"):
        oracle, chance = (
            measure_vggsound(VggsoundConfig(data=data, probe=probe), open_encoder(tower))
            for tower in ("oracle", "random")
        )
        assert oracle.metrics["map"] == oracle.metrics["top5"] == 1
        assert abs(chance.metrics["map"] - chance.chance["map_random_order"]) < 0.1  # 4 deviations
        assert abs(chance.metrics["auc"] - 0.5) < 0.12


def test_a_class_without_clips_is_left_out_in_sight(tmp_path: Path) -> None:
    data = write_vggsound(tmp_path / "VGGSound", clips=3)
    for path in (data / "video").glob("*"):
        if int(path.name[7:11]) % 3 == 1:
            path.unlink()

    class Told(Eyes):
        def embed_text(self, texts: list[str]) -> np.ndarray:
            return np.eye(3, dtype=np.float32)[[next(n for n, label in enumerate(LABELS) if label in t) for t in texts]]

    result = measure_vggsound(VggsoundConfig(data=data, probe="zero-shot"), Told())
    assert result.metrics["classes"] == 2 and result.metrics["map"] == 1
    assert result.coverage["missing_classes"] == [LABELS[1]] and list(result.more["map_by_class"]) == [
        LABELS[0],
        LABELS[2],
    ]


def test_given_scores_are_measured_as_they_are(tmp_path: Path) -> None:
    data = write_vggsound(tmp_path / "VGGSound", clips=4, media=False)
    np.save(tmp_path / "scores.npy", np.zeros((12, 3)))
    result = measure_vggsound(VggsoundConfig(data=data, scores=tmp_path / "scores.npy"), None)
    assert result.metrics["map"] == pytest.approx(result.chance["map"], abs=1e-6)  # equal scores: exactly chance
    assert result.metrics["auc"] == 0.5 and result.metrics["d_prime"] == 0 and result.metrics["top1"] == 0
    np.save(tmp_path / "scores.npy", np.zeros((12, 2)))
    with pytest.raises(BenchError, match=r"shape \(12, 2\), want \(12, 3\)"):
        measure_vggsound(VggsoundConfig(data=data, scores=tmp_path / "scores.npy"), None)
