"""Checks media from addresses, against a web server on this machine and fsspec's file system in memory."""

import errno
import gc
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from unibrivl.ingest.clips import Clip
from unibrivl.ingest.errors import ClipError, PlanError
from unibrivl.ingest.medium import FOLDER_PREFIX, Spool, causes, http_error
from unibrivl.ingest.remote import RemoteConfig, RemoteSource, explain, shown
from unibrivl.ingest.sources import make_source

from .web import Web, serve

BODY = os.urandom(300_000)


@pytest.fixture
def web() -> Iterator[Web]:
    """Return a server that has `a b.mp4` and `ID.mp4`."""
    with serve() as web:
        web.files |= {"ID.mp4": BODY, "a%20b.mp4": BODY[:1000]}
        yield web


@pytest.fixture
def memory() -> Iterator[Any]:
    """Return fsspec's file system in memory, empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def clip(source: str = "", media_id: str = "ID", start_ms: int = 30_000, end_ms: int = 40_000) -> Clip:
    return Clip(corpus="as", media_id=media_id, source=source, start_ms=start_ms, end_ms=end_ms)


def source(tmp_path: Path, prefix: str = "", **options: Any) -> RemoteSource:
    made = make_source(RemoteConfig(**{"prefix": prefix, "spool": tmp_path, "timeout_s": 5} | options))
    assert isinstance(made, RemoteSource)
    return made


def failure(source: RemoteSource, wanted: Clip | None = None) -> ClipError:
    """Return the error of opening a clip, having seen that nothing stays behind."""
    with pytest.raises(ClipError) as caught, source.open(wanted or clip()):
        pass
    assert not [path for path in source._spool.directory.rglob("*")]
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_medium_comes_whole_and_goes_again(tmp_path: Path, web: Web) -> None:
    fetched = source(tmp_path, f"{web.base}/{{id}}.mp4")
    with fetched.open(clip()) as medium:
        assert medium.path.read_bytes() == BODY
        assert medium.start_ms == 0
        assert medium.path.is_relative_to(tmp_path)
    assert not medium.path.exists()
    assert web.asked == {"ID.mp4": 1}, "one request a medium"
    assert web.agents[0].startswith("unibrivl/")


def test_a_file_of_an_address_with_the_start_begins_there(tmp_path: Path, web: Web) -> None:
    for template, name in (
        ("{id}_{start:06d}.mp4", "ID_000030.mp4"), ("{id}_{start}_{end}.mp4", "ID_30_40.mp4"),
        ("{id}_{start_ms}_{end_ms}.mp4", "ID_30000_40000.mp4"), ("{key}.mp4", "as_ID_000030000.mp4"),
    ):  # fmt: skip
        web.files[name] = b"clip"
        with source(tmp_path, f"{web.base}/{template}").open(clip()) as medium:
            assert (medium.path.read_bytes(), medium.start_ms) == (b"clip", 30_000)


def test_a_start_that_cannot_be_written_is_the_fault_of_one_clip(tmp_path: Path) -> None:
    fetched = source(tmp_path, "http://host/{id}_{start:06d}.mp4")
    assert fetched.locate(clip()) == ("http://host/ID_000030.mp4", 30_000)
    assert failure(fetched, clip(start_ms=30_500)).code == "source.no_address"


def test_a_path_of_the_list_is_below_the_prefix(tmp_path: Path, web: Web) -> None:
    with source(tmp_path, web.base + "/").open(clip("a b.mp4")) as medium:
        assert medium.path.read_bytes() == BODY[:1000]
    located = source(tmp_path, "https://host/base").locate(clip("sub/ä?#%2e.mp4"))
    assert located == ("https://host/base/sub/%C3%A4%3F%23%252e.mp4", 0)


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "a\\b", "a\nb", "./a", "a/..", "\0"])
def test_a_path_does_not_leave_the_prefix(tmp_path: Path, path: str) -> None:
    assert failure(source(tmp_path, "http://127.0.0.1:1/base/"), clip(path)).code == "policy.address"


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd", "local:///etc/passwd", "FILE:///etc/passwd", "memory://secret", "ftp://host/a",
        "zip://a::file:///etc/passwd", "simplecache::file:///etc/passwd", "simplecache::http://host/a",
        "filecache::zip://a::http://host/a", "data://text", "github://a:b@c/d", "ssh://host/a", "reference://x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "http://127.0.0.1:1/{id}", "http://127.0.0.1:1/base"])
def test_a_list_may_not_name_other_kinds_of_addresses(tmp_path: Path, memory: Any, address: str, prefix: str) -> None:
    memory.pipe("/secret", b"secret")
    error = failure(source(tmp_path, prefix), clip(address))
    assert error.code == "policy.address"


@pytest.mark.parametrize("rest", ["::file:///etc/passwd", "/a::zip://b"])
def test_a_chain_behind_an_allowed_address_is_only_a_name(tmp_path: Path, web: Web, rest: str) -> None:
    assert failure(source(tmp_path), clip(web.url("x" + rest))).code == "source.unavailable"
    assert list(web.asked) == ["x" + rest]


def test_an_address_of_the_list_goes_before_the_prefix(tmp_path: Path, web: Web) -> None:
    fetched = source(tmp_path, "http://127.0.0.1:1/{id}_{start}")
    with fetched.open(clip(web.url("ID.mp4"))) as medium:
        assert (medium.path.read_bytes(), medium.start_ms) == (BODY, 0)


def test_without_an_address_there_is_nothing_to_fetch(tmp_path: Path) -> None:
    assert failure(source(tmp_path)).code == "source.no_address"
    assert failure(source(tmp_path), clip("a.mp4")).code == "source.no_address"
    assert failure(source(tmp_path, "http://host/base")).code == "source.no_address"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, "source.unavailable"), (400, "source.unavailable"), (401, "source.forbidden"), (403, "source.forbidden"),
        (451, "source.forbidden"), (410, "source.gone"), (429, "throttle.http_429"), (408, "transient.network"),
        (500, "transient.http_5xx"), (502, "transient.http_5xx"), (503, "transient.http_5xx"),
    ],
)  # fmt: skip
def test_statuses_are_told_apart(tmp_path: Path, web: Web, status: int, code: str) -> None:
    web.status["ID.mp4"] = [status]
    error = failure(source(tmp_path, f"{web.base}/{{id}}.mp4"))
    assert error.code == code
    assert str(error).startswith(f"{web.base}/ID.mp4: ")
    assert str(status) in str(error) or status == 404


def test_a_server_that_says_when_to_come_back_wants_a_pause(tmp_path: Path, web: Web) -> None:
    web.status["ID.mp4"] = [503]
    web.headers["ID.mp4"] = {"Retry-After": "7"}
    assert failure(source(tmp_path, f"{web.base}/{{id}}.mp4")).code == "throttle.http_429"


def test_another_try_may_succeed(tmp_path: Path, web: Web) -> None:
    web.status["ID.mp4"] = [500, 429, 200]
    fetched = source(tmp_path, f"{web.base}/{{id}}.mp4")
    assert [failure(fetched).code for _ in range(2)] == ["transient.http_5xx", "throttle.http_429"]
    with fetched.open(clip()) as medium:
        assert medium.path.read_bytes() == BODY


@pytest.mark.parametrize("cut_at", [0, 1, 100_000, len(BODY) - 1])
def test_a_short_body_is_no_medium(tmp_path: Path, web: Web, cut_at: int) -> None:
    web.cut_at["ID.mp4"] = cut_at
    assert failure(source(tmp_path, f"{web.base}/{{id}}.mp4")).code == "transient.network"


def test_a_silent_server_is_given_up(tmp_path: Path, web: Web) -> None:
    web.silent["ID.mp4"] = 0
    assert failure(source(tmp_path, f"{web.base}/{{id}}.mp4", timeout_s=0.2)).code == "transient.network"


def test_a_slow_server_is_given_up_in_the_end(tmp_path: Path, web: Web) -> None:
    web.slow["ID.mp4"] = 0.1
    error = failure(source(tmp_path, f"{web.base}/{{id}}.mp4", deadline_s=0.3))
    assert (error.code, "not here after 0.3 s" in str(error)) == ("transient.network", True)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/a", "http://no-such-host.invalid/a"])
def test_nobody_there_may_pass(tmp_path: Path, address: str) -> None:
    assert failure(source(tmp_path), clip(address)).code == "transient.network"


@pytest.mark.parametrize("address", ["http://", "http://[/a", "https://host:port/a", "http:///a"])
def test_what_is_no_address_is_the_fault_of_one_clip(tmp_path: Path, address: str) -> None:
    assert failure(source(tmp_path), clip(address)).code == "policy.address"


def test_redirects_end(tmp_path: Path, web: Web) -> None:
    web.status |= {"circle": [302], "out": [302], "in": [302]}
    web.headers |= {
        "circle": {"Location": "/circle"}, "out": {"Location": "file:///etc/passwd"}, "in": {"Location": "/ID.mp4"},
    }  # fmt: skip
    fetched = source(tmp_path)
    assert failure(fetched, clip(web.url("circle"))).code == "source.unavailable"
    assert failure(fetched, clip(web.url("out"))).code == "policy.address"
    with fetched.open(clip(web.url("in"))) as medium:
        assert medium.path.read_bytes() == BODY


def test_a_large_medium_is_refused_early(tmp_path: Path, web: Web) -> None:
    web.files["large.mp4"] = bytes(30_000_000)
    fetched = source(tmp_path, max_bytes=1000)
    assert failure(fetched, clip(web.url("large.mp4"))).code == "policy.too_large"
    web.files["exact.mp4"] = bytes(1000)
    with fetched.open(clip(web.url("exact.mp4"))) as medium:
        assert medium.path.stat().st_size == 1000


def test_a_server_that_announces_no_length_is_capped_too(tmp_path: Path, web: Web) -> None:
    web.headers["ID.mp4"] = {"Content-Length": "", "Connection": "close"}
    web.cut_at["ID.mp4"] = len(BODY)
    assert failure(source(tmp_path, f"{web.base}/{{id}}.mp4", max_bytes=1000)).code == "policy.too_large"


def test_keys_in_addresses_stay_out_of_messages(tmp_path: Path, web: Web) -> None:
    web.status["ID.mp4"] = [403]
    address = web.url("ID.mp4?signature=SECRET").replace("://", "://me:SECRET@")
    assert "SECRET" not in str(failure(source(tmp_path), clip(address)))
    assert "SECRET" not in str(failure(source(tmp_path), clip("ftp://me:SECRET@host/a?x=SECRET")))
    assert "SECRET" not in str(failure(source(tmp_path), clip("http://me:SECRET@127.0.0.1:1/a?x=SECRET")))


def test_errors_of_decoding_name_the_address(tmp_path: Path, web: Web) -> None:
    """The temporary file's name would say nothing, and make two runs differ."""
    with pytest.raises(ClipError) as caught, source(tmp_path).open(clip(web.url("ID.mp4"))) as medium:
        raise ClipError("media.no_audio", f"{medium.path}: has no sound")
    assert (caught.value.code, str(caught.value)) == ("media.no_audio", f"{web.base}/ID.mp4: has no sound")


