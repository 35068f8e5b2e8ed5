"""Checks that a wrong address is told once, before the first clip, and that a right one is not refused."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from unibrivl.ingest import addresses
from unibrivl.ingest.addresses import check_address
from unibrivl.ingest.clips import Clip
from unibrivl.ingest.errors import PlanError
from unibrivl.ingest.retry import RetryConfig, retry
from unibrivl.ingest.run import IngestConfig, ingest, read_and_plan
from unibrivl.ingest.sources import FolderConfig, RemoteConfig, YouTubeConfig
from unibrivl.shards.catalog import committed_shards

from .web import serve

CLIPS = [Clip(corpus="gen", media_id="a", start_ms=0, end_ms=1000)]
ELSEWHERE = [Clip(corpus="gen", media_id="a", source="http://host/a.mp4", start_ms=0, end_ms=1000)]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pauses between tries, and any proxy of this machine."""
    monkeypatch.setattr(addresses, "FIRST_TRY_PAUSE_S", 0.0)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def nobody() -> Iterator[str]:
    """Return an address at which nobody listens, held so that nobody will."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def memory() -> Iterator[Any]:
    """Return fsspec's file system in memory, empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def remote(prefix: str, **options: Any) -> RemoteConfig:
    return RemoteConfig(**{"prefix": prefix, "schemes": ("http", "memory", "locked", "open"), "timeout_s": 5} | options)


def test_a_port_at_which_nobody_listens(nobody: str) -> None:
    with pytest.raises(
        PlanError, match=r"http://127\.0\.0\.1:\d+/\{id\}: 127\.0\.0\.1 cannot be reached \(Connection "
    ):
        check_address(remote(f"http://{nobody}/{{id}}"), CLIPS)
    with pytest.raises(PlanError, match="nothing was made; mend the address or the way there"):
        check_address(YouTubeConfig(url=f"http://{nobody}/{{id}}"), CLIPS)


def test_a_host_that_no_name_server_knows() -> None:
    with pytest.raises(PlanError, match=r"no-such-host\.invalid cannot be reached"):
        check_address(remote("http://me:secret@no-such-host.invalid/base"), CLIPS)
    with pytest.raises(PlanError, match="cannot be reached"):
        check_address(remote("http://host:99999/{id}"), CLIPS)


@pytest.mark.parametrize("prefix", ["http:///{id}", "memory:///{id}", "http://[bad/{id}"])
def test_what_is_no_address(prefix: str) -> None:
    with pytest.raises(PlanError, match=r"names no host and no bucket|not an address .*nothing was made"):
        check_address(remote(prefix), CLIPS)


def test_the_message_keeps_a_password_to_itself(nobody: str) -> None:
    with pytest.raises(PlanError) as caught:
        check_address(remote(f"http://me:secret@{nobody}/{{id}}"), CLIPS)
    assert "secret" not in str(caught.value)


def test_a_server_is_enough_whatever_it_answers() -> None:
    with serve() as web:
        check_address(remote(f"{web.base}/not/there/{{id}}"), CLIPS)
        check_address(YouTubeConfig(url=web.url("{id}")), CLIPS)
        assert not web.asked, "it is connected to, and asked for nothing"


def test_addresses_that_differ_from_clip_to_clip_are_not_looked_at(nobody: str, tmp_path: Path) -> None:
    check_address(remote(f"http://{nobody}/{{id}}"), ELSEWHERE)
    check_address(remote("http://{id}.invalid/a"), CLIPS)
    check_address(remote(""), CLIPS)
    check_address(FolderConfig(root=tmp_path), CLIPS)
    check_address(None, CLIPS)


def test_youtube_through_a_proxy_is_left_to_the_proxy(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    check_address(YouTubeConfig(url=f"http://{nobody}/{{id}}"), CLIPS)


def test_a_bucket_that_is_not_there(memory: Any) -> None:
    with pytest.raises(PlanError, match=r"memory://bucket/\{id\}\.mp4: there is no memory://bucket; nothing was made"):
        check_address(remote("memory://bucket/{id}.mp4"), CLIPS)
    memory.pipe("/bucket/other.mp4", b"x")
    check_address(remote("memory://bucket/{id}.mp4"), CLIPS)


class NoCredentialsError(Exception):
    pass


class Locked(fsspec.AbstractFileSystem):
    """Storage that raises what it is told to."""

    def info(self, path: str, **options: Any) -> Any:
        raise self.storage_options["error"]


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (NoCredentialsError("Unable to locate credentials"), "there are no credentials for it .Unable to locate"),
        (ConnectionResetError("reset"), "the storage cannot be reached .reset"),
        (PermissionError("AccessDenied"), None),  # of the bucket; its media may be readable
        (KeyError("anything"), None),
    ],
)
def test_what_storage_says_of_its_bucket(error: Exception, match: str | None) -> None:
    fsspec.register_implementation("locked", Locked, clobber=True)
    config = remote("locked://bucket/{id}", options={"locked": {"error": error}})
    if match is None:
        check_address(config, CLIPS)
    else:
        with pytest.raises(PlanError, match=match):
            check_address(config, CLIPS)


def test_a_fault_that_passes_is_no_reason_to_stop() -> None:
    errors: list[Exception] = [TimeoutError("late"), TimeoutError("late")]

    class Shaky(fsspec.AbstractFileSystem):
        def info(self, path: str, **options: Any) -> Any:
            if errors:
                raise errors.pop()
            return {}

    fsspec.register_implementation("open", Shaky, clobber=True)
    check_address(remote("open://bucket/{id}"), CLIPS)
    assert not errors


def test_a_wrong_address_commits_no_failures(
    media: Callable[..., Path], write_list: Callable[..., Path], config_for: Callable[..., IngestConfig], nobody: str
) -> None:
    """The same set goes on as soon as the address is right; a finished one needs no address at all."""
    config = config_for(write_list("a", "b", "gone"), media("a", "b"), max_failed=1)
    wrong = replace(config, engine=replace(config.engine, source=remote(f"http://{nobody}/{{id}}.mp4")))
    with pytest.raises(PlanError, match="cannot be reached"):
        ingest(wrong, read_and_plan(wrong)[1])
    assert committed_shards(config.out) == []
    assert not list((config.out).glob("ledger/*/*"))
    assert ingest(config, read_and_plan(config)[1]).ok == 2
    assert ingest(wrong, read_and_plan(wrong)[1]).made == 0
    with pytest.raises(PlanError, match="cannot be reached"):
        retry(RetryConfig(root=config.out, engine=wrong.engine))
    assert len(committed_shards(config.out)) == 2
