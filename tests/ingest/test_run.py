"""Checks whole runs: the same bytes however they came about, nothing done twice, every failure told."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unibrivl.ingest.engine import EngineConfig
from unibrivl.ingest.errors import IngestError, PlanError
from unibrivl.ingest.run import IngestConfig, IngestResult, ingest, read_and_plan
from unibrivl.ingest.sources import FolderConfig
from unibrivl.shards import ClipShards, ShardError, all_rows, open_catalog, verify_commit
from unibrivl.shards.atomic import hold_directory
from unibrivl.shards.catalog import committed_shards

Media = Callable[..., Path]
WriteList = Callable[..., Path]
Configure = Callable[..., IngestConfig]


def run(config: IngestConfig) -> IngestResult:
    return ingest(config, read_and_plan(config)[1])


def contents(out: Path) -> dict[str, bytes]:
    """Return every file but the ledger, which tells the times of a run."""
    paths = sorted(p for p in out.rglob("*") if p.is_file() and "ledger" not in p.relative_to(out).parts)
    return {str(p.relative_to(out)): p.read_bytes() for p in paths}


def temporary(out: Path) -> list[Path]:
    return [p for p in out.rglob("*") if ".tmp-" in p.name]


@pytest.fixture(scope="module")
def segments(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a list of two clips a video, 48 in all."""
    path = tmp_path_factory.mktemp("segments") / "list.csv"
    with (corpus / "list.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    with path.open("w", newline="") as f:
        writer = csv.DictWriter(f, ["id", "path", "start", "end", "labels", "caption", "split"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row | {"start": s / 10, "end": s / 10 + 0.5} for row in rows for s in range(2))
    return path


@pytest.fixture(scope="module")
def finished(corpus: Path, segments: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the shard set of an undisturbed run of one worker."""
    out = tmp_path_factory.mktemp("finished") / "out"
    engine = EngineConfig(source=FolderConfig(root=corpus / "media"), workers=1)
    config = IngestConfig(list_path=segments, engine=engine, out=out, shard_clips=6)
    result = run(config)
    assert (result.planned, result.ok, result.errors, result.shards, result.made) == (48, 48, {}, 8, 8)
    return out


def test_the_set_is_complete_and_readable(finished: Path, segments: Path) -> None:
    catalog = open_catalog(finished)
    assert len(catalog) == 48
    assert len(set(catalog.column("key"))) == 48
    assert len(open_catalog(finished, split="test")) == 12
    for commit in catalog.shards:
        verify_commit(commit)
    with ClipShards(finished) as shards:
        assert {len(sample.audio()) for sample in shards} == {8000}
    assert temporary(finished) == []


def test_two_workers_make_the_same_bytes(finished: Path, corpus: Path, segments: Path, config_for: Configure) -> None:
    config = config_for(segments, corpus / "media", engine={"workers": 2}, shard_clips=6)
    run(config)
    assert contents(config.out) == contents(finished)


def test_a_second_run_makes_and_touches_nothing(
    finished: Path, corpus: Path, segments: Path, config_for: Configure
) -> None:
    def times() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in [finished, *finished.rglob("*")]}

    before = times()
    config = config_for(segments, corpus / "media", out=finished, engine={"workers": 2}, shard_clips=6)
    result = run(config)
    assert (result.ok, result.shards, result.made) == (48, 8, 0)
    assert times() == before


def command(list_path: Path, out: Path, media_dir: Path, *options: str) -> list[str]:
    arguments = ["ingest", str(list_path), str(out), "--media-dir", str(media_dir), *options]
    return [sys.executable, "-m", "unibrivl", *arguments]


@pytest.mark.parametrize("victim", ["group", "parent"])
def test_a_killed_run_is_finished_by_the_next_with_the_same_bytes(
    finished: Path, corpus: Path, segments: Path, tmp_path: Path, victim: str
) -> None:
    """Kill all processes at once, or only the one that a user sees: its workers must not go on for ever."""
    out = tmp_path / "out"
    arguments = command(segments, out, corpus / "media", "--shard-clips", "6", "--workers", "2")
    with subprocess.Popen(arguments, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not list(out.rglob("*.commit.json")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL) if victim == "parent" else os.killpg(process.pid, signal.SIGKILL)
    assert 1 <= len(committed_shards(out)) < 8
    assert len(open_catalog(out)) >= 6  # what is committed can be read already
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "48 of 48 clips in 8 shards" in done.stdout
    deadline = time.monotonic() + 20
    while True:  # workers whose parent was killed notice it when they next speak to it
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline, "a worker of the killed run is still there"
        time.sleep(0.05)
    assert contents(out) == contents(finished)
    assert temporary(out) == []


def test_what_killed_runs_left_is_cleared_away(media: Media, write_list: WriteList, config_for: Configure) -> None:
    config = config_for(write_list("a"), media("a"))
    for place in ("shards/train/.gen-train-000000.tar", "plan/.plan-00000.parquet", ".dataset.json"):
        left = config.out / f"{place}.tmp-123-abcd"
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_bytes(b"half")
    run(config)
    assert temporary(config.out) == []


def test_a_fifo_does_not_keep_the_others_waiting(media: Media, write_list: WriteList, config_for: Configure) -> None:
    folder = media("a", "b")
    os.mkfifo(folder / "never.mp4")
    config = config_for(write_list("a", "never", "b"), folder, max_failed=0.4, engine={"clip_timeout_s": 5.0})
    result = run(config)
    assert result.ok == 2 and sum(result.errors.values()) == 1
    assert result.errors.keys() <= {"local.missing_file", "local.unreadable"}


def test_a_clip_that_hangs_is_a_timeout(
    media: Media, write_list: WriteList, config_for: Configure, hostile: Path
) -> None:
    config = config_for(write_list("a", "hangs"), media("a", "hangs"), max_failed=0.5, engine={"clip_timeout_s": 1.5})
    result = run(config)
    assert (result.ok, result.errors) == (1, {"system.timeout": 1})
    assert temporary(config.out) == []
    again = run(config)
    assert (again.ok, again.errors, again.made) == (1, result.errors, 0)


def test_a_failed_clip_fails_the_run_and_keeps_the_good_ones(
    media: Media, write_list: WriteList, config_for: Configure
) -> None:
    folder = media("a", "b", "c")
    (folder / "c.mp4").write_bytes(b"")
    config = config_for(write_list("a", "b", "c"), folder)
    with pytest.raises(IngestError) as caught:
        run(config)
    message = str(caught.value)
    assert message.startswith(f"1 of 3 clips failed (1 local.empty_file), media in {folder}: c.mp4: ")
    assert f"c.mp4: the file has 0 bytes; fetch it again; the 2 others are in {config.out}" in message
    assert f"`unibrivl shards retry {config.out}`" in message
    assert message.endswith("to accept this, pass --max-failed 0.334") and "\n" not in message
    assert len(open_catalog(config.out)) == 2
    with pytest.raises(IngestError) as again:  # nothing is left to do, and the run has failed all the same
        run(config)
    assert str(again.value) == message
    accepted = run(config_for(config.list_path, folder, max_failed=0.334))
    assert (accepted.ok, accepted.errors, accepted.made) == (2, {"local.empty_file": 1}, 0)


def test_a_missing_media_folder_or_none_of_its_media_writes_nothing(
    media: Media, write_list: WriteList, config_for: Configure, tmp_path: Path
) -> None:
    folder = media("other")
    config = config_for(write_list("a", "b"), folder)
    with pytest.raises(PlanError, match=rf"none of 2 clips has its medium in {folder}; the first: [ab]\.mp4"):
        run(config)
    with pytest.raises(PlanError, match="nowhere: not a readable folder of media"):
        run(config_for(config.list_path, tmp_path / "nowhere"))
    assert not config.out.exists()


def test_no_clip_can_stop_the_others(media: Media, tmp_path: Path, config_for: Configure) -> None:
    """Regression: each of these ended the run, with a traceback or a sentence about the output folder."""
    folder = media("a", "b", "c", "d")
    data = (folder / "b.mp4").read_bytes()
    (folder / "b.mp4").write_bytes(data.replace(b"avc1" if b"avc1" in data else b"mp4v", b"zzzz"))  # no such codec
    rows = ["a.mp4,0,1", "b.mp4,0,1", f"{'x' * 300}.mp4,0,1", "c.mp4,0.5001,0.5004", "c.mp4,0.9,0.901", "d.mp4,0,1"]
    path = tmp_path / "list.csv"
    path.write_text("\n".join(["path,start,end", *rows]))
    result = run(config_for(path, folder, max_failed=1))
    assert result.ok == 3
    assert result.errors.pop("local.missing_file") == 1
    assert sum(result.errors.values()) == 1 and next(iter(result.errors)).startswith("media.")


def test_two_runs_into_one_folder_are_refused(media: Media, write_list: WriteList, config_for: Configure) -> None:
    config = config_for(write_list("a"), media("a"))
    config.out.mkdir()
    with hold_directory(config.out, wait=False) as is_ours:
        assert is_ours
        with pytest.raises(IngestError, match=rf"^{config.out}: another run is writing there; wait for it"):
            run(config)
    assert list(config.out.iterdir()) == []
    assert run(config).ok == 1


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"list": True}, "plan"),
        ({"seed": 1}, "plan"),
        ({"shard_clips": 3}, "plan"),
        ({"decode": {"frame_sizes": (32,)}}, "recipe"),
        ({"decode": {"frame": "exact"}}, "recipe"),
        ({"decode": {"max_pad_ms": 7}}, "recipe"),
        ({"recipe": {"audio": "wav"}}, "recipe"),
        ({"recipe": {"drop": ("silent",)}}, "recipe"),
    ],
)
def test_other_options_into_the_same_folder_are_refused(
    corpus: Path,
    segments: Path,
    finished: Path,
    config_for: Configure,
    options: dict[str, Any],
    what: str,
) -> None:
    before = contents(finished)
    list_path = corpus / "list.csv" if options.pop("list", False) else segments
    config = config_for(list_path, corpus / "media", **({"out": finished, "shard_clips": 6} | options))
    with pytest.raises(PlanError, match=f"^{finished} holds shards of another {what}.*; ingest with the same list"):
        run(config)
    assert contents(finished) == before


def test_a_folder_with_something_else_in_it_is_refused(
    media: Media, write_list: WriteList, config_for: Configure
) -> None:
    config = config_for(write_list("a"), media("a"))
    config.out.mkdir()
    (config.out / "thesis.txt").write_text("kept")
    with pytest.raises(PlanError, match=f"^{config.out} is not empty and no shard set; choose another folder$"):
        run(config)
    assert contents(config.out) == {"thesis.txt": b"kept"}


def test_a_set_without_a_shard_takes_another_list(media: Media, write_list: WriteList, config_for: Configure) -> None:
    folder = media("a", "b")
    config = config_for(write_list("a"), folder)
    run(config)
    for path in config.out.rglob("*.commit.json"):
        path.unlink()
    config = config_for(write_list("b"), folder)
    assert run(config).ok == 1
    assert open_catalog(config.out).column("media_id") == ["b"]


def test_a_damaged_shard_is_refused_and_made_again_as_the_message_says(
    media: Media, write_list: WriteList, config_for: Configure
) -> None:
    config = config_for(write_list("a", "b", "c"), media("a", "b", "c"))
    run(config)
    before = contents(config.out)
    tar = min(config.out.rglob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-1000])
    name = tar.name.replace(".tar", ".commit.json")
    with pytest.raises(ShardError, match=rf"{tar} has .*; mend it with `unibrivl shards repair"):
        run(config)
    tar.with_name(name).unlink()
    assert run(config).made == 1
    assert contents(config.out) == before


@pytest.mark.parametrize("where", ["under", "at"])
def test_a_folder_that_cannot_be_made_is_one_clear_line(
    media: Media, write_list: WriteList, config_for: Configure, tmp_path: Path, where: str
) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    out = file / "out" if where == "under" else file
    with pytest.raises(IngestError, match=rf"^{out}: cannot be written \((Not a directory|File exists)\)$"):
        run(config_for(write_list("a"), media("a"), out=out))
    assert file.read_text() == "kept"


@pytest.mark.parametrize(
    "options",
    [
        {"shard_clips": 0}, {"max_failed": 1.1}, {"max_failed": -0.1}, {"max_failed": float("nan")},
        {"engine": {"workers": 0}}, {"engine": {"clip_timeout_s": 0.0}}, {"engine": {"clip_timeout_s": -1.0}},
        {"engine": {"clip_timeout_s": float("nan")}}, {"engine": {"fetch_timeout_s": 0.0}},
        {"engine": {"worker_memory_bytes": 5}},
    ],
    ids=str,
)  # fmt: skip
def test_values_that_cannot_be_meant_are_refused(config_for: Configure, options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    (name,) = value if isinstance(value, dict) else [name]
    with pytest.raises(ValueError, match=f"{name} is "):
        config_for(Path("list.csv"), Path("media"), **options)


def test_progress_counts_every_clip_once(
    media: Media, write_list: WriteList, config_for: Configure, hostile: Path
) -> None:
    """A shard that is made again after its worker died tells of its clips again."""
    config = config_for(write_list("a", "kills", "gone"), media("a", "kills"), max_failed=1, shard_clips=4)
    for _ in range(2):
        heard: list[tuple[str, int]] = []
        ingest(config, read_and_plan(config)[1], lambda code, count: heard.append((code, count)))  # noqa: B023
        counts: dict[str, int] = {}
        for code, count in heard:
            counts[code] = counts.get(code, 0) + count
        assert counts == {"": 1, "local.missing_file": 1, "system.worker_killed": 1}


def test_a_fault_that_is_not_the_clips_stops_the_run_and_does_not_stop_the_next(
    media: Media, write_list: WriteList, config_for: Configure, hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first run met must not count against the second, which finds it in the journal of its shard."""
    from unibrivl.ingest import engine

    monkeypatch.setattr(engine, "MAX_FAULTS_IN_A_ROW", 2)
    stems = ["hangs-a", "hangs-b", "hangs-c"]
    options = {"max_failed": 1, "shard_clips": 3, "engine": {"clip_timeout_s": 0.4}}
    config = config_for(write_list(*stems), media(*stems), **options)
    with pytest.raises(IngestError, match=r"2 clips in a row failed in passing, the last: .*it goes on where it was"):
        run(config)
    assert committed_shards(config.out) == []
    assert run(config).errors == {"system.timeout": 3}
    tries = hostile.read_text().split()
    assert [tries.count(name) for name in tries[:2]] == [1, 1]  # the third may have begun before the run was stopped


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_a_lost_plan_is_written_again(media: Media, write_list: WriteList, config_for: Configure, harm: str) -> None:
    config = config_for(write_list("a"), media("a"))
    run(config)
    before = contents(config.out)
    path = config.out / "plan" / "plan-00000.parquet"
    path.unlink() if harm == "gone" else path.write_bytes(path.read_bytes()[:-9] + bytes(9))
    run(config)
    assert contents(config.out) == before


FULL_DISK = """
mount -t tmpfs -o size=150k tmpfs "$1" || exit 77
shift
mkdir "$OUT/set"
"$@" > "$LOG/first" 2>&1; echo $? >> "$LOG/first"
find "$OUT" -name '.*.tmp-*' > "$LOG/temporary"
mount -o remount,size=20m tmpfs "$OUT" || exit 77
"$@" > "$LOG/second" 2>&1; echo $? >> "$LOG/second"
find "$OUT" -name '.*.tmp-*' >> "$LOG/temporary"
cp -r "$OUT/set/shards" "$LOG/shards"
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_full_disk_is_one_line_and_goes_on_when_there_is_room(
    finished: Path, corpus: Path, segments: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    out.mkdir()
    log.mkdir()
    ingestion = command(segments, out / "set", corpus / "media", "--shard-clips", "6", "--workers", "1")
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", FULL_DISK, "sh", str(out), *ingestion],
        env=os.environ | {"OUT": str(out), "LOG": str(log)},
        capture_output=True,
        text=True,
        check=False,
    )
    if not (log / "second").exists():
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    first = (log / "first").read_text().splitlines()
    assert len(first) == 2 and first[1] == "1"
    assert first[0].startswith("error: ")
    assert "disk is full" in first[0] or "No space left on device" in first[0]
    assert "48 of 48 clips in 8 shards" in (log / "second").read_text()
    assert (log / "temporary").read_text() == ""
    for path in (finished / "shards").rglob("*.*"):
        assert (log / "shards" / path.relative_to(finished / "shards")).read_bytes() == path.read_bytes()


def test_the_place_of_the_media_leaves_no_trace_in_the_bytes(
    media: Media, write_list: WriteList, config_for: Configure, tmp_path: Path
) -> None:
    """Two machines keep their media in different folders and must get the same shards, failed clips included."""
    stems = ["a", "gone", "page", "empty", "short", "pipe", "away"]
    folder = media("a", "short")
    (folder / "page.mp4").write_text("<html>")
    (folder / "empty.mp4").touch()
    (folder / "short.mp4").write_bytes((folder / "short.mp4").read_bytes()[:2000])
    os.mkfifo(folder / "pipe.mp4")
    (folder / "away.mp4").symlink_to("/dev/zero")
    other = tmp_path / "elsewhere" / "and deeper"
    shutil.copytree(folder, other, symlinks=True, ignore=shutil.ignore_patterns("pipe.mp4"))
    os.mkfifo(other / "pipe.mp4")
    for name, where in (("one", folder), ("two", other)):
        run(config_for(write_list(*stems), where, max_failed=1, out=tmp_path / name))
    one, two = (
        {p.name: p.read_bytes() for p in (tmp_path / name / "shards").rglob("*") if p.is_file()}
        for name in ("one", "two")
    )
    assert one == two
    details = all_rows(tmp_path / "one")["error_detail"].to_pylist()
    assert sum(detail is not None for detail in details) == 6
    assert not any(detail and str(tmp_path) in detail for detail in details)
    ledgers = "".join(p.read_text() for p in (tmp_path / "one" / "ledger").rglob("*.jsonl"))
    assert ledgers and str(tmp_path) not in ledgers
