"""Checks that every kind of damage is found and named, and told apart from what is merely not there."""

import errno
import hashlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from unibrivl.shards import SAMPLE_RATE, ShardError, ShardWriter, make_key, open_catalog
from unibrivl.shards import commit as commit_module
from unibrivl.shards.atomic import write_json
from unibrivl.shards.catalog import compact, read_dataset, write_dataset
from unibrivl.shards.commit import SUFFIXES, Commit, committed_paths, describe_file, parse_commit, write_commit
from unibrivl.shards.planfile import PLAN_FILE, PlanFile, plan_sha256, read_plan_file, write_plan_file
from unibrivl.shards.schema import PLAN_SCHEMA
from unibrivl.shards.sidecar import in_threads
from unibrivl.shards.tarindex import END_OF_TAR, write_index
from unibrivl.shards.verify import LEVELS, VerifyReport, verify

Members = dict[str, bytes]
SHARD = "as-train-000000"
NAMES = ["as-test-000000", SHARD, "as-train-000001"]


def plan_of(shards: list[str]) -> PlanFile:
    """Return a plan of two clips a shard."""
    numbers = range(2 * len(shards))
    names = ("corpus", "media_id", "source", "group", "caption", "language", "license")
    columns: dict[str, list[Any]] = {name: [f"{name} {n}" for n in numbers] for name in names}
    columns |= {"start_ms": list(numbers), "end_ms": [n + 1 for n in numbers], "split": ["train" for _ in numbers]}
    columns |= {"labels": [["x"] for _ in numbers], "events": [[] for _ in numbers]}
    table, counts = pa.table(columns, schema=PLAN_SCHEMA), tuple((name, 2) for name in shards)
    return PlanFile(table, counts, plan_sha256(table, counts))


PLAN = plan_of(NAMES).sha256


@pytest.fixture
def root(shard_set: Path) -> Path:
    """Return a set without a fault: three shards, a plan of four, 16 px pictures."""
    (shard_set / "plan").mkdir()
    write_plan_file(plan_of(NAMES), shard_set / PLAN_FILE)
    for path in committed_paths(shard_set):
        write_commit(replace(parse_commit(path), plan_sha256=PLAN))
    write_dataset(shard_set, {"plan_sha256": PLAN, "frame": {"sizes_px": [16]}})
    return shard_set


def file_of(root: Path, suffix: str) -> Path:
    return root / "shards" / "train" / f"{SHARD}{suffix}"


def found(report: VerifyReport) -> list[tuple[str, str]]:
    return [(damage.path.name, damage.reason) for damage in report.damaged]


@pytest.mark.parametrize("level", LEVELS)
def test_a_sound_set_is_whole(root: Path, level: str) -> None:
    report = verify(root, level=level)
    assert report == VerifyReport(shards=3, ok=3, damaged=(), uncommitted=(), missing_planned=())
    assert report.is_whole and report.advice(root) == ""
    assert json.loads(json.dumps(report.as_dict())) == {
        "shards": 3, "ok": 3, "damaged": [], "uncommitted": [], "missing_planned": [],
    }  # fmt: skip


def test_progress_goes_to_the_end_in_the_order_of_names(root: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    verify(root, level="size", progress=lambda *step: seen.append(step))
    assert seen == [(1, 3, "as-test-000000"), (2, 3, "as-train-000000"), (3, 3, "as-train-000001")]


def test_an_unknown_level_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="level is 'full', want size, hash, deep"):
        verify(root, level="full")


def test_what_is_no_shard_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"is no shard set: it has no dataset\.json"):
        verify(tmp_path)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_or_cut_file_is_found_at_every_level(root: Path, suffix: str, level: str) -> None:
    path = file_of(root, suffix)
    data = path.read_bytes()
    for state, word in ((data[:-512], "has "), (data + b"x", "has "), (b"", "has 0 bytes"), (None, "is missing")):
        path.unlink()
        if state is not None:
            path.write_bytes(state)
        report = verify(root, level=level)
        assert {name for name, _ in found(report)} == {path.name}
        assert report.damaged[0].reason.startswith(word)
        assert report.damaged[0].reason.endswith(f"its commit says {len(data)} bytes")
        assert (report.shards, report.ok, report.damaged_shards) == (3, 2, (SHARD,))
        assert not report.is_whole
        if state is None:
            path.touch()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_flipped_bit_is_found_by_its_hash_and_not_by_its_size(root: Path, suffix: str) -> None:
    path = file_of(root, suffix)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)
    assert verify(root, level="size").is_whole
    report = verify(root)
    assert found(report) == [(path.name, "is damaged: SHA-256 differs from its commit")]
    assert report.advice(root) == f"1 of 3 shards are damaged, mend them with `unibrivl shards repair {root}`"
    assert report.as_dict()["damaged"] == [
        {"path": str(path), "reason": "is damaged: SHA-256 differs from its commit", "shard": SHARD}
    ]


