"""Others read our shards: the same keys, the same bytes, the same order.

The tests marked `peers` run the peer's own program in an environment of its own, named by PEERS_PYTHON:
`make peers` makes it and runs them.
"""

import io
import json
import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import webdataset as wds
from PIL import Image

from unibrivl.shards import FORMAT_VERSION, SAMPLE_RATE, ClipShards, ShardWriter
from unibrivl.shards.atomic import write_json
from unibrivl.shards.schema import shard_name
from unibrivl.shards.stream import as_webdataset
from unibrivl.shards.tarindex import read_index

Read = list[tuple[str, dict[str, bytes]]]
MEMBERS = ("flac", "jpg", "384.jpg", "json")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[[int], tuple[str, dict[str, bytes]]]) -> Path:
    """Return a set of two shards and a patch shard, each clip with a second picture; every third id has `-` and `_`."""
    root = tmp_path_factory.mktemp("conformance")
    (root / "shards" / "train").mkdir(parents=True)
    write_json(root / "dataset.json", {"format": FORMAT_VERSION})
    larger = io.BytesIO()
    Image.new("RGB", (384, 384), (10, 200, 30)).save(larger, "JPEG")
    for name, numbers in (
        (shard_name("as", "train", 0), range(5)),
        (shard_name("as", "train", 1), range(5, 9)),
        (shard_name("as", "train", 0, retry=1), range(9, 11)),
    ):
        with ShardWriter(root / "shards" / "train", name) as writer:
            rows = []
            for number in numbers:
                key, members = make_clip(number)
                members = {"384.jpg": larger.getvalue(), **members}
                place = writer.add(key, {name: members[name] for name in MEMBERS})
                rows.append({"key": key, "split": "train", "status": "ok"} | place)
            writer.commit(split="train", plan_sha256="0" * 64, rows=rows)
    return root


@pytest.fixture(scope="module")
def expected(ours: Path) -> Read:
    """Return what our own reader says."""
    with ClipShards(ours) as shards:
        read = [(sample.key, dict(sample.members)) for sample in shards]
    assert len(read) == 11
    assert all(tuple(members) == MEMBERS for _, members in read)
    assert any(key.startswith("as_-a_") for key, _ in read)
    return read


def as_read(samples: Any) -> Read:
    return [(s["__key__"], {name: s[name] for name in s if not name.startswith("__")}) for s in samples]


# webdataset leaves closing its files to the garbage collector, and says so of a missing shuffle
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_them(ours: Path, expected: Read) -> None:
    dataset = wds.WebDataset(as_webdataset(ours, "train"), shardshuffle=False)
    assert as_read(dataset) == expected
    decoded = next(iter(wds.WebDataset(as_webdataset(ours), shardshuffle=False).decode("pil")))
    assert decoded["384.jpg"].size == (384, 384)
    assert decoded["json"]["key"] == decoded["__key__"]


def features_for_datasets() -> Any:
    """Return what `load_dataset` must be told: without it, it sees FLAC and demands torchcodec."""
    from datasets import Features, Json, Value

    pictures_and_sound = {name: Value("binary") for name in MEMBERS if name != "json"}
    return Features({**pictures_and_sound, "json": Json(), "__key__": Value("string")})


def as_datasets_reads(rows: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(row["__key__"], {name: row[name] for name in MEMBERS}) for row in rows]


def test_datasets_reads_them(ours: Path, expected: Read, tmp_path: Path) -> None:
    from datasets import load_dataset

    # The package parses JSON by itself, so that member is compared as what it says.
    wanted = [(key, members | {"json": json.loads(members["json"])}) for key, members in expected]
    features, files = features_for_datasets(), {"train": as_webdataset(ours, "train")}
    for streaming in (True, False):
        rows = load_dataset(
            "webdataset", data_files=files, split="train", streaming=streaming, features=features,
            cache_dir=str(tmp_path),
        )  # fmt: skip
        assert as_datasets_reads(rows) == wanted


def test_datasets_goes_on_where_it_stopped(ours: Path, expected: Read, tmp_path: Path) -> None:
    from datasets import load_dataset

    features = features_for_datasets()
    files = {"train": as_webdataset(ours, "train")}

    def load() -> Any:
        return load_dataset(
            "webdataset", data_files=files, streaming=True, features=features, split="train", cache_dir=str(tmp_path)
        )

    first = load()
    rows = iter(first)
    begin = [next(rows)["__key__"] for _ in range(6)]
    second = load()
    second.load_state_dict(first.state_dict())
    assert begin + [row["__key__"] for row in second] == [key for key, _ in expected]


def test_lhotse_reads_their_sound(ours: Path, expected: Read) -> None:
    lhotse = pytest.importorskip("lhotse")
    for key, members in expected:
        recording = lhotse.Recording.from_bytes(members["flac"], recording_id=key)
        assert (recording.sampling_rate, recording.num_channels) == (SAMPLE_RATE, 1)
        samples, _ = soundfile.read(io.BytesIO(members["flac"]), dtype="float32")
        assert (recording.load_audio()[0] == samples).all()


