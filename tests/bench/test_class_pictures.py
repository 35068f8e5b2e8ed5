"""Sounds to class pictures, the whole way through the commands, on made-up tones."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unibrivl.bench.class_pictures import ClassPicturesConfig, measure_class_pictures
from unibrivl.bench.errors import BenchError

from .esc_folder import write_set


@pytest.mark.slow
def test_tones_find_the_cards_of_their_class(tmp_path: Path) -> None:
    data = write_set(tmp_path / "esc")
    config = ClassPicturesConfig(
        data=data, work=tmp_path / "work", folds=(2,), language_tower="tdnn", epochs=8, batch_size=16
    )
    seen: list[tuple[int, int, str]] = []
    result = measure_class_pictures(config, lambda *step: seen.append(step)).as_dict()
    assert [text for *_, text in seen] == ["fold 2", ""]
    metrics = result["metrics"]
    assert metrics["r1"] >= 0.85  # two tones, three octaves apart; chance is a half
    assert metrics["r1"] == pytest.approx(np.mean(list(metrics["r1_by_fold"].values())))
    assert result["chance"]["r1"] == 0.5 and 0.2 < result["permuted"]["r1"] < 0.8
    assert result["status"] == "partial" and result["coverage"]["folds"] == [2]
    assert json.loads(json.dumps(result)) == result
    rows = (tmp_path / "work/fold2/list.csv").read_text().splitlines()[1:]
    assert len(rows) == 40 and sum(",test," in row for row in rows) == 8


def test_a_missing_class_picture_is_named(tmp_path: Path) -> None:
    data = write_set(tmp_path / "esc")
    Image.new("RGB", (8, 8)).save(tmp_path / "low.png")
    config = ClassPicturesConfig(data=data, work=tmp_path / "work", pictures=tmp_path)
    with pytest.raises(BenchError, match=r"no picture of class 'high'; want high\.png or \.jpg"):
        measure_class_pictures(config)


@pytest.mark.parametrize("options", [{"folds": (6,)}, {"folds": ()}, {"folds": (1, 1)}, {"epochs": 0}, {"seed": -1}])
def test_values_that_cannot_be_meant_are_refused(tmp_path: Path, options: dict) -> None:
    with pytest.raises(ValueError, match="want"):
        ClassPicturesConfig(data=tmp_path, work=tmp_path, **options)
