"""Checks the loader: batches, places that are kept, and workers that die."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unibrivl.shards import FORMAT_VERSION, ClipShards, ShardError, ShardWriter
from unibrivl.shards.atomic import write_json
from unibrivl.shards.batch import pad
from unibrivl.shards.cache import CacheConfig
from unibrivl.shards.order import clip_order, epoch_order, weighted_order

Batch = dict[str, Any]
NUM_CLIPS = 22
SHARDS = ((0, 8), (8, 13), (13, 22))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[[int], tuple[str, Any]]) -> Path:
    """Return a set of 22 clips in three shards; clip n carries the labels `all` and, below five, `rare`."""
    root = tmp_path_factory.mktemp("set")
    (root / "shards" / "train").mkdir(parents=True)
    write_json(root / "dataset.json", {"format": FORMAT_VERSION})
    for shard, (first, end) in enumerate(SHARDS):
        with ShardWriter(root / "shards" / "train", f"as-train-{shard:06d}") as writer:
            rows = []
            for number in range(first, end):
                key, members = make_clip(number)
                labels = ["all", "rare"] if number < 5 else ["all"]
                row = {"key": key, "split": "train", "status": "ok", "labels": labels}
                rows.append(row | writer.add(key, members))
            writer.commit(split="train", plan_sha256="0" * 64, rows=rows)
    return root


@pytest.fixture(scope="module")
def clips(root: Path) -> Iterator[ClipShards]:
    with ClipShards(root) as clips:
        yield clips


def places(batches: Any) -> list[int]:
    return [int(p) for batch in batches for p in batch["position"]]


def test_a_batch_holds_what_the_clips_hold(clips: ClipShards) -> None:
    with clips.loader(batch_size=4, shuffle="none") as loader:
        batch = next(iter(loader))
    samples = [clips[n] for n in range(4)]
    assert list(batch) == ["key", "position", "valid", "audio", "num_samples", "frame", "info"]
    assert batch["key"] == [sample.key for sample in samples]
    assert batch["info"] == [sample.info() for sample in samples]
    assert batch["position"].tolist() == [0, 1, 2, 3] and batch["valid"].all()
    assert batch["audio"].dtype == np.float32 and batch["num_samples"].tolist() == [1600] * 4
    assert np.array_equal(batch["audio"], np.stack([sample.audio() for sample in samples]))
    assert np.array_equal(batch["frame"], np.stack([sample.frame() for sample in samples]))
    assert batch["audio"].flags.writeable and batch["frame"].flags.writeable


def test_fields_limit_what_is_decoded_and_raw_decodes_nothing(root: Path) -> None:
    with ClipShards(root, fields=("info",)) as clips, clips.loader(batch_size=2) as loader:
        assert list(next(iter(loader))) == ["key", "position", "valid", "info"]
        with clips.loader(batch_size=22, raw=True) as loader:
            (samples,) = loader
        order = epoch_order(NUM_CLIPS, seed=0, epoch=0).tolist()
        assert samples == [clips[n] for n in order]
    with ClipShards(root, fields=("frame:16",)) as clips, clips.loader(batch_size=2) as loader:
        assert next(iter(loader))["frame:16"].shape == (2, 16, 16, 3)


def test_sounds_of_different_lengths_are_followed_by_silence() -> None:
    sounds = [np.full(length, 0.5, np.float32) for length in (3, 0, 5)]
    np.full((3, 5), 7, np.float32)  # what a new array of this size finds in its memory
    audio_BT, num_samples = pad(sounds)
    assert num_samples.tolist() == [3, 0, 5]
    assert audio_BT.dtype == np.float32 and (audio_BT != 0).sum(1).tolist() == [3, 0, 5]
    assert np.array_equal(audio_BT[0], [0.5, 0.5, 0.5, 0, 0])


def test_every_iteration_is_the_next_epoch(clips: ClipShards) -> None:
    with clips.loader(batch_size=5, seed=3) as loader:
        assert len(loader) == 4
        for epoch in range(3):
            assert loader.epoch == epoch
            assert places(loader) == epoch_order(NUM_CLIPS, seed=3, epoch=epoch).tolist()[:20]


def test_an_iteration_goes_on_after_a_break(clips: ClipShards) -> None:
    with clips.loader(batch_size=2) as loader:
        seen = []
        for batch in loader:
            seen += batch["position"].tolist()
            if len(seen) == 6:
                break
        assert loader.steps_left == 8
        assert seen + places(loader) == epoch_order(NUM_CLIPS, seed=0, epoch=0).tolist()
        assert loader.epoch == 1


def test_set_epoch_begins_another_epoch_and_keeps_the_place_in_this_one(clips: ClipShards) -> None:
    order = epoch_order(NUM_CLIPS, seed=0, epoch=0).tolist()
    with clips.loader(batch_size=2) as loader:
        next(iter(loader))
        loader.set_epoch(0)
        assert places(loader) == order[2:]
        loader.set_epoch(7)
        assert places(loader) == epoch_order(NUM_CLIPS, seed=0, epoch=7).tolist()


def test_an_older_iteration_ends_when_a_newer_begins(clips: ClipShards) -> None:
    with clips.loader(batch_size=2) as loader:
        old = iter(loader)
        first = places([next(old)])
        new = iter(loader)
        with pytest.raises(RuntimeError, match="this iteration is over"):
            next(old)
        assert first + places(new) == epoch_order(NUM_CLIPS, seed=0, epoch=0).tolist()
        moved = iter(loader)
        next(moved)
        loader.load_state_dict(loader.state_dict())
        with pytest.raises(RuntimeError, match="this iteration is over"):
            next(moved)


def test_threads_end_with_the_loader(clips: ClipShards) -> None:
    before = threading.active_count()
    loader = clips.loader(batch_size=2)
    for _ in loader:
        break
    assert threading.active_count() == before
    list(loader)
    del loader
    assert threading.active_count() == before


def test_the_last_batch_without_drop_last_repeats_only_to_be_equal_on_every_rank(clips: ClipShards) -> None:
    ranks = []
    for rank in range(4):
        with clips.loader(batch_size=4, rank=rank, world_size=4, drop_last=False, shuffle="none") as loader:
            assert len(loader) == 2
            ranks.append(list(loader))
    last = [batches[1] for batches in ranks]
    assert [batch["position"].tolist() for batch in last] == [[16, 17], [18, 19], [20, 21], [0, 1]]
    assert [batch["valid"].tolist() for batch in last] == [[True] * 2, [True] * 2, [True] * 2, [False] * 2]


def test_workers_give_the_same_batches_and_keep_their_place(clips: ClipShards) -> None:
    with clips.loader(batch_size=3, drop_last=False) as loader:
        expected = list(loader) + list(loader)
    with clips.loader(batch_size=3, drop_last=False, workers=2) as loader:
        found = list(loader)
        pids = loader._backend.pids  # type: ignore[union-attr]
        found += list(loader)
        assert loader._backend.pids == pids  # type: ignore[union-attr]
        state = None
        for number, batch in enumerate(loader):
            assert batch["audio"].flags.writeable and batch["audio"].flags.aligned
            if number == 2:
                state = json.loads(json.dumps(loader.state_dict()))
                break
    for ours, theirs in zip(found, expected, strict=True):
        assert list(ours) == list(theirs)
        for name, value in theirs.items():
            assert np.array_equal(ours[name], value), name
    with clips.loader(batch_size=4, drop_last=False) as loader:
        loader.load_state_dict(state)  # type: ignore[arg-type]
        assert places(loader) == epoch_order(NUM_CLIPS, seed=0, epoch=2).tolist()[9:]


@pytest.mark.parametrize("when", ["waiting", "working"])
def test_a_killed_worker_is_an_error_and_the_place_is_kept(clips: ClipShards, when: str) -> None:
    with clips.loader(batch_size=2, workers=2, prefetch=1) as loader:
        batches = iter(loader)
        seen = places([next(batches)])
        victim = loader._backend.pids[1]  # type: ignore[union-attr]
        if when == "working":  # a stopped worker never answers what it has been asked
            os.kill(victim, signal.SIGSTOP)
            threading.Timer(0.5, os.kill, (victim, signal.SIGKILL)).start()
        else:
            os.kill(victim, signal.SIGKILL)
        with pytest.raises(ShardError, match=rf"reader worker 1 \(pid {victim}\) was killed by signal 9"):
            for batch in batches:
                seen += batch["position"].tolist()
        assert loader.state_dict()["consumed"] == len(seen)
        seen += places(loader)
    assert seen == epoch_order(NUM_CLIPS, seed=0, epoch=0).tolist()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_the_error_of_the_loader(root: Path, workers: int) -> None:
    with ClipShards(root, fields=("frame:99",)) as clips, clips.loader(batch_size=2, workers=workers) as loader:
        batches = iter(loader)
        with pytest.raises(ShardError, match="no picture of 99 pixels is stored, only 16"):
            next(batches)


SCRIPT = """
import json, sys
from unibrivl.shards import ClipShards
if __name__ == "__main__":
    with ClipShards(sys.argv[1]) as clips, clips.loader(batch_size=2, seed=5, shuffle="window:2", workers=1) as loader:
        loader.load_state_dict(json.loads(sys.argv[2]))
        print(json.dumps([p for batch in loader for p in batch["position"].tolist()]))
        print("torch" in sys.modules)