def test_all_damage_is_listed_not_only_the_first(root: Path) -> None:
    file_of(root, ".tar").write_bytes(b"")
    file_of(root, ".tar.idx").unlink()
    side = root / "shards" / "test" / "as-test-000000.parquet"
    side.write_bytes(bytes(side.stat().st_size))
    (root / "shards" / "train" / "as-train-000001.commit.json").write_bytes(b"{")
    (root / "dataset.json").write_bytes(b"{}")
    report = verify(root)
    assert [name for name, _ in found(report)] == [
        "as-test-000000.parquet", f"{SHARD}.tar", f"{SHARD}.tar.idx", "as-train-000001.commit.json", "dataset.json",
    ]  # fmt: skip
    assert (report.shards, report.ok) == (3, 0)
    assert report.damaged_shards == ("as-test-000000", SHARD, "as-train-000001")


def test_a_damaged_commit_hides_no_other_shard_and_strands_no_file(root: Path) -> None:
    file_of(root, ".commit.json").write_text("")
    report = verify(root)
    assert [name for name, _ in found(report)] == [f"{SHARD}.commit.json"]
    assert (report.shards, report.ok) == (3, 2)
    assert report.uncommitted == () and report.missing_planned == ()


def test_a_shard_of_another_format_split_or_plan_is_named(root: Path) -> None:
    path = file_of(root, ".commit.json")
    commit = parse_commit(path)
    write_json(path, commit.stored() | {"format": 2})
    assert found(verify(root)) == [(path.name, f"is refused ({path}: shard format 2, this program reads 1)")]
    write_commit(replace(commit, split="test"))
    assert found(verify(root)) == [(path.name, "belongs to split test, yet lies in the folder train")]
    write_commit(replace(commit, plan_sha256="1" * 64))
    assert found(verify(root)) == [(path.name, "is of another plan than dataset.json")]


def test_leftovers_and_strangers_are_no_damage(root: Path) -> None:
    file_of(root, ".commit.json").unlink()
    left = root / "shards" / "train" / ".as-train-000009.tar.part"
    left.write_bytes(b"x")
    (root / "shards" / "notes.txt").write_bytes(b"x")
    report = verify(root)
    assert (report.shards, report.ok, report.damaged) == (2, 2, ())
    assert {path.name for path in report.uncommitted} == {
        left.name, "notes.txt", *(f"{SHARD}{suffix}" for suffix in SUFFIXES)
    }  # fmt: skip
    assert report.missing_planned == (SHARD,)
    assert not report.is_whole
    assert report.advice(root) == "1 planned shards are not made yet, run the same `unibrivl ingest` again"


@pytest.mark.parametrize("level", LEVELS)
def test_every_plan_file_counts(root: Path, level: str) -> None:
    write_plan_file(plan_of(["as-train-r01-000000"]), root / "plan" / "retry-01.parquet")
    assert verify(root, level=level).missing_planned == ("as-train-r01-000000",)
    (root / "plan" / "retry-01.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"key": ["a"]}), root / "plan" / "retry-02.parquet")
    report = verify(root, level=level)
    assert [name for name, _ in found(report)] == ["retry-01.parquet", "retry-02.parquet"]
    assert report.ok == 3 and not report.is_whole
    assert "is damaged (not a plan that can be read" in report.advice(root)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("change", ["gone", "empty", "cut", "another"])
def test_a_lost_plan_is_damage(root: Path, change: str, level: str) -> None:
    path = root / "plan" / "plan-00000.parquet"
    data = path.read_bytes()
    if change == "another":
        write_plan_file(plan_of([SHARD]), path)
    elif change == "gone":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if change == "cut" else b"")
    report = verify(root, level=level)
    ((name, reason),) = found(report)
    assert name == path.name and reason.startswith("is missing; " if change == "gone" else "is damaged (")
    assert reason.endswith("run the same `unibrivl ingest` again, it writes the plan anew")
    assert report.ok == 3 and report.damaged_shards == () and not report.is_whole
    assert report.as_dict()["damaged"] == [{"path": str(path), "reason": reason, "shard": None}]
    assert report.advice(root) == f"{path} {reason}"


