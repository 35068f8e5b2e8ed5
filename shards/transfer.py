"""Files of a remote folder through fsspec: listed, read whole, fetched with size and SHA-256 checked, or put there.

What fails on the way (a closed connection, a busy server, bytes that do not fit) is tried again with growing pauses;
what would fail again (nothing there, no permission) is not. Every error names the remote file.
"""

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from .errors import ShardError
from .httpstatus import Answer, answer_of, status_of

CHUNK_BYTES = 4 << 20
STALL_S = 60
"""Seconds without a byte after which a connection counts as lost; there is no limit on the whole."""
REQUEST_TRIES = 3
"""Of one request to S3, such as a part of a large file, below the tries of the whole file."""
HOPELESS = re.compile(r"Credential|ParamValidation|ProfileNotFound|NoRegion|InvalidEndpoint|UnknownEndpoint")
"""Names of errors of botocore that come before any request, and again each time."""

T = TypeVar("T")


class _WrongBytesError(ValueError):
    """What came is not what was promised; perhaps only on this way."""


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    """A folder at an fsspec address; it holds nothing open, so it may be pickled and carried over a fork."""

    url: str
    retries: int = 3
    backoff_s: float = 0.5
    """Pause before the first retry; each further one is twice as long."""

    def where(self, name: str) -> str:
        """Return the address of a file for messages, without a password that the address may hold."""
        return re.sub(r"//[^/@]*@", "//", f"{self.url.rstrip('/')}/{name}")

    def read(self, name: str) -> bytes:
        """Return a small file.

        Raises:
            FileNotFoundError: there is none.
            ShardError: it cannot be read.
        """
        files, path = self._locate(name)
        return self._patiently(name, lambda: files.cat_file(path))

    def listing(self, name: str) -> list[str]:
        """Return the names in the folder `name`, sorted; none where the server shows no listings.

        Raises:
            ShardError: the server fails in another way.
        """
        files, path = self._locate(name)
        files.invalidate_cache()  # it would tell what was there at the first look
        try:
            found = self._patiently(name, lambda: files.ls(f"{path}/" if _is_http(files) else path, detail=False))
        except (FileNotFoundError, NotADirectoryError, _RefusedError):
            return []
        return sorted({str(entry).rstrip("/").rpartition("/")[2] for entry in found})

    def open(self, name: str) -> Any:
        """Return a remote file open for reading from front to back; errors are those of its file system."""
        files, path = self._locate(name)
        # One plain request over HTTP: a server may ignore ranges.
        return files.open(path, "rb", **({"block_size": 0} if _is_http(files) else {}))

    def fetch(self, name: str, target: BinaryIO, *, size: int, sha256: str) -> None:
        """Write a remote file of `size` bytes to the beginning of `target` and check it while it streams.

        Raises:
            FileNotFoundError: there is none.
            ShardError: it cannot be read or is another one than promised.
        """

        def attempt() -> None:
            target.seek(0)
            with self.open(name) as source:
                _copy(source, target, size=size, sha256=sha256)

        self._patiently(name, attempt)

    def size(self, name: str) -> int | None:
        """Return the bytes that a file has, None if there is none.

        Raises:
            ShardError: it cannot be asked for.
        """
        files, path = self._locate(name)
        files.invalidate_cache()
        try:
            return self._patiently(name, lambda: files.info(path)["size"])
        except FileNotFoundError:
            return None

    def put(self, name: str, source: Path) -> None:
        """Write a local file there and see that all of it arrived.

        Raises:
            ShardError: it cannot be written, or there is no such bucket.
        """
        files, path = self._locate(name)
        size = source.stat().st_size

        def attempt() -> None:
            files.put_file(str(source), path)
            if (found := files.info(path)["size"]) != size:
                raise _WrongBytesError(f"{found} bytes arrived, want {size}")

        try:
            self._patiently(name, attempt, "written")
        except FileNotFoundError as e:
            raise ShardError(f"{self.where(name)}: cannot be written ({_reason(e)})") from e

    def _locate(self, name: str) -> tuple[Any, str]:
        """Return file system and path; fsspec keeps file systems by process, so a fork gets its own."""
        import fsspec

        try:
            files, root = fsspec.url_to_fs(self.url, **_options(self.url))
        except ImportError as e:
            raise ShardError(
                f"{self.where('')}: cannot be opened here ({_reason(e)}); http(s) and s3 come with "
                "`pip install 'unibrivl[remote]'`, others with the package that fsspec names"
            ) from e
        except ValueError as e:
            raise ShardError(f"{self.where('')}: no address that can be opened ({_reason(e)})") from e
        if _is_s3(self.url):
            files.retries = 1  # s3fs has tries of its own between botocore's and ours, of time-outs alone
        return files, f"{root.rstrip('/')}/{name}" if name else root

    def _patiently(self, name: str, action: Callable[[], T], done: str = "read") -> T:
        for attempt in range(self.retries + 1):
            try:
                return action()
            except (ShardError, FileNotFoundError, NotADirectoryError):
                raise
            except Exception as e:  # each file system has errors of its own
                answer = _answer(e)
                if attempt == self.retries or answer not in (Answer.WAIT, Answer.AGAIN):
                    kind = _RefusedError if answer is Answer.REFUSED else ShardError
                    raise kind(f"{self.where(name)}: cannot be {done} ({_reason(e)})") from e
                time.sleep(self.backoff_s * 2**attempt)
        raise AssertionError("the last attempt returns or raises")


class _RefusedError(ShardError):
    """The server forbids it, which some also say of what is not there."""


def _copy(source: Any, target: BinaryIO, *, size: int, sha256: str) -> None:
    digest, received = hashlib.sha256(), 0
    while chunk := source.read(CHUNK_BYTES):
        received += len(chunk)
        if received > size:
            break
        digest.update(chunk)
        try:
            target.write(chunk)
        except OSError as e:
            raise ShardError(f"{target.name}: the cache cannot be written ({e}); make room on its disk") from e
    if received != size:
        raise _WrongBytesError(f"{'more than ' * (received > size)}{min(received, size)} bytes came, want {size}")
    if digest.hexdigest() != sha256:
        raise _WrongBytesError("its SHA-256 differs from its commit: it is damaged there, repair that set")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _answer(error: Exception) -> Answer:
    """Return what an error of a file system says about another try; one of unknown make may pass."""
    if isinstance(error, PermissionError):
        return Answer.REFUSED
    if HOPELESS.search(type(error).__name__):
        return Answer.ABSENT
    status = status_of(error)
    return Answer.AGAIN if status is None else answer_of(status)


def _is_http(files: Any) -> bool:
    protocol = files.protocol
    return "http" in ((protocol,) if isinstance(protocol, str) else protocol)


def _is_s3(url: str) -> bool:
    return url.startswith(("s3://", "s3a://"))


def _options(url: str) -> dict[str, Any]:
    """Lift the limit of five minutes a request that fsspec has over HTTP: a tar on a slow line takes longer.

    Of S3, bound how long one try can take, unless fsspec's own configuration (`FSSPEC_S3`) says otherwise.
    """
    if _is_s3(url):
        from fsspec.config import conf

        ours = {"retries": {"total_max_attempts": REQUEST_TRIES}, "connect_timeout": STALL_S, "read_timeout": STALL_S}
        return {"config_kwargs": ours | conf.get("s3", {}).get("config_kwargs", {})}
    if not url.startswith(("http://", "https://")):
        return {}
    import aiohttp  # fsspec needs it for these addresses

    return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=STALL_S, sock_read=STALL_S)}}