def test_other_storage_is_read_the_same_way(tmp_path: Path, memory: Any) -> None:
    memory.pipe("/bucket/ID.mp4", BODY)
    fetched = source(tmp_path, "memory://bucket/{id}.mp4", schemes=("memory",))
    with fetched.open(clip()) as medium:
        assert medium.path.read_bytes() == BODY
    assert failure(fetched, clip(media_id="gone")).code == "source.unavailable"
    assert failure(source(tmp_path, "memory://bucket", schemes=("memory",), max_bytes=9), clip("ID.mp4")).code == (
        "policy.too_large"
    )
    memory.pipe("/bucket/folder/x.mp4", b"x")
    assert failure(source(tmp_path, "memory://bucket", schemes=("memory",)), clip("folder")).code == (
        "source.unavailable"
    )


class ShortSystem(MemoryFileSystem):
    """Announces more than comes, and says nothing about it."""

    protocol = "short"

    def get_file(self, rpath: str, lpath: str, callback: Any = None, **options: Any) -> None:
        callback.set_size(10)
        Path(lpath).write_bytes(b"12345")
        callback.relative_update(5)


def test_a_short_read_that_no_library_notices_is_no_medium(tmp_path: Path) -> None:
    fsspec.register_implementation("short", ShortSystem, clobber=True)
    error = failure(source(tmp_path, "short://bucket/{id}", schemes=("short",)))
    assert (error.code, str(error)) == ("transient.network", "short://bucket/ID: 5 of 10 bytes came")