def test_any_flipped_byte_of_a_plan_is_seen_or_changes_nothing(root: Path) -> None:
    """Parquet has bytes that mean nothing here, such as who wrote the file; every clip is hashed."""
    path = root / "plan" / "plan-00000.parquet"
    data, before = path.read_bytes(), read_plan_file(path)
    unseen = 0
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        if not verify(root).damaged:
            unseen += 1
            assert read_plan_file(path) == before
    assert unseen < len(data) / 7 / 2


def test_a_patch_shard_needs_the_plan_of_its_round(root: Path) -> None:
    with ShardWriter(root / "shards" / "train", "as-train-r02-000000") as writer:
        row = {"key": "as_gone_000000001", "split": "train", "status": "failed", "error_code": "media.no_audio"}
        writer.commit(split="train", plan_sha256=PLAN, rows=[row])
    ((name, reason),) = found(verify(root))
    assert (name, reason) == ("retry-02.parquet", f"is missing; `unibrivl shards repair {root}` writes it again")
    write_plan_file(plan_of(["as-train-r02-000000"]), root / "plan" / "retry-02.parquet")
    assert verify(root).is_whole


@pytest.mark.parametrize("is_noted", [True, False])
def test_damage_of_the_ontology_is_found(root: Path, is_noted: bool) -> None:
    path, data = root / "ontology.json", b'[{"id": "/m/dog", "name": "Dog", "child_ids": []}]'
    path.write_bytes(data)
    dataset = read_dataset(root)
    noted = {"ontology_sha256": hashlib.sha256(data).hexdigest()} if is_noted else {}
    write_dataset(root, {name: value for name, value in dataset.items() if name != "format"} | noted)
    assert verify(root).is_whole
    path.write_bytes(data[:-1])
    ((name, reason),) = found(verify(root, level="size"))
    assert name == "ontology.json" and reason.startswith("is damaged") and "with its --ontology" in reason
    path.write_bytes(data.replace(b"Dog", b"Dot"))
    assert bool(verify(root).damaged) == is_noted
    path.unlink()
    assert [reason for _, reason in found(verify(root))] == (
        ["is missing; run the same `unibrivl ingest` again with its --ontology"] if is_noted else []
    )


@pytest.mark.parametrize("change", ["gone", "cut", "flip", "unsealed", "space", "text"])
def test_damage_of_the_data_set_file_is_found_and_the_shards_are_still_checked(root: Path, change: str) -> None:
    path = root / "dataset.json"
    data = path.read_bytes()
    value = {name: entry for name, entry in json.loads(data).items() if name != "seal"}
    if change == "unsealed":
        write_json(path, value)
    elif change == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {"cut": data[:-3], "flip": data.replace(b"16", b"17"), "space": data + b" ", "text": b"hello"}[change]
        )
    file_of(root, ".tar").write_bytes(b"")
    report = verify(root)
    assert [name for name, _ in found(report)] == [f"{SHARD}.tar", "dataset.json"]
    assert report.damaged_shards == (SHARD,) and report.ok == 2


def test_a_damaged_cache_is_found_and_a_stale_one_is_none(root: Path) -> None:
    compact(root)
    assert verify(root).is_whole
    file_of(root, ".commit.json").unlink()
    assert verify(root).damaged == ()
    path = root / "catalog.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    ((name, reason),) = found(verify(root))
    assert name == "catalog.parquet" and f"`unibrivl shards index {root}` makes it again" in reason


def test_a_folder_in_the_place_of_a_file_is_damage(root: Path) -> None:
    path = file_of(root, ".tar")
    path.unlink()
    path.mkdir()
    assert [name for name, _ in found(verify(root))] == [path.name]
    commit = file_of(root, ".commit.json")
    commit.unlink()
    commit.mkdir()
    assert [name for name, _ in found(verify(root))] == [commit.name]


# --- deep: what was written wrong and hashed rightly


def commit_again(root: Path) -> None:
    """Make the commit fit whatever its files are now."""
    commit = parse_commit(file_of(root, ".commit.json"))
    write_commit(replace(commit, files={suffix: describe_file(commit.path(suffix)) for suffix in SUFFIXES}))


