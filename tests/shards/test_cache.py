import contextlib
import hashlib
import http.server
import json
import multiprocessing
import os
import pickle
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest

from unibrivl.shards import ClipShards, Commit, ShardError, open_catalog
from unibrivl.shards.atomic import TEMPORARY_MARK, hold_directory
from unibrivl.shards.cache import CacheConfig, RemoteSet
from unibrivl.shards.catalog import compact

AMPLE = 1 << 30


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files without ranges, as Python's server does, with the faults that a test sets."""

    def do_GET(self) -> None:
        server: Any = self.server
        server.asked.append(self.path)
        if server.pause_s and self.path.endswith(".tar"):
            time.sleep(server.pause_s)
        if server.busy and self.path.endswith(server.faulty):
            server.busy -= 1
            self.send_error(server.status)
        elif server.cut and self.path.endswith(server.faulty):
            server.cut -= 1
            data = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        else:
            super().do_GET()

    def list_directory(self, path: Any) -> Any:
        server: Any = self.server
        if server.lists:
            return super().list_directory(path)
        self.send_error(403)
        return None

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    busy = cut = 0
    status = 503
    pause_s = 0.0
    faulty = ".tar"
    lists = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}/"

    @property
    def tars_asked(self) -> int:
        return sum(path.endswith(".tar") for path in self.asked)


@pytest.fixture
def server(shard_set: Path) -> Iterator[Server]:
    with Server(shard_set) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def memory(shard_set: Path) -> Iterator[str]:
    """Return a memory:// address that holds the shard set."""
    files = fsspec.filesystem("memory")
    files.put(str(shard_set), "/bucket/set", recursive=True)
    yield "memory://bucket/set"
    files.rm("/bucket", recursive=True)


@pytest.fixture
def cache(tmp_path: Path) -> CacheConfig:
    return CacheConfig(directory=tmp_path / "cache", max_bytes=AMPLE, backoff_s=0.01)


def bounded(cache: CacheConfig, max_bytes: int) -> CacheConfig:
    return CacheConfig(directory=cache.directory, max_bytes=max_bytes, retries=cache.retries, backoff_s=0.01)


def commits_of(remote: RemoteSet) -> tuple[Commit, ...]:
    return open_catalog(remote.sync(), tars=False).shards


def fetch(remote: RemoteSet, commit: Commit) -> Path:
    """Open a tar as a reader does; return where the cache keeps it."""
    os.close(remote.open(commit))
    return remote.cache.directory / "tars" / commit.files[".tar"]["sha256"] / f"{commit.name}.tar"


def cached(cache: CacheConfig) -> list[str]:
    return sorted(path.name for path in (cache.directory / "tars").glob("*/*"))


def samples_of(shards: ClipShards) -> list[tuple[str, dict[str, bytes]]]:
    return [(sample.key, dict(sample.members)) for sample in shards]


def test_a_set_in_any_file_system_reads_as_the_local_one(memory: str, shard_set: Path, cache: CacheConfig) -> None:
    with ClipShards(shard_set) as here, ClipShards(memory, cache=cache) as there:
        assert samples_of(there) == samples_of(here)
        assert there.catalog_sha == here.catalog_sha


def test_a_set_behind_a_web_server_without_ranges_reads_as_the_local_one(
    server: Server, shard_set: Path, cache: CacheConfig
) -> None:
    with ClipShards(shard_set) as here, ClipShards(server.url, cache=cache) as there:
        assert samples_of(there) == samples_of(here)
    assert server.tars_asked == 3


def test_the_mirror_holds_everything_but_tars_and_is_brought_up_to_date(
    server: Server, shard_set: Path, cache: CacheConfig, write_shard: Callable[..., Commit]
) -> None:
    remote = RemoteSet(server.url, cache)
    mirror = remote.sync()
    assert {path.name for path in mirror.rglob("*") if path.is_file()} == {
        path.name for path in shard_set.rglob("*") if path.suffix in (".json", ".parquet")
    }
    (shard_set / "ontology.json").write_text("[]")
    write_shard(shard_set / "shards" / "train", [9], number=2)
    for path in (shard_set / "shards" / "test").iterdir():
        path.unlink()
    server.asked.clear()
    catalog = open_catalog(remote.sync(), tars=False)
    assert [commit.name for commit in catalog.shards] == [f"as-train-{n:06d}" for n in range(3)]
    assert (mirror / "ontology.json").read_text() == "[]"
    assert not list((mirror / "shards" / "test").iterdir())
    assert sum(path.endswith(".parquet") for path in server.asked if "shards" in path) == 1  # the new one


