"""Checks how one shard is made: its samples, its sidecar, and what it says while it works."""

import hashlib
import json
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unibrivl.ingest.clips import Clip, Event
from unibrivl.ingest.errors import ClipError
from unibrivl.ingest.mux import write_video
from unibrivl.ingest.patience import Gate, PatienceConfig
from unibrivl.ingest.recipe import Recipe
from unibrivl.ingest.sources import make_source
from unibrivl.ingest.worker import ShardMaker, ShardTask, WorkerConfig
from unibrivl.shards import ClipShards, read_commit
from unibrivl.shards.atomic import write_json
from unibrivl.shards.catalog import read_sidecar

Configure = Callable[..., WorkerConfig]


def maker(config: WorkerConfig, tell: Callable[..., None]) -> ShardMaker:
    gate = Gate(PatienceConfig(), multiprocessing.get_context("spawn"))
    return ShardMaker(config, make_source(config.source), gate, tell)


def make(config: WorkerConfig, clips: list[Clip], poison: dict[str, ClipError] | None = None) -> list[tuple[str, ...]]:
    """Make one shard; return what was told about clips that are done."""
    told: list[tuple[str, ...]] = []
    task = ShardTask("gen-train-000000", "train", tuple(clips), poison=poison or {})
    maker(config, lambda *event: told.append(event)).make(task)
    assert {event[0] for event in told} <= {"clip", "done", "kept"}
    return [event for event in told if event[0] != "clip"]


def commit_file(config: WorkerConfig) -> Path:
    return config.out / "shards" / "train" / "gen-train-000000.commit.json"


def test_good_and_bad_clips_of_one_shard(
    media: Callable[..., Path], worker_config: Configure, clips_of: Callable[..., list[Clip]]
) -> None:
    folder = media("a", "b", "c")
    (folder / "b.mp4").write_text("<html>")
    config = worker_config(folder)
    clips = clips_of("a", "b", "gone", "c")
    told = make(config, clips)
    keys = [clip.key for clip in clips]
    assert [event[:2] for event in told] == [("done", key) for key in keys]
    assert [event[2] for event in told] == ["", "media.not_media", "local.missing_file", ""]
    commit = read_commit(commit_file(config))
    assert (commit.planned, commit.ok) == (4, 2)
    assert commit.errors == {"local.missing_file": 1, "media.not_media": 1}
    rows = read_sidecar(commit).to_pylist()
    assert [row["key"] for row in rows] == keys
    assert [row["status"] for row in rows] == ["ok", "failed", "failed", "ok"]
    assert rows[1]["error_detail"].startswith("b.mp4: ")
    for row in rows[1:3]:
        assert row["tar_offset"] is row["num_samples"] is row["src_sha256"] is None


def test_the_sidecar_says_what_lies_in_the_tar(media: Callable[..., Path], worker_config: Configure) -> None:
    folder = media("a", "b")
    config = worker_config(folder)
    clips = [
        Clip(corpus="gen", media_id="a", start_ms=100, end_ms=900, labels=("x", "y"), caption="A «tone»", group="g",
             language="fr", license="CC0-1.0"),
        Clip(corpus="gen", media_id="a", start_ms=200, end_ms=700),
        Clip(corpus="gen", media_id="b", source="b.mp4", start_ms=0, end_ms=1000),
    ]  # fmt: skip
    make(config, clips)
    write_json(config.out / "dataset.json", {"format": 1})
    with ClipShards(config.out) as shards:
        rows = shards.catalog.table.to_pylist()
        samples = list(shards)
    for clip, row, sample in zip(clips, rows, samples, strict=True):
        assert row["key"] == sample.key == clip.key
        length_ms = clip.end_ms - clip.start_ms
        assert row["num_samples"] == len(sample.audio()) == 16 * length_ms
        assert (row["duration_ms"], row["pad_ms"], row["decode_errors"]) == (length_ms, 0, 0)
        assert row["audio_sha256"] == hashlib.sha256(sample.members["flac"]).hexdigest()
        assert row["frame_sha256"] == hashlib.sha256(sample.members["jpg"]).hexdigest()
        assert row["src_sha256"] == hashlib.sha256((folder / f"{clip.media_id}.mp4").read_bytes()).hexdigest()
        assert sample.frame().shape == (16, 16, 3)
        assert row["group"] == (clip.group or clip.media_id)
        assert abs(row["peak_dbfs"] - -6.02) < 1 and row["silent_ratio"] == row["clip_ratio"] == 0
        assert abs(row["frame_luma_mean"] - sample.frame().mean(axis=(0, 1)) @ [0.299, 0.587, 0.114]) < 2
        info = sample.info()
        for name in ("key", "start_ms", "end_ms", "labels", "caption", "language", "license", "split", "group"):
            assert info[name] == row[name]
    assert samples[0].info()["labels"] == ["x", "y"]
    assert samples[0].info()["caption"] == "A «tone»"
    assert "«" in samples[0].members["json"].decode()


def test_sound_is_stored_without_loss(
    media: Callable[..., Path], worker_config: Configure, clips_of: Callable[..., list[Clip]]
) -> None:
    from unibrivl.ingest.decode import decode_clip

    folder = media("a")
    config = worker_config(folder)
    make(config, clips_of("a"))
    write_json(config.out / "dataset.json", {"format": 1})
    with ClipShards(config.out) as shards:
        stored = shards[0]
    clip = decode_clip(folder / "a.mp4", 0, 1000, config.recipe.decode)
    assert np.array_equal(np.round(stored.audio() * 32768).astype(np.int16), clip.audio)
    assert np.abs(stored.frame().astype(int) - clip.frames[0]).mean() < 4  # JPEG