def wav_bytes(samples: int, rate: int = SAMPLE_RATE, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((samples, channels), np.int16), rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def jpeg_bytes(size: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_odd_shard(root: Path, change: Callable[[Members], Members], row: dict[str, Any] | None = None) -> None:
    """Write the shard anew with two samples, the second changed."""
    with ShardWriter(root / "shards" / "train", SHARD) as writer:
        rows = []
        for number in range(2):
            key = make_key("as", "odd", number)
            text = json.dumps({"key": key}).encode()
            members = {"wav": wav_bytes(160), "jpg": jpeg_bytes(16), "24.jpg": jpeg_bytes(24), "json": text}
            place = writer.add(key, change(members) if number else members)
            rows.append({"key": key, "split": "train", "status": "ok", "num_samples": 160} | place)
        rows[1] |= row or {}
        writer.commit(split="train", plan_sha256=PLAN, rows=rows)


ODD = "as_odd_000000001"


def renamed(members: Members, *names: str) -> Members:
    return dict(zip(names, members.values(), strict=False))


@pytest.mark.parametrize(
    ("change", "row", "reason"),
    [
        (lambda m: m, {"num_samples": 161}, "whose sound has 160 samples, its row says 161"),
        (lambda m: m | {"wav": wav_bytes(160, 8000)}, None, "whose sound is not mono at 16000 Hz"),
        (lambda m: m | {"wav": wav_bytes(160, channels=2)}, None, "whose sound is not mono at 16000 Hz"),
        (lambda m: m | {"wav": b"RIFF"}, None, "whose sound does not decode"),
        (lambda m: m | {"jpg": jpeg_bytes(17)}, None, "whose picture jpg has 17 x 17 pixels, want 16 x 16"),
        (lambda m: m | {"24.jpg": jpeg_bytes(16)}, None, "whose picture 24.jpg has 16 x 16 pixels, want 24 x 24"),
        (lambda m: m | {"jpg": jpeg_bytes(16)[:-60]}, None, "whose picture jpg does not decode"),
        (lambda m: m | {"jpg": b""}, None, "whose picture jpg does not decode"),
        (lambda m: m | {"json": b'{"key": "as_other_000000001"}'}, None, "whose text is of 'as_other_000000001'"),
        (lambda m: m | {"json": b"[" * 99999}, None, "whose text is of None"),
        (lambda m: m | {"json": b"[]"}, None, "whose text is of None"),
        (lambda m: m | {"json": b"\xff"}, None, "whose text is of None"),
        (lambda m: renamed(m, "jpg", "wav", "24.jpg", "json"), None, "whose members are jpg, wav, 24.jpg, json; want"),
        (lambda m: renamed(m, "wav", "jpg", "24.jpg", "txt"), None, "whose members are wav, jpg, 24.jpg, txt; want"),
        (lambda m: renamed(m, "wav", "24.jpg", "jpg", "json"), None, "whose members are wav, 24.jpg, jpg, json; want"),
        (lambda m: renamed(m, "wav"), None, "whose members are wav; want"),
        (lambda m: {n: d for n, d in m.items() if n != "24.jpg"}, None, "other members than the first sample"),
        (lambda m: m, {"key": "as_other_000000001"}, "whose members are named as_odd_000000001"),
    ],
)
def test_a_sample_that_was_written_wrong_is_found(
    root: Path, change: Callable[[Members], Members], row: dict[str, Any] | None, reason: str
) -> None:
    write_odd_shard(root, lambda members: members)
    assert verify(root, level="deep").is_whole
    write_odd_shard(root, change, row)
    assert verify(root, level="hash").is_whole
    report = verify(root, level="deep")
    assert [damage.path.name for damage in report.damaged] == [f"{SHARD}.tar"]
    assert reason in report.damaged[0].reason


def test_a_deep_look_names_the_clip_that_a_flipped_bit_hit(root: Path) -> None:
    path = file_of(root, ".tar")
    keys = open_catalog(root, split="train").column("key")
    data = bytearray(path.read_bytes())
    data[data.index(f"{keys[2]}.jpg".encode()) + 700] ^= 1
    path.write_bytes(data)
    assert found(verify(root, level="deep")) == [
        (path.name, "is damaged: SHA-256 differs from its commit"), (path.name, f"is damaged in {keys[2]}"),
    ]  # fmt: skip


def test_an_index_of_other_offsets_is_found(root: Path) -> None:
    path = file_of(root, ".tar.idx")
    offsets = np.fromfile(path, "<u8").tolist()
    for wrong in ([*offsets[:-1], offsets[-1] + 512], [0, 512, *offsets[2:]], offsets[1:]):
        write_index(path, wrong)
        commit_again(root)
        assert found(verify(root, level="deep")) == [(path.name, "has other offsets than the sidecar")]
    path.write_bytes(b"x")
    commit_again(root)
    assert found(verify(root, level="deep")) == [(path.name, "is no index: 1 bytes are no index of 8-byte offsets")]


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (b"x" + END_OF_TAR[1:], "does not end behind its last sample"),
        (END_OF_TAR + bytes(512), "does not end behind its last sample"),
    ],
)
def test_a_tar_that_ends_otherwise_is_found(root: Path, end: bytes, reason: str) -> None:
    path, index = file_of(root, ".tar"), file_of(root, ".tar.idx")
    data = path.read_bytes()[: -len(END_OF_TAR)] + end
    path.write_bytes(data)
    write_index(index, [*np.fromfile(index, "<u8").tolist()[:-1], len(data)])
    commit_again(root)
    assert found(verify(root, level="deep")) == [(path.name, reason)]


