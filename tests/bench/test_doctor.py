"""The doctor: what is there in the official layouts, what is missing by name, and how much of it."""

from pathlib import Path

import pytest

from unibrivl.bench.doctor import DATASETS, Finding, examine
from unibrivl.bench.errors import BenchError

from .esc_folder import write_set
from .table_sets import LABELS, VEGAS_CLASSES, write_clotho, write_urbansound8k, write_vegas, write_vggsound


def by_name(data: Path) -> dict[str, Finding]:
    return {finding.dataset: finding for finding in examine(data)}


def test_an_empty_folder_names_what_each_table_needs(tmp_path: Path) -> None:
    found = by_name(tmp_path)
    assert len(found) == len(DATASETS) and {finding.status for finding in found.values()} == {"needs-data"}
    assert "meta/esc50.csv" in found["ESC-50"].note and "metadata/UrbanSound8K.csv" in found["UrbanSound8K"].note
    assert found["DESED, public evaluation"].note == "metadata/eval/public.tsv, audio/eval/public/*.wav"
    with pytest.raises(BenchError, match="there is no such folder"):
        examine(tmp_path / "nothing")


def test_what_is_there_is_counted_and_what_is_not_is_named(tmp_path: Path) -> None:
    write_set(tmp_path / "ESC-50", table="meta/esc50.csv")
    write_urbansound8k(tmp_path / "UrbanSound8K")
    write_vggsound(tmp_path / "VGGSound", clips=2)
    (tmp_path / "VGGSound" / "video" / "testvid0001_000030.mp4").unlink()
    (tmp_path / "VGGSound" / "video" / "testvid0004_000120.mp4").unlink()
    (tmp_path / "UrbanSound8K" / "audio" / "fold3" / "3000-0-0-0.wav").unlink()
    found = by_name(tmp_path)
    assert (found["ESC-50"].status, found["ESC-50"].files, found["ESC-50"].official) == ("partial", 40, 2000)
    assert found["UrbanSound8K"].missing == ("audio/fold3/3000-0-0-0.wav",) and found["UrbanSound8K"].files == 39
    sounds = found["VGGSound, test"]
    assert (sounds.files, sounds.listed, sounds.status) == (4, 6, "partial")
    assert sounds.missing == ("video/testvid0001_000030.mp4", "video/testvid0004_000120.mp4")
    assert sounds.missing_classes == (LABELS[1],) and f"class {LABELS[1]}" in sounds.cells()[-1]


def test_a_set_may_be_examined_by_itself(tmp_path: Path) -> None:
    found = by_name(write_urbansound8k(tmp_path / "anything"))
    assert found["UrbanSound8K"].files == 40 and found["ESC-50"].status == "needs-data"


def test_tables_of_files_are_read_in_their_layouts(tmp_path: Path) -> None:
    desed, clotho = tmp_path / "DESED", tmp_path / "Clotho"
    (desed / "metadata" / "validation").mkdir(parents=True)
    (desed / "audio" / "validation").mkdir(parents=True)
    (desed / "metadata" / "validation" / "validation.tsv").write_text(
        "filename\tonset\toffset\tevent_label\na.wav\t0\t1\tDog\na.wav\t2\t3\tCat\nb.wav\t\t\t\n", encoding="utf-8"
    )
    (desed / "audio" / "validation" / "a.wav").touch()
    (clotho / "evaluation").mkdir(parents=True)
    (clotho / "evaluation" / "x: y.wav").touch()
    (clotho / "clotho_captions_evaluation.csv").write_text("file_name,caption_1\nx: y.wav,a\n", encoding="utf-8")
    found = by_name(tmp_path)
    assert (found["DESED, validation"].files, found["DESED, validation"].listed) == (1, 2)
    assert found["DESED, validation"].missing == ("audio/validation/b.wav",)
    assert "Blender" in found["DESED, validation"].missing_classes
    assert found["DESED, synthetic training"].note.startswith("metadata/train/synthetic21_train/soundscapes.tsv")
    assert (found["Clotho, evaluation"].files, found["Clotho, evaluation"].status) == (1, "partial")
    (clotho / "clotho_captions_evaluation.csv").write_text("name\nx\n", encoding="utf-8")
    assert by_name(tmp_path)["Clotho, evaluation"].note == "clotho_captions_evaluation.csv: has no column file_name"
    (clotho / "clotho_captions_evaluation.csv").write_bytes("file_name\ncaf\u00e9.wav\n".encode("iso-8859-1"))
    assert "clotho_captions_evaluation.csv: not readable as utf-8" in by_name(tmp_path)["Clotho, evaluation"].note


def test_clotho_is_examined_split_by_split(tmp_path: Path) -> None:
    write_clotho(tmp_path / "Clotho", clips=(4, 3, 2))
    next((tmp_path / "Clotho" / "validation").iterdir()).unlink()
    found = by_name(tmp_path)
    told = {name: (f.status, f.files, f.listed) for name, f in found.items() if name.startswith("Clotho")}
    assert told == {
        "Clotho, development": ("ok", 4, 4), "Clotho, validation": ("partial", 2, 3),
        "Clotho, evaluation": ("partial", 2, 2),
    }  # fmt: skip


def test_clips_of_vegas_need_sound_and_frame(tmp_path: Path) -> None:
    vegas = write_vegas(tmp_path / "VEGAS", per_class=1)
    (vegas / "frames" / "1.png").unlink()
    found = by_name(tmp_path)["VEGAS-5"]
    assert (found.files, found.listed, found.status) == (3, 5, "partial")
    assert found.missing == ("frames/1.png", "audio/none.wav") and found.missing_classes == (VEGAS_CLASSES[1],)
    (vegas / "manifest.csv").unlink()
    assert by_name(vegas)["VEGAS-5"].status == "needs-data"
    (tmp_path / "other" / "a").mkdir(parents=True)
    (tmp_path / "other" / "a" / "x.mp4").touch()
    assert "manifest.csv" in by_name(tmp_path / "other")["VEGAS-5"].note  # folders of anything are no VEGAS