def test_a_shard_committed_anew_replaces_its_older_self(
    server: Server, shard_set: Path, cache: CacheConfig, write_shard: Callable[..., Commit]
) -> None:
    remote = RemoteSet(server.url, cache)
    old = fetch(remote, commits_of(remote)[1]).read_bytes()
    write_shard(shard_set / "shards" / "train", [10, 11, 12, 13])
    commit = commits_of(remote)[1]
    assert fetch(remote, commit).read_bytes() == (shard_set / "shards/train/as-train-000000.tar").read_bytes() != old


def test_a_server_without_listings_is_read_by_its_catalog(server: Server, shard_set: Path, cache: CacheConfig) -> None:
    server.lists = False
    with pytest.raises(ShardError, match=r"lists no folders.*unibrivl shards index"):
        RemoteSet(server.url, cache).sync()
    compact(shard_set)
    assert len(open_catalog(RemoteSet(server.url, cache).sync(), tars=False)) == 9


@pytest.mark.parametrize("fault", ["busy", "cut"])
@pytest.mark.parametrize("file", [".tar", ".parquet", "dataset.json"])
def test_what_fails_twice_on_the_way_is_tried_a_third_time(
    server: Server, shard_set: Path, cache: CacheConfig, fault: str, file: str
) -> None:
    setattr(server, fault, 2)
    server.faulty = file
    remote = RemoteSet(server.url, cache)
    commit = commits_of(remote)[1]
    assert fetch(remote, commit).read_bytes() == (shard_set / "shards/train/as-train-000000.tar").read_bytes()
    assert getattr(server, fault) == 0


@pytest.mark.parametrize("status", [400, 403, 410, 451])
def test_what_would_fail_again_is_asked_once(server: Server, cache: CacheConfig, status: int) -> None:
    remote = RemoteSet(server.url, cache)
    commit = commits_of(remote)[1]
    server.busy, server.status = 99, status
    with pytest.raises(ShardError, match=r"shards/train/as-train-000000\.tar: cannot be read"):
        fetch(remote, commit)
    assert server.tars_asked == 1


def test_a_fetch_given_up_names_the_tar_and_leaves_nothing(server: Server, cache: CacheConfig) -> None:
    remote = RemoteSet(server.url, cache)
    commit = commits_of(remote)[1]
    server.cut = 99
    with pytest.raises(ShardError, match=r"shards/train/as-train-000000\.tar: cannot be read"):
        fetch(remote, commit)
    assert server.tars_asked == 1 + cache.retries
    assert cached(cache) == []


@pytest.mark.parametrize("damage", ["flipped", "short", "long"])
def test_a_tar_damaged_at_its_address_is_refused_by_name(
    memory: str, cache: CacheConfig, damage: str, shard_set: Path
) -> None:
    remote = RemoteSet(memory, cache)
    commit = commits_of(remote)[1]
    data = bytearray((shard_set / "shards/train/as-train-000000.tar").read_bytes())
    if damage == "flipped":
        data[700] ^= 1
    fsspec.filesystem("memory").pipe_file(
        "/bucket/set/shards/train/as-train-000000.tar",
        bytes(data[:-512] if damage == "short" else data + b"x" * (damage == "long")),
    )
    reason = "SHA-256 differs" if damage == "flipped" else "bytes came, want"
    with pytest.raises(ShardError, match=rf"memory://bucket/set/shards/train/as-train-000000\.tar: .*{reason}"):
        fetch(remote, commit)
    assert cached(cache) == []


def test_a_sidecar_damaged_at_its_address_is_refused_by_name(memory: str, cache: CacheConfig) -> None:
    path = "/bucket/set/shards/train/as-train-000001.parquet"
    data = fsspec.filesystem("memory").cat_file(path)
    fsspec.filesystem("memory").pipe_file(path, data[:-9] + b"x" * 9)
    with pytest.raises(ShardError, match=r"as-train-000001\.parquet: .*SHA-256 differs"):
        RemoteSet(memory, cache).sync()
    mirror = RemoteSet(memory, cache).mirror
    assert not (mirror / "shards/train/as-train-000001.commit.json").exists()


