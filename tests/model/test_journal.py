"""What a run writes down: lines by step, forgotten from the step that is made again."""

import json
from pathlib import Path

import pytest

from unibrivl.model.journal import METRICS_FILE, Journal, last_validation, read_metrics

SCORES = {
    name: 0.5 for name in ("r1", "r5", "r10", "medr", "mrr", "chance_r1", "chance_r5", "chance_r10", "chance_medr",
                           "chance_mrr")
} | {"queries": 3, "gallery": 4}  # fmt: skip


def write(run: Path, steps: range) -> None:
    journal = Journal(run, step=steps.start - 1, tensorboard=False)
    for step in steps:
        journal.write({"step": step, "loss": step / 2})
    journal.write({"step": steps[-1], "validation": {"audio_to_image": SCORES}})
    journal.close()


def test_later_steps_are_forgotten(tmp_path: Path) -> None:
    write(tmp_path, range(1, 6))
    Journal(tmp_path, step=3, tensorboard=False)
    assert [entry["step"] for entry in read_metrics(tmp_path)] == [1, 2, 3]
    assert last_validation(tmp_path) is None


@pytest.mark.parametrize(
    "torn",
    [
        "",
        "{",
        '{"step"',
        '{"step": 6, "lo',
        '{"step": "x"}',
        "null",
        "[1]",
        '{"step": 1e400}',
        '{"step": 5, "validation": 3}',
        '{"step": 5, "validation": {"audio_to_image": {"mrr": 1}}}',
        '{"step": 5, "deep": ' + "[" * 100_000,
    ],
)
def test_a_torn_line_is_no_entry(tmp_path: Path, torn: str) -> None:
    write(tmp_path, range(1, 6))
    with (tmp_path / METRICS_FILE).open("a") as f:
        f.write(torn)
    assert [entry["step"] for entry in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 5]
    found = last_validation(tmp_path)
    assert found is not None and found["audio_to_image"].mrr == 0.5
    write(tmp_path, range(6, 8))
    assert [json.loads(line)["step"] for line in (tmp_path / METRICS_FILE).read_text().splitlines()] == [
        1, 2, 3, 4, 5, 5, 6, 7, 7,
    ]  # fmt: skip


def test_a_line_that_a_disk_damaged_is_left_out_and_the_others_stay(tmp_path: Path) -> None:
    write(tmp_path, range(1, 6))
    path = tmp_path / METRICS_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"\xff\xfe\x00" + lines[1][3:], *lines[2:]]))
    assert [entry["step"] for entry in read_metrics(tmp_path)] == [1, 3, 4, 5, 5]
    assert last_validation(tmp_path) is not None
    Journal(tmp_path, step=4, tensorboard=False)
    assert path.read_bytes() == b"".join([lines[0], *lines[2:4]])


def test_no_run_has_no_entries(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == [] and last_validation(tmp_path) is None


def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    journal = Journal(tmp_path, step=0, tensorboard=True)
    journal.write({"step": 1, "loss": 2.5, "temperature": [0.07, 0.08]})
    journal.write({"step": 1, "validated_on": "held-out groups", "validation": {"audio_to_image": SCORES}})
    journal.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    names = set(events.Tags()["scalars"])
    assert {"train/loss", "train/temperature/1", "validation/audio_to_image/chance_mrr"} <= names
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 2.5)]