def test_a_shard_without_a_good_clip_is_committed_all_the_same(
    media: Callable[..., Path], worker_config: Configure, clips_of: Callable[..., list[Clip]]
) -> None:
    """Every planned clip is accounted for."""
    config = worker_config(media())
    told = make(config, clips_of("gone", "away"))
    assert [event[2] for event in told] == ["local.missing_file"] * 2
    commit = read_commit(commit_file(config))
    assert (commit.planned, commit.ok, commit.errors) == (2, 0, {"local.missing_file": 2})


def test_a_poisoned_clip_is_not_tried_again(
    media: Callable[..., Path], worker_config: Configure, clips_of: Callable[..., list[Clip]]
) -> None:
    config = worker_config(media("a", "b"))
    clips = clips_of("a", "b")
    told = make(config, clips, {clips[0].key: ClipError("system.timeout", "too late")})
    assert told == [("done", clips[0].key, "system.timeout", "too late"), ("done", clips[1].key, "", "")]
    assert read_commit(commit_file(config)).errors == {"system.timeout": 1}


@pytest.mark.parametrize("where", ["clip", "done"])
def test_what_a_lost_worker_did_is_kept_by_the_next(
    media: Callable[..., Path], worker_config: Configure, clips_of: Callable[..., list[Clip]], where: str
) -> None:
    config = worker_config(media("a", "b"))
    clips = clips_of("a", "b")
    task = ShardTask("gen-train-000000", "train", tuple(clips))

    def tell(event: str, key: str, *_: object) -> None:
        if event == where and key == clips[1].key:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        maker(config, tell).make(task)
    assert not commit_file(config).exists()
    told = make(config, clips)
    assert [event[0] for event in told] == ["kept", "done" if where == "clip" else "kept"]
    assert read_commit(commit_file(config)).ok == 2
    assert [p.name for p in (config.out / "shards" / "train").iterdir() if p.name.startswith(".")] == []


def test_several_sizes_and_wav_are_stored(media: Callable[..., Path], worker_config: Configure) -> None:
    config = worker_config(media("a"))
    decode = replace(config.recipe.decode, frame_sizes=(16, 64))
    config = replace(config, recipe=Recipe(decode=decode, audio="wav"))
    event = Event(100, 300, "beep")
    make(config, [Clip(corpus="gen", media_id="a", start_ms=0, end_ms=500, events=(event,))])
    write_json(config.out / "dataset.json", {"format": 1})
    with ClipShards(config.out) as shards:
        (sample,) = list(shards)
        (row,) = shards.catalog.table.to_pylist()
    assert list(sample.members) == ["wav", "jpg", "64.jpg", "json"]
    assert sample.frame().shape == (16, 16, 3) and sample.frame(64).shape == (64, 64, 3)
    assert len(sample.audio()) == 8000 == row["num_samples"]
    assert row["events"] == [event._asdict()] == sample.info()["events"]


def test_a_flagged_clip_is_noted_and_dropped_only_when_asked(
    media: Callable[..., Path], worker_config: Configure, clips_of: Callable[..., list[Clip]]
) -> None:
    folder = media()
    write_video(folder / "a.mp4", frames=[np.zeros((32, 32, 3), np.uint8)] * 5, audio=np.zeros(44_100, np.float32))
    config = worker_config(folder)
    make(config, clips_of("a"))
    (row,) = read_sidecar(read_commit(commit_file(config))).to_pylist()
    assert row["status"] == "ok" and {"silent", "black_frame"} <= set(row["flags"])
    commit_file(config).unlink()
    dropping = replace(config, recipe=replace(config.recipe, drop=("black_frame",)))
    assert [event[2] for event in make(dropping, clips_of("a"))] == ["quality.black_frame"]
    with pytest.raises(ValueError, match=r"drop has 'loud', want .*silent"):
        Recipe(drop=("loud",))


def test_a_file_that_was_cut_from_its_medium_is_read_from_its_own_start(
    media: Callable[..., Path], worker_config: Configure
) -> None:
    """`ID_000030.mp4` holds the clip that begins at 30 s, and begins there itself."""
    folder = media("a")
    (folder / "a.mp4").rename(folder / "a_000030.mp4")
    config = worker_config(folder)
    told = make(config, [Clip(corpus="gen", media_id="a", start_ms=30_000, end_ms=31_000)])
    assert [event[2] for event in told] == [""]
    (row,) = read_sidecar(read_commit(commit_file(config))).to_pylist()
    assert 30_000 <= row["frame_pts_ms"] < 31_000


def test_a_clip_of_one_sample_width_is_measured(media: Callable[..., Path], worker_config: Configure) -> None:
    config = worker_config(media("a"))
    make(config, [Clip(corpus="gen", media_id="a", start_ms=500, end_ms=501)])
    (row,) = read_sidecar(read_commit(commit_file(config))).to_pylist()
    assert row["num_samples"] == 16


def test_an_error_survives_the_way_out_of_a_worker() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(ClipError("media.no_audio", "a.mp4: has no audio track")))
    assert (error.code, str(error)) == ("media.no_audio", "a.mp4: has no audio track")


def test_the_commit_file_is_valid_json(
    media: Callable[..., Path], worker_config: Configure, clips_of: Callable[..., list[Clip]]
) -> None:
    config = worker_config(media("a"))
    make(config, clips_of("a"))
    value = json.loads(commit_file(config).read_text())
    assert value["format"] == 1 and value["plan_sha256"] == "0" * 64