"""


def test_another_process_goes_on_from_a_state_without_torch(root: Path, clips: ClipShards, tmp_path: Path) -> None:
    script = tmp_path / "resume.py"
    script.write_text(SCRIPT)
    with clips.loader(batch_size=4, seed=5, shuffle="window:2") as loader:
        next(iter(loader))
        state = json.dumps(loader.state_dict())
    done = subprocess.run([sys.executable, script, root, state], capture_output=True, text=True, check=True, timeout=60)
    rest, has_torch = done.stdout.splitlines()
    order = clip_order(clips.shard_of_clip, shuffle="window:2", seed=5, epoch=0)
    assert json.loads(rest) == order.tolist()[4:]
    assert has_torch == "False"


def test_a_script_without_a_main_guard_is_told_so(root: Path, tmp_path: Path) -> None:
    script = tmp_path / "bare.py"
    script.write_text(
        "import sys\nfrom unibrivl.shards import ClipShards\n"
        "next(iter(ClipShards(sys.argv[1]).loader(batch_size=2, workers=1)))\n"
    )
    done = subprocess.run([sys.executable, script, root], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "must start under `if __name__ == '__main__':`" in done.stderr


def test_a_state_of_something_else_is_refused(root: Path, clips: ClipShards) -> None:
    with clips.loader(batch_size=2) as loader:
        state = loader.state_dict()
    others = {
        "seed": clips.loader(batch_size=2, seed=1),
        "shuffle": clips.loader(batch_size=2, shuffle="none"),
        "weights_sha": clips.loader(batch_size=2, weights=np.ones(NUM_CLIPS)),
        "catalog_sha": ClipShards(root, labels=("rare",)).loader(batch_size=2),
    }
    for name, other in others.items():
        with pytest.raises(ShardError, match=f"the reader's state has {name} "):
            other.load_state_dict(state)
    for change in ({"order_version": 0}, {"epoch": "1"}, {"epoch": -1}, {"consumed": 23}, {"consumed": True}):
        with pytest.raises(ShardError, match=f"the reader's state has .*{next(iter(change))}"):
            clips.loader(batch_size=2).load_state_dict(state | change)
    with pytest.raises(ShardError, match="catalog_sha None"):
        clips.loader(batch_size=2).load_state_dict({})


def test_a_state_of_the_same_clips_in_other_shards_is_refused(
    clips: ClipShards, tmp_path: Path, write_shard: Callable[..., object]
) -> None:
    """The windows of a windowed order are shards."""
    states = []
    for name, parts in (("one", [range(4)]), ("two", [range(3), range(3, 4)]), ("same", [range(3), range(3, 4)])):
        root = tmp_path / name
        (root / "shards" / "train").mkdir(parents=True)
        write_json(root / "dataset.json", {"format": FORMAT_VERSION})
        for number, part in enumerate(parts):
            write_shard(root / "shards" / "train", list(part), number=number)
        states.append(ClipShards(root).loader(batch_size=2).state_dict())
    assert states[1] == states[2] != states[0]


def test_a_remote_set_is_read_through_a_cache_smaller_than_it(root: Path, clips: ClipShards, tmp_path: Path) -> None:
    largest = max(path.stat().st_size for path in root.rglob("*.tar"))
    cache = CacheConfig(directory=tmp_path / "cache", max_bytes=largest)
    with ClipShards(root.as_uri(), cache=cache) as remote:
        assert [remote[p] for p in (21, 0, 9, 20)] == [clips[p] for p in (21, 0, 9, 20)]
        assert remote.catalog_sha == clips.catalog_sha
        remote.close()
        with remote.loader(batch_size=11, shuffle="window:1", workers=1) as loader:
            assert places(loader) == clip_order(clips.shard_of_clip, shuffle="window:1", seed=0, epoch=0).tolist()


def test_weights_draw_as_many_clips_as_there_are(clips: ClipShards) -> None:
    weights = np.arange(NUM_CLIPS, dtype=np.float64)
    with clips.loader(batch_size=11, weights=weights, seed=1) as loader:
        assert places(loader) == weighted_order(weights, seed=1, epoch=0).tolist()
    with clips.loader(batch_size=11, weights="inv_sqrt_freq") as loader:
        rare, common = 1 / np.sqrt(5), 1 / np.sqrt(NUM_CLIPS)
        assert np.allclose(loader._weights, [rare] * 5 + [common] * 17)  # type: ignore[arg-type]
        assert len(places(loader)) == NUM_CLIPS


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_clips_are_replaced_and_counted(
    root: Path, tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "set"
    (copy / "shards" / "train").mkdir(parents=True)
    for path in (p for p in root.rglob("*") if p.is_file()):
        (copy / path.relative_to(root)).write_bytes(path.read_bytes())
    tar = copy / "shards" / "train" / "as-train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:-12_000])
    with ClipShards(copy, on_error="skip", max_skipped=0.3) as clips:
        with clips.loader(batch_size=11, shuffle="none", workers=workers) as loader:
            found = places(loader)
        damaged = sorted(clips.skipped)
        assert damaged and set(damaged) <= set(range(8, 13))
        assert found == [13 if n in damaged else n for n in range(NUM_CLIPS)]
    assert caplog.text.count("skipping damaged clips") == 1
    assert len(damaged) > 1
    with (
        ClipShards(copy, on_error="skip", max_skipped=0) as clips,
        clips.loader(batch_size=11, shuffle="none", workers=workers) as loader,
    ):
        for _ in range(2):
            with pytest.raises(ShardError, match="more than max_skipped allows"):
                list(loader)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": 0}, "batch_size is 0, want at least 1"),
    ({"workers": -1}, "workers is -1, want at least 0"),
    ({"rank": 2, "world_size": 2}, "rank 2 of world_size 2: want 0 to 1"),
    ({"shuffle": "window:0"}, "shuffle 'window:0': want full, none or window:N"),
    ({"shuffle": "windows"}, "shuffle 'windows'"),
    ({"weights": "sqrt"}, "weights 'sqrt': want inv_sqrt_freq"),
    ({"weights": np.ones(3)}, "weights: 3 numbers for 22 clips"),
    ({"weights": np.zeros(22)}, "weights: want one finite number a clip"),
    ({"weights": np.full(22, np.nan)}, "weights: want one finite number a clip"),
    ({"weights": np.ones(22), "shuffle": "none"}, "shuffle 'none' with weights"),
    ({"raw": True, "drop_last": False, "world_size": 2}, "raw batches do not say which clips are repeats"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_settings_are_refused(clips: ClipShards, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clips.loader(**{"batch_size": 2} | arguments)


def test_a_set_smaller_than_a_batch_is_refused(clips: ClipShards) -> None:
    with pytest.raises(ShardError, match="22 clips do not fill one batch of 12 on 2 ranks"):
        clips.loader(batch_size=12, world_size=2)
    assert len(clips.loader(batch_size=12, world_size=2, drop_last=False)) == 1


def test_a_part_of_the_clips_is_loaded_alone(clips: ClipShards) -> None:
    chosen = np.array([20, 3, 9, 1, 14])
    part = clips.take(chosen, fields=("audio",))
    assert [part[n].key for n in range(5)] == [clips[int(n)].key for n in chosen]
    assert len(part) == 5 and len(clips) == NUM_CLIPS and part.catalog_sha != clips.catalog_sha
    for workers in (0, 1):
        with part.loader(batch_size=2, seed=7, workers=workers) as loader:
            batches: list[Any] = list(loader)
        assert places(batches) == epoch_order(5, seed=7, epoch=0)[:4].tolist()
        assert "frame" not in batches[0] and "info" not in batches[0]
        assert [key for batch in batches for key in batch["key"]] == [part[place].key for place in places(batches)]
    part.close()
    assert clips.fields == ("audio", "frame", "info") and clips[0].key


def test_a_place_among_other_clips_means_nothing(clips: ClipShards) -> None:
    state = clips.loader(batch_size=2).state_dict()
    with pytest.raises(ShardError, match="catalog_sha"):
        clips.take(np.arange(5)).loader(batch_size=2).load_state_dict(state)


@pytest.mark.parametrize("positions", [[0, 0], [-1], [NUM_CLIPS]])
def test_clips_that_are_not_there_or_come_twice_are_refused(clips: ClipShards, positions: list[int]) -> None:
    with pytest.raises(ValueError, match="positions: want each once, from 0 to 21"):
        clips.take(np.array(positions))