def test_something_between_two_samples_is_found(root: Path) -> None:
    with ShardWriter(root / "shards" / "train", SHARD) as writer:
        rows = []
        for number in range(3):
            key = make_key("as", "odd", number)
            members = {"wav": wav_bytes(160), "jpg": jpeg_bytes(16), "json": json.dumps({"key": key}).encode()}
            place = writer.add(key, members)
            if number != 1:
                rows.append({"key": key, "split": "train", "status": "ok"} | place)
        commit = writer.commit(split="train", plan_sha256=PLAN, rows=rows)
    write_commit(replace(commit, ok=2))
    reasons = dict(found(verify(root, level="deep")))
    assert reasons[f"{SHARD}.tar"] == "holds something between two samples, before as_odd_000000002"
    assert reasons[f"{SHARD}.tar.idx"] == "has other offsets than the sidecar"


def test_a_sidecar_of_rows_that_cannot_be_is_found_without_a_deep_look(root: Path) -> None:
    path = file_of(root, ".parquet")
    pq.write_table(pq.read_table(path).slice(1), path)
    commit_again(root)
    ((name, reason),) = found(verify(root))
    assert name == path.name and "4 rows, its commit says 5" in reason


def test_a_shard_in_which_nothing_succeeded_is_sound(root: Path) -> None:
    with ShardWriter(root / "shards" / "train", "as-train-000001") as writer:
        row = {"key": "as_gone_000000001", "split": "train", "status": "failed", "error_code": "media.no_audio"}
        commit: Commit = writer.commit(split="train", plan_sha256=PLAN, rows=[row])
    assert (commit.planned, commit.ok) == (1, 0)
    assert verify(root, level="deep").is_whole
    assert len(open_catalog(root, split="train")) == 4


def test_damage_of_one_file_does_not_hide_that_of_another(root: Path) -> None:
    path = file_of(root, ".parquet")
    pq.write_table(pq.read_table(path).slice(1), path)
    commit_again(root)
    tar = file_of(root, ".tar")
    tar.write_bytes(bytes(tar.stat().st_size))
    assert [name for name, _ in found(verify(root))] == [tar.name, path.name]


def test_a_file_that_cannot_be_read_is_damage_and_hides_no_other(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a bad sector makes it."""
    tar, side = file_of(root, ".tar"), file_of(root, ".parquet")
    side.write_bytes(bytes(side.stat().st_size))

    def describe(path: Path) -> dict[str, Any]:
        if path == tar:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return describe_file(path)

    monkeypatch.setattr(commit_module, "describe_file", describe)
    assert found(verify(root)) == [
        (tar.name, "cannot be read (Input/output error)"), (side.name, "is damaged: SHA-256 differs from its commit"),
    ]  # fmt: skip


def test_many_shards_are_looked_at_in_order_whatever_the_threads(
    root: Path, write_shard: Callable[..., Commit]
) -> None:
    for number in range(2, 40):
        write_shard(root / "shards" / "train", [number], number=number, plan=PLAN)
    for number in (3, 17, 39):
        (root / "shards" / "train" / f"as-train-{number:06d}.tar").unlink()
    report = verify(root)
    assert (report.shards, report.ok) == (41, 38)
    assert report.damaged_shards == ("as-train-000003", "as-train-000017", "as-train-000039")
    assert len(open_catalog(root, on_error="skip").shards) == 38


def test_an_error_in_a_thread_ends_the_others_at_once() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        done.append(number)
        if number == 3:
            raise ShardError("stop")

    with pytest.raises(ShardError, match="stop"):
        list(in_threads(work, range(10_000)))
    assert len(done) < 100