class HttpError(Exception):
    def __init__(self, **values: object) -> None:
        super().__init__("told by a library")
        self.__dict__ |= values


class NoCredentialsError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (HttpError(code=404), "source.unavailable"),  # gcsfs
        (HttpError(status_code=403), "source.forbidden"),  # Azure
        (HttpError(response={"ResponseMetadata": {"HTTPStatusCode": 503}}), "transient.http_5xx"),  # botocore
        (OSError(errno.EBUSY, "SlowDown"), "throttle.http_429"),  # s3fs
        (PermissionError("AccessDenied"), "source.forbidden"), (NoCredentialsError(), "source.forbidden"),
        (TimeoutError(), "transient.network"), (ConnectionResetError(), "transient.network"),
        (KeyError("something else"), "source.unknown"),
    ],
)  # fmt: skip
def test_errors_of_storage_libraries_are_told_apart(error: Exception, code: str) -> None:
    for one in (error, RuntimeError("wrapped")):
        if one is not error:
            one.__cause__ = error
        explained = explain(one, "s3://bucket/a")
        assert isinstance(explained, ClipError)
        assert explained.code == code


def test_an_unknown_error_is_not_lost() -> None:
    assert str(explain(KeyError("x\ny"), "s3://b/a")) == "s3://b/a: KeyError: 'x\\ny'"