def test_a_commit_damaged_at_its_address_is_refused_by_name(memory: str, cache: CacheConfig) -> None:
    path = "/bucket/set/shards/train/as-train-000001.commit.json"
    fsspec.filesystem("memory").pipe_file(path, b"<html>login</html>")
    with pytest.raises(ShardError, match=r"memory://bucket/set/.*as-train-000001\.commit\.json .*no readable commit"):
        RemoteSet(memory, cache).sync()
    assert not (RemoteSet(memory, cache).mirror / "incoming").exists()


def test_an_address_without_a_shard_set_is_refused_by_name(server: Server, cache: CacheConfig) -> None:
    with pytest.raises(ShardError, match=r"/shards/dataset\.json is not there: this is no shard set"):
        RemoteSet(f"{server.url}shards", cache).sync()
    with pytest.raises(ShardError, match="no address that can be opened"):
        RemoteSet("nonsense://set", cache).sync()


def test_a_password_in_the_address_stays_out_of_messages(server: Server, cache: CacheConfig) -> None:
    url = server.url.replace("//", "//user:secret@") + "shards"
    with pytest.raises(ShardError) as caught:
        RemoteSet(url, cache).sync()
    assert "secret" not in str(caught.value)


def test_a_catalog_that_points_out_of_the_set_is_refused(server: Server, shard_set: Path, cache: CacheConfig) -> None:
    from unibrivl.shards.atomic import write_json
    from unibrivl.shards.seal import seal

    compact(shard_set)
    value = json.loads((shard_set / "catalog.json").read_bytes())
    value["shards"][0][1] = "../../outside"
    write_json(shard_set / "catalog.json", seal(value))
    server.lists = False
    with pytest.raises(ShardError, match=r"catalog\.json: damaged"):
        RemoteSet(server.url, cache).sync()


def test_the_tars_used_longest_ago_make_room(server: Server, cache: CacheConfig) -> None:
    first, second, third = commits_of(RemoteSet(server.url, cache))
    sizes = {commit.name: commit.files[".tar"]["bytes"] for commit in (first, second, third)}
    room = sizes[second.name] + max(sizes[first.name], sizes[third.name])
    remote = RemoteSet(server.url, bounded(cache, room))
    fetch(remote, first)
    fetch(remote, second)
    fetch(remote, first)  # now the second is the one used longest ago
    fd = remote.open(second)
    fetch(remote, first)
    fetch(remote, third)
    assert cached(cache) == [f"{first.name}.tar", f"{third.name}.tar"]
    assert len(os.pread(fd, 1 << 20, 0)) == sizes[second.name]  # an evicted tar is read to its end
    os.close(fd)
    assert server.tars_asked == 3


def test_a_tar_larger_than_the_cache_is_refused(memory: str, cache: CacheConfig) -> None:
    remote = RemoteSet(memory, bounded(cache, 4096))
    with pytest.raises(ShardError, match=r"as-test-000000\.tar: \d+ bytes; the cache takes 4096; raise max_bytes"):
        fetch(remote, commits_of(remote)[0])


def test_what_a_killed_fetch_left_goes_first(memory: str, cache: CacheConfig) -> None:
    remote = RemoteSet(memory, cache)
    first, second, _ = commits_of(remote)
    kept = fetch(remote, first)
    leftover = cache.directory / "tars" / ("0" * 64) / f".x.tar{TEMPORARY_MARK}1-00"
    leftover.parent.mkdir()
    leftover.write_bytes(bytes(100_000))
    room = first.files[".tar"]["bytes"] + second.files[".tar"]["bytes"]
    fetch(RemoteSet(memory, bounded(cache, room)), second)
    assert kept.exists()
    assert not leftover.exists()


def test_a_tar_in_the_cache_of_another_size_is_fetched_again(server: Server, cache: CacheConfig) -> None:
    remote = RemoteSet(server.url, cache)
    commit = commits_of(remote)[0]
    path = fetch(remote, commit)
    whole = path.read_bytes()
    os.truncate(path, 1000)
    assert fetch(remote, commit).read_bytes() == whole
    assert server.tars_asked == 2