def test_lhotse_takes_their_index_for_its_own(ours: Path, expected: Read) -> None:
    indexing = pytest.importorskip("lhotse.indexing", reason="the installed lhotse has no indexed tars yet")
    by_key = dict(expected)
    for path in as_webdataset(ours, "train"):
        assert (indexing.read_index(f"{path}.idx") == read_index(Path(f"{path}.idx"))).all()
        reader = indexing.IndexedTarReader(path, auto_create_index=False)
        reader._ensure_open()
        for number in range(len(reader)):
            # Its own items are pairs of a sound and a manifest; a clip is read by its place and the members there.
            offset, end = reader.member_byte_range(number)
            found = {}
            for _ in MEMBERS:
                data, name, info = indexing.read_tar_member_at(reader._fh, offset)
                found[name.name.partition(".")[2]] = data
                offset += 512 + -(-info.size // 512) * 512
            assert found == by_key[name.name.partition(".")[0]]
            assert offset == end or number == len(reader) - 1
        reader.close()


# ---- in an environment of their own


@pytest.fixture(scope="module")
def peer() -> Callable[..., str]:
    """Return a function that runs a command with the Python of the peers' environment; skips where there is none."""
    python = os.environ.get("PEERS_PYTHON")
    if not python:
        pytest.skip("needs PEERS_PYTHON, the Python of an environment with the peers: `make peers`")
    python = str(Path(python).absolute())

    def run(*arguments: str, cwd: Path) -> str:
        # Ray writes settings into the home folder, so it gets one of its own.
        environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "CUDA_VISIBLE_DEVICES": "", "HOME": str(cwd)}
        done = subprocess.run([python, *arguments], capture_output=True, text=True, cwd=cwd, env=environment)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    return run


def from_zip(path: Path) -> dict[str, dict[str, bytes]]:
    """Return what a peer's script has put down: key to members."""
    read: dict[str, dict[str, bytes]] = {}
    with zipfile.ZipFile(path) as file:
        for entry in file.namelist():
            key, _, name = entry.partition(".")
            read.setdefault(key, {})[name] = file.read(entry)
    return read


ENERGON = """
import sys, zipfile
from megatron.energon import (
    Cooker, CrudeSample, DefaultTaskEncoder, WorkerConfig, get_loader, get_train_dataset, stateless
)

@stateless
def as_it_is(sample):
    return CrudeSample(sample)

class Raw(DefaultTaskEncoder):
    cookers = [Cooker(as_it_is)]

root, out = sys.argv[1:]
dataset = get_train_dataset(
    root, dataset_config="crude.yaml", task_encoder=Raw(), batch_size=None, shuffle_buffer_size=None,
    max_samples_per_sequence=None, repeat=False,
    worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
)
with zipfile.ZipFile(out, "w") as file:
    for sample in get_loader(dataset):
        key = sample["__key__"].rpartition("/")[2]
        for name, data in sample.items():
            if not name.startswith("__"):
                file.writestr(f"{key}.{name}", data)
"""
CRUDE = """
__module__: megatron.energon
__class__: CrudeWebdataset
decoder: null
"""


@pytest.mark.peers
@pytest.mark.timeout(900)
def test_energon_prepares_lints_and_reads_them(
    ours: Path, expected: Read, peer: Callable[..., str], tmp_path: Path
) -> None:
    # It writes `.nv-meta` and indexes of its own beside the tars: give it a folder of links.
    root = tmp_path / "energon"
    root.mkdir()
    for path in as_webdataset(ours, "train"):
        (root / Path(path).name).hardlink_to(path)
    energon = ("-c", "from megatron.energon.cli.main import main; main()")
    fields = ("--sample-type=ImageSample", '--field-map={"image": "jpg"}')
    arguments = ("--non-interactive", "--split-ratio=1,0,0", "--num-workers=1", *fields)
    peer(*energon, "prepare", str(root), *arguments, cwd=tmp_path)
    for path in as_webdataset(ours, "train"):
        theirs, own = read_index(root / f"{Path(path).name}.idx"), read_index(Path(f"{path}.idx"))
        assert theirs[:-1].tolist() == own[:-1].tolist()  # the last: where its scan ended, and the tar's size
    info = json.loads((root / ".nv-meta" / ".info.json").read_text())
    assert sorted(info["shard_counts"].values()) == [2, 4, 5]
    peer(*energon, "lint", str(root), "--split-parts", "train", cwd=tmp_path)
    (root / ".nv-meta" / "crude.yaml").write_text(CRUDE)
    peer("-c", ENERGON, str(root), str(tmp_path / "read.zip"), cwd=tmp_path)
    assert from_zip(tmp_path / "read.zip") == dict(expected)


RAY = """
import sys, zipfile
import ray
out, *paths = sys.argv[1:]
for attempts_left in (2, 1, 0):
    try:
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
        break
    except Exception:  # it gives its own processes 30 s to start, too few on a busy machine
        ray.shutdown()
        if not attempts_left:
            raise
ray.data.DataContext.get_current().execution_options.preserve_order = True
with zipfile.ZipFile(out, "w") as file:
    for row in ray.data.read_webdataset(paths, decoder=None).iter_rows():
        for name, data in row.items():
            if not name.startswith("__") and data is not None:
                file.writestr(f"{row['__key__']}.{name}", data)
"""


@pytest.mark.peers
@pytest.mark.timeout(900)
def test_ray_data_reads_them(ours: Path, expected: Read, peer: Callable[..., str], tmp_path: Path) -> None:
    peer("-c", RAY, str(tmp_path / "read.zip"), *as_webdataset(ours, "train"), cwd=tmp_path)
    read = from_zip(tmp_path / "read.zip")
    assert read == dict(expected)
    assert list(read) == [key for key, _ in expected]