def test_a_full_disk_is_no_fault_of_the_medium() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("could not write")
    wrapped.__cause__ = full
    assert explain(wrapped, "s3://b/a") is full


def test_causes_of_errors_are_followed_once() -> None:
    one, other = ValueError("one"), KeyError("other")
    one.__cause__, other.__context__ = other, one
    assert list(causes(one)) == [one, other]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prefix": "file:///media"}, "prefix is 'file:///media', want an address that begins with one of http://"),
        ({"prefix": "/media"}, "want an address that begins"),
        ({"prefix": "zip://a::http://host/b"}, "want an address that begins"),
        ({"prefix": "http://host/{ids}"}, r"prefix has {ids}, want fields of end, end_ms, id, key"),
        ({"prefix": "http://host/{id.__class__}"}, "prefix has {id.__class__}"),
        ({"prefix": "http://host/{}"}, "prefix has {}"), ({"prefix": "http://host/{id"}, "want fields in braces"),
        ({"max_bytes": 0}, "max_bytes is 0"), ({"timeout_s": -1}, "timeout_s is -1"),
        ({"deadline_s": 0}, "deadline_s is 0"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        RemoteConfig(**options)


def test_a_missing_package_is_named_with_its_extra() -> None:
    code = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from unibrivl.ingest.sources import *\n"
        "try: make_source(RemoteConfig(prefix='https://host/{id}'))\n"
        "except Exception as e: print(type(e).__name__, e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("PlanError https:// cannot be read here (")
    assert "pip install 'unibrivl[remote]'" in done.stdout


@pytest.mark.parametrize("scheme", ["gs", "nonsense"])
def test_a_storage_nobody_knows_is_named(tmp_path: Path, scheme: str) -> None:
    with pytest.raises(PlanError, match=f"^{scheme}:// cannot be read here .*pip install 'unibrivl.remote.'"):
        source(tmp_path, f"{scheme}://bucket/{{id}}", schemes=(scheme,))


def test_a_spool_goes_with_its_process(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "new")
    with spool.folder() as path:
        (path / "a").touch()
        assert path.parent == spool.directory
    assert not path.exists()
    directory = spool.directory
    del spool
    gc.collect()
    assert not directory.exists()


def test_a_killed_process_leaves_its_spool_to_the_next(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from unibrivl.ingest.medium import Spool\n"
        f"s = Spool(Path({str(tmp_path)!r}))\n"
        "with s.folder() as f: (f / 'a').write_bytes(b'a'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    alive = Spool(tmp_path)
    with alive.folder() as in_use:
        (in_use / "b").touch()
        subprocess.run([sys.executable, "-c", code], check=False)
        assert len(list(tmp_path.glob(f"{FOLDER_PREFIX}*"))) == 2
        another = Spool(tmp_path)
        assert {alive.directory, another.directory} == set(tmp_path.glob(f"{FOLDER_PREFIX}*"))
        assert (in_use / "b").exists()


def test_a_spool_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PlanError, match=r"file: cannot be written .*name another folder for fetched media"):
        Spool(tmp_path / "file")


def test_statuses_say_what_to_do() -> None:
    assert {http_error(status, "a").kind for status in range(500, 600)} == {"transient"}
    assert {http_error(status, "a").kind for status in range(400, 500)} == {"source", "transient", "throttle"}


def test_shown_survives_anything() -> None:
    assert shown("http://[bad") == "http://..."