def test_a_tar_that_is_held_is_not_evicted(memory: str, cache: CacheConfig) -> None:
    first, second, third = commits_of(RemoteSet(memory, cache))
    remote = RemoteSet(memory, bounded(cache, sum(c.files[".tar"]["bytes"] for c in (first, second)) + 1))
    fetch(remote, first)
    fetch(remote, second)
    with hold_directory(fetch(remote, first).parent, wait=True):
        fetch(remote, second)  # newer than the first
        fetch(remote, third)
    assert f"{first.name}.tar" in cached(cache)
    assert f"{second.name}.tar" not in cached(cache)


def open_all(remote: RemoteSet, turns: int) -> int:
    """Open every tar of the set `turns` times; return how many had other bytes than were committed."""
    wrong = 0
    for commit in open_catalog(remote.sync(), tars=False).shards * turns:
        fd = remote.open(commit)
        data = os.pread(fd, 1 << 24, 0)
        os.close(fd)
        wrong += hashlib.sha256(data).hexdigest() != commit.files[".tar"]["sha256"]
    return wrong


def in_child(remote: RemoteSet, together: Any, results: Any) -> None:
    remote.sync()
    together.wait(60)
    results.put(open_all(remote, 1))


@pytest.mark.slow
def test_processes_that_share_a_cache_fetch_each_tar_once(server: Server, cache: CacheConfig) -> None:
    server.pause_s = 0.3
    context = multiprocessing.get_context("spawn")
    results, together = context.Queue(), context.Barrier(3)
    arguments = (RemoteSet(server.url, cache), together, results)
    processes = [context.Process(target=in_child, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [results.get(timeout=1) for _ in processes] == [0, 0, 0]
    assert server.tars_asked == 3


def test_readers_that_fight_for_room_stay_within_it_and_read_whole_tars(server: Server, cache: CacheConfig) -> None:
    largest = max(commit.files[".tar"]["bytes"] for commit in commits_of(RemoteSet(server.url, cache)))
    remote = RemoteSet(server.url, bounded(cache, largest))
    server.pause_s = 0.05
    used = []
    with ThreadPoolExecutor(3) as threads:
        readers = [threads.submit(open_all, remote, 3) for _ in range(3)]
        while not all(reader.done() for reader in readers):
            with contextlib.suppress(FileNotFoundError):  # evicted or renamed at this moment
                used.append(sum(path.stat().st_size for path in (cache.directory / "tars").glob("*/*")))
            time.sleep(0.001)
    assert [reader.result() for reader in readers] == [0, 0, 0]
    assert 0 < max(used) <= largest


def test_a_remote_set_travels_to_another_process(memory: str, cache: CacheConfig) -> None:
    remote = pickle.loads(pickle.dumps(RemoteSet(memory, cache)))
    assert fetch(remote, commits_of(remote)[0]).exists()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # that is what is tried here
def test_a_fork_after_the_first_fetch_can_fetch_too(server: Server, cache: CacheConfig) -> None:
    remote = RemoteSet(server.url, cache)
    commit = commits_of(remote)[0]  # file system and its thread are up
    process = multiprocessing.get_context("fork").Process(target=remote.open, args=(commit,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert cached(cache) == [f"{commit.name}.tar"]


def test_a_broken_download_is_not_taken_for_the_tar_by_the_next_run(
    server: Server, shard_set: Path, cache: CacheConfig
) -> None:
    remote = RemoteSet(server.url, cache)
    commit = commits_of(remote)[1]
    server.cut = 99
    with pytest.raises(ShardError):
        fetch(remote, commit)
    server.cut = 0
    assert fetch(remote, commit).read_bytes() == (shard_set / "shards/train/as-train-000000.tar").read_bytes()


def test_a_local_folder_that_is_gone_is_an_error_of_the_cache(memory: str, cache: CacheConfig) -> None:
    cache.directory.write_text("a file in its place")
    with pytest.raises(ShardError, match="the cache cannot be written"):
        RemoteSet(memory, cache).sync()


@pytest.mark.parametrize("values", [{"max_bytes": 0}, {"max_bytes": 1, "retries": -1}])
def test_limits_that_make_no_sense_are_refused(tmp_path: Path, values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"max_bytes|retries"):
        CacheConfig(directory=tmp_path, **values)


def test_two_sets_may_hold_the_same_tar(memory: str, server: Server, cache: CacheConfig, shard_set: Path) -> None:
    for url in (memory, server.url):
        remote = RemoteSet(url, cache)
        fetch(remote, commits_of(remote)[0])
    assert server.tars_asked == 0
    assert cached(cache) == ["as-test-000000.tar"]
    shutil.rmtree(shard_set)
