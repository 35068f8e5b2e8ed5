"""Figures of shard sets whose every clip is known."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unibrivl.shards import FORMAT_VERSION, ShardError, ShardWriter
from unibrivl.shards.atomic import write_json
from unibrivl.shards.schema import shard_name
from unibrivl.shards.stats import NOT_YET, clock, planned_rows, rows, stats

PLAN = "0" * 64
OK = {
    "num_samples": 16000,
    "duration_ms": 10_000,
    "pad_ms": 0,
    "frame_is_key": True,
    "decode_errors": 0,
    "src_video_codec": "h264",
    "src_audio_codec": "aac",
    "src_width": 1280,
    "src_height": 720,
    "src_fps": 30.0,
    "rms_dbfs": -20.0,
    "peak_dbfs": -3.0,
    "silent_ratio": 0.0,
    "clip_ratio": 0.0,
    "frame_luma_mean": 100.0,
    "frame_luma_std": 40.0,
    "flags": [],
}


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    write_json(root / "dataset.json", {"format": FORMAT_VERSION})
    return root


@pytest.fixture
def write(root, make_clip):
    """Return a function that commits a shard: a number and what its clip has of its own, None for one that failed."""

    def write_rows(clips, *, split="train", number=0, retry=0):
        directory = root / "shards" / split
        directory.mkdir(parents=True, exist_ok=True)
        with ShardWriter(directory, shard_name("as", split, number, retry=retry)) as writer:
            rows = []
            for n, own in clips.items():
                key, members = make_clip(n)
                row = {"key": key, "corpus": "as", "media_id": f"m{n}", "split": split, "labels": [], "events": []}
                row |= {"group": f"m{n}", "license": "", "language": ""}
                if "error_code" in own:
                    row |= {"status": "failed", "error_detail": "no"} | own
                else:
                    row |= OK | {"status": "ok"} | own | writer.add(key, members)
                rows.append(row)
            return writer.commit(split=split, plan_sha256=PLAN, rows=rows)

    return write_rows


def write_plan(root, make_clip, numbers, test=()):
    keys = [make_clip(n)[0] for n in numbers]
    splits = ["test" if n in test else "train" for n in numbers]
    columns = {"key": keys, "shard": [f"as-{split}-000000" for split in splits], "split": splits}
    columns |= {"media_id": [f"m{n}" for n in numbers], "labels": pa.array([["dog"]] * len(keys))}
    (root / "plan").mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), root / "plan" / "plan-00000.parquet")


def test_every_planned_clip_is_counted_once(root, write, make_clip):
    write({0: {}, 1: {"error_code": "media.no_audio"}, 2: {"error_code": "local.missing_file"}})
    write({3: {}, 4: {"error_code": "local.missing_file"}}, number=1)
    write_plan(root, make_clip, range(8))
    found = stats(root)
    assert (found.total.planned, found.total.ok, found.total.failed, found.total.not_yet) == (8, 2, 3, 3)
    assert list(found.errors.items()) == [("local.missing_file", 2), ("media.no_audio", 1)]
    assert found.shards == 2
    assert (found.media, found.media_ok) == (8, 2)


def test_clips_of_no_committed_shard_have_a_row_with_what_was_planned(root, write, make_clip):
    write({0: {}})
    write_plan(root, make_clip, range(2))
    rows = planned_rows(root).to_pylist()
    assert [row["status"] for row in rows] == ["ok", NOT_YET]
    assert rows[1]["labels"] == ["dog"] and rows[1]["split"] == "train" and rows[1]["duration_ms"] is None
    assert stats(root).labels[0].planned == 1 and stats(root).labels[0].ok == 0


def test_a_set_of_which_nothing_is_made_yet(root, make_clip):
    write_plan(root, make_clip, range(5))
    found = stats(root)
    assert (found.total.planned, found.total.not_yet, found.shards) == (5, 5, 0)
    assert found.histograms == {} and found.bytes_per_clip == 0 and found.hours == 0


def test_a_set_without_plan_or_shards_is_empty_and_one_without_its_file_is_refused(root):
    assert stats(root).total.planned == 0
    (root / "dataset.json").unlink()
    with pytest.raises(ShardError, match="no shard set"):
        stats(root)


def test_parts_are_tallied_with_the_seconds_that_came(root, write):
    write({0: {"language": "fr", "license": "CC-BY-4.0"}, 1: {"duration_ms": 2500, "language": "en"}})
    write({2: {"error_code": "quality.silent", "duration_ms": 5000}}, split="test")
    found = stats(root)
    split = {
        name: (tally.planned, tally.ok, tally.failed, tally.seconds) for name, tally in found.parts["split"].items()
    }
    assert split == {"train": (2, 2, 0, 12.5), "test": (1, 0, 1, 0.0)}
    assert {name: tally.ok for name, tally in found.parts["language"].items()} == {"fr": 1, "en": 1, "": 0}
    assert found.parts["license"]["CC-BY-4.0"].planned == 1
    assert found.hours == pytest.approx(12.5 / 3600)


def test_one_split_alone(root, write, make_clip):
    write({0: {}, 1: {}})
    write({2: {"error_code": "source.private"}}, split="test")
    write_plan(root, make_clip, range(4), test={2})
    assert stats(root, "test").total.planned == 1
    assert stats(root, "train").total.planned == 3
    with pytest.raises(ShardError, match="no clip of split 'valid'"):
        stats(root, "valid")


def test_sizes_come_from_the_commits(root, write):
    commits = [write({0: {}, 1: {}}), write({2: {}}, number=1)]
    found = stats(root)
    assert found.tar_bytes == sum(commit.path(".tar").stat().st_size for commit in commits)
    suffixes = (".tar", ".tar.idx", ".parquet")
    assert found.total_bytes == sum(commit.path(s).stat().st_size for commit in commits for s in suffixes)
    assert found.bytes_per_clip == found.tar_bytes / 3


def test_rounds_of_retries_are_told_apart_and_their_clips_counted_once(root, write):
    write({0: {}, 1: {"error_code": "transient.network"}, 2: {"error_code": "transient.network"}})
    write({1: {}, 2: {"error_code": "source.private"}}, retry=1)
    found = stats(root)
    assert found.retries == {"r01": {"tried": 2, "ok": 1}}
    assert (found.total.planned, found.total.ok) == (3, 2)
    assert found.errors == {"source.private": 1}


def test_labels_count_what_was_planned_and_what_came(root, write):
    events = [{"start_ms": 0, "end_ms": 10, "label": "dog"}, {"start_ms": 5, "end_ms": 9, "label": "cat"}]
    write(
        {
            0: {"labels": ["dog", "bark"]},
            1: {"labels": ["dog"]},
            2: {"labels": ["cat"], "error_code": "media.no_audio"},
            4: {"labels": ["cat"], "error_code": "media.no_audio"},
            3: {"events": events},
        }
    )
    found = stats(root)
    assert [(c.label, c.planned, c.ok) for c in found.labels] == [("dog", 2, 2), ("bark", 1, 1), ("cat", 2, 0)]
    assert (found.num_labels, found.unlabelled, found.events, found.with_events) == (3, 1, 2, 1)


def test_sources_and_flags_are_counted(root, write):
    write(
        {
            0: {"flags": ["silent", "black_frame"], "pad_ms": 20},
            1: {"flags": ["silent"], "frame_is_key": False, "decode_errors": 2, "src_fps": 29.97003},
            2: {"src_width": 640, "src_height": 360, "src_video_codec": "vp9"},
        }
    )
    found = stats(root)
    assert found.flags == {"silent": 2, "black_frame": 1}
    assert (found.padded, found.key_frames, found.decode_errors) == (1, 2, 1)
    assert found.sources["size"] == {"1280x720": 2, "640x360": 1}
    assert found.sources["fps"] == {"30": 2, "29.97": 1}
    assert found.sources["video_codec"] == {"h264": 2, "vp9": 1}


def test_histograms_hold_every_clip_that_came(root, write):
    levels = [-120.0, -79.0, -20.0, -19.9, 0.0]
    write({n: {"rms_dbfs": level, "duration_ms": 1000 * (n + 1)} for n, level in enumerate(levels)})
    loudness = stats(root).histograms["rms_dbfs"]
    by_bin = {edge: count for edge, count in zip(loudness.edges, loudness.counts, strict=False) if count}
    assert by_bin == {-80.0: 2, -20.0: 2, -4.0: 1}
    assert (loudness.least, loudness.median, loudness.most, loudness.unit) == (-120.0, -20.0, 0.0, "dBFS")
    durations = stats(root).histograms["duration_s"]
    assert sum(durations.counts) == 5 and len(durations.edges) == len(durations.counts) + 1 <= 25
    assert durations.edges[0] <= 1 and durations.edges[-1] >= 5


@pytest.mark.parametrize("durations_ms", [[10_000], [10_000] * 3, [1, 86_400_000], [9_999, 10_000], [333, 334, 335]])
def test_bins_are_few_at_round_numbers_and_hold_everything(root, write, durations_ms):
    write({n: {"duration_ms": duration} for n, duration in enumerate(durations_ms)})
    histogram = stats(root).histograms["duration_s"]
    assert sum(histogram.counts) == len(durations_ms) and len(histogram.counts) <= 25
    assert histogram.edges[0] <= min(durations_ms) / 1000 <= max(durations_ms) / 1000 <= histogram.edges[-1]
    assert all(len(f"{edge:.12g}") <= 6 for edge in histogram.edges)


def test_what_is_missing_or_not_a_number_is_in_no_histogram(root, write):
    write({0: {"rms_dbfs": None, "src_fps": None}, 1: {"rms_dbfs": float("nan"), "src_fps": 25.0}})
    histograms = stats(root).histograms
    assert "rms_dbfs" not in histograms and histograms["fps"].counts == (1,)


def test_everything_is_json(root, write, make_clip):
    write({0: {"labels": ["dog"]}, 1: {"error_code": "media.no_audio"}})
    write_plan(root, make_clip, range(3))
    value = json.loads(json.dumps(stats(root).as_dict(), allow_nan=False))
    assert value["total"]["planned"] == 3 and value["parts"]["split"]["train"]["not_yet"] == 1
    assert value["hours"] > 0 and value["labels"] == [{"label": "dog", "planned": 2, "ok": 1}]


def test_a_damaged_plan_is_named(root):
    (root / "plan").mkdir()
    (root / "plan" / "plan-00000.parquet").write_bytes(b"no table")
    with pytest.raises(ShardError, match=r"plan-00000\.parquet: not a readable plan"):
        stats(root)


def test_the_lines_for_a_terminal_name_every_reason(root, write, make_clip):
    write({0: {"flags": ["silent"]}, 1: {"error_code": "media.no_audio"}})
    write_plan(root, make_clip, range(3))
    lines = dict(rows(stats(root)))
    assert lines["planned"].startswith("3 clips") and lines["  media.no_audio"] == "1" and lines["not yet"] == "1"
    assert lines["split train"].startswith("1 of 3") and lines["flag silent"] == "1" and "loudness" in lines
    assert dict(rows(stats(root, "train")))["failed"] == "1"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0.0 min"), (90, "1.5 min"), (3600, "1.0 h"), (3.6e7, "10,000.0 h")])
def test_lengths_of_time_are_in_hours_or_minutes(seconds, text):
    assert clock(seconds) == text
