"""Tars that can only be read from front to back: pipes, HTTP without ranges, foreign tars without an index.

The webdataset package reads them. It takes a cut tar for a whole one if the cut lies between two members, so every
byte on its way is watched here: headers are followed to the end of the archive, and the last sample is handed on
only when that end was seen. What a stream cannot show is a flipped bit inside a member; `ClipShards` shows that.
"""

import contextlib
import gzip
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .catalog import open_catalog
from .errors import ShardError
from .sample import Sample
from .tarindex import BLOCK
from .transfer import RemoteFolder

CHUNK_BYTES = 1 << 20
STDIN = "-"
PIPE = "pipe:"


def stream(
    urls: str | Path | Iterable[str | Path], *, report: Callable[[ShardError], object] | None = None
) -> Iterator[Sample]:
    """Yield the samples of tars in the order in which they come.

    Args:
        urls: paths, fsspec addresses (`https://...`, `s3://...`), `-` for standard input, or `pipe:` and a shell
            command, such as `pipe:ssh host cat x.tar`. Such a command runs as it stands: never build one from names
            that others have given. A name that ends in `.gz` or `.tgz` is unpacked on the way.
        report: called with what is wrong with a tar; then the stream goes on with the next one. Without it, that is
            raised.

    Raises:
        ShardError: a tar cannot be read, is cut or damaged, or the members of a key lie apart. Samples before that
            place have been handed out; the one before a cut has not.
    """
    for url in [urls] if isinstance(urls, str | Path) else urls:
        try:
            yield from _samples(str(url))
        except ShardError as e:
            if report is None:
                raise
            report(e)


def as_webdataset(root: Path, split: str | None = None) -> list[str]:
    """Return the paths of the committed tars of a set, for `webdataset.WebDataset` and its like.

    Raises:
        ShardError: as `open_catalog`; or a clip lies in two shards, which only the catalog can put right.
    """
    catalog = open_catalog(root, split=split)
    twice = sum(commit.ok for commit in catalog.shards) - len(catalog)
    if twice:
        raise ShardError(
            f"{root}: {twice} times a clip lies in a second shard, so tars alone would give it twice; use ClipShards"
        )
    return [str(commit.path(".tar")) for commit in catalog.shards if commit.ok]


def _samples(url: str) -> Iterator[Sample]:
    """Yield the samples of one tar, the last one only when the tar has ended well."""
    from webdataset import tariterators

    waiting: Sample | None = None
    seen: set[str] = set()
    try:
        with _opened(url) as source:
            watched = _WatchedStream(source)
            files = tariterators.tar_file_expander([{"url": url, "stream": watched}], eof_value=None)
            for raw in tariterators.group_by_keys(files):
                key = raw["__key__"]
                if key in seen:
                    raise ShardError(f"{url}: the members of {key} lie apart or are there twice")
                seen.add(key)
                if waiting is not None:
                    yield waiting
                waiting = Sample(key, {name: data for name, data in raw.items() if not name.startswith("__")})
            watched.finish()
        # only now is it known that a pipe's command has ended well
    except (tarfile.TarError, OSError, EOFError, ValueError) as e:
        raise ShardError(f"{url}: {_reason(e)}") from e
    if waiting is not None:
        yield waiting


@contextlib.contextmanager
def _opened(url: str) -> Iterator[BinaryIO]:
    """Open anything to read from front to back."""
    with contextlib.ExitStack() as stack:
        source: Any
        if url == STDIN:
            import sys

            source = sys.stdin.buffer
        elif url.startswith(PIPE):
            source = stack.enter_context(_opened_pipe(url))
        else:
            source = stack.enter_context(_open_address(url))
        if url.endswith((".gz", ".tgz")):
            source = stack.enter_context(gzip.GzipFile(fileobj=source))
        yield source


@contextlib.contextmanager
def _opened_pipe(url: str) -> Iterator[Any]:
    """Start a shell command; how it ended counts only if it was read to its end."""
    from webdataset.gopen import gopen

    pipe: Any = gopen(url)
    try:
        yield pipe
    except BaseException:
        with contextlib.suppress(OSError):  # nobody reads on, so the command fails
            pipe.close()
        raise
    pipe.close()


def _open_address(url: str) -> Any:
    try:
        return RemoteFolder(url).open("")
    except Exception as e:  # each file system has errors of its own
        raise ShardError(f"{url}: cannot be opened ({_reason(e)})") from e


def _reason(error: Exception) -> str:
    """Return what went wrong; webdataset adds the names of its own objects behind it."""
    text = " ".join(str(error.args[0] if error.args else error).split()).partition(" @ ")[0]
    return text or type(error).__name__


class _WatchedStream:
    """Passes bytes on and follows the headers of the tar that they are."""

    def __init__(self, source: BinaryIO) -> None:
        """Watch what is read from `source`."""
        self._source = source
        self._position = 0
        self._header = b""  # the part of the next block that has come
        self._skip = 0  # bytes of data and padding before the next header
        self._zero_blocks = 0

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes.

        Raises:
            ValueError: they are no tar, go on behind its end, or the source fails.
        """
        try:
            data = self._source.read(size)
        except Exception as e:  # each file system has errors of its own
            raise ValueError(f"reading stopped at byte {self._position} ({_reason(e)})") from e
        self._follow(memoryview(data))
        return data

    def finish(self) -> None:
        """Read to the end.

        Raises:
            ValueError: the archive has no end, something is behind it, or the source fails.
        """
        while self.read(CHUNK_BYTES):
            pass
        if self._zero_blocks < 2:
            raise ValueError(f"cut at byte {self._position}: the two zero blocks that end a tar are missing")

    def _follow(self, data: memoryview) -> None:
        while data:
            if self._skip:
                taken = min(self._skip, len(data))
                self._skip -= taken
            else:
                taken = min(BLOCK - len(self._header), len(data))
                self._header += data[:taken]
            self._position += taken
            data = data[taken:]
            if len(self._header) == BLOCK:
                self._skip = self._after_header(self._header)
                self._header = b""

    def _after_header(self, header: bytes) -> int:
        """Return the bytes between this header and the next."""
        if not header.strip(b"\0"):
            self._zero_blocks += 1
            return 0
        begin = self._position - BLOCK
        if self._zero_blocks:
            raise ValueError(f"goes on at byte {begin}, behind the end of its archive")
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as e:
            raise ValueError(f"has a damaged header at byte {begin} ({e}), or is no uncompressed tar") from e
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise ValueError(f"{info.name} is a sparse file, which a stream cannot hold")
        named = info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        has_data = named or info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        return info.size + -info.size % BLOCK if has_data else 0
