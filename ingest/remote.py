"""Fetches media from any address that fsspec knows: HTTP, S3, Google and Azure storage, whole and to a local file.

A list is not trusted with what it may name: only the schemes that the configuration allows, never a local file and
never fsspec's chained addresses (`zip::`, `simplecache::`), which could read or write anywhere.
"""

import errno
import re
import string
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from .. import __version__
from ..shards.httpstatus import status_of
from .clips import Clip
from .errors import ClipError, PlanError
from .medium import Medium, Spool, called, causes, first_line, http_error, is_disk_full

SCHEMES = ("http", "https", "s3", "gs", "gcs", "az", "abfs")
SCHEME_PATTERN = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]*)://")
FIELDS = frozenset({"id", "key", "start", "start_ms", "end", "end_ms"})
CLIP_FIELDS = FIELDS - {"id"}
BAD_IN_PATH = re.compile(r"[\x00-\x1f\x7f\\]")
NETWORK_NAMES = re.compile(r"Timeout|Connection|Connector|Payload|Disconnected|gaierror|SSL|IncompleteRead|Endpoint")
FORBIDDEN_NAMES = re.compile(r"NoCredentials|Forbidden|AccessDenied|Unauthor|Authentication")


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteConfig:
    """Media at addresses."""

    prefix: str = ""
    """Where media are: put before the list's relative paths; or an address with fields in braces: `id`, `key`, `start`
    and `end` (seconds), `start_ms`, `end_ms`, as in `s3://bucket/{id}.mp4` or `https://host/{id}_{start:06d}.mp4`. A
    file whose address holds anything but the id begins at its clip's start. Empty: the list has whole addresses."""
    schemes: tuple[str, ...] = SCHEMES
    """What addresses may begin with."""
    max_bytes: int = 4 << 30
    """Of one medium."""
    timeout_s: float = 30.0
    """How long a server may be silent."""
    deadline_s: float = 1800.0
    """How long one medium may take."""
    spool: Path | None = None
    """Folder that media pass through; None: the system's for temporary files."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By scheme, what fsspec's file system takes, as in `{"s3": {"anon": True}}`."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        for name in ("max_bytes", "timeout_s", "deadline_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, want more than 0")
        if self.prefix and _scheme(self.prefix) not in self.schemes:
            raise ValueError(f"prefix is {self.prefix!r}, want an address that begins with one of {_one_of(self)}")
        if unknown := self.fields - FIELDS:
            raise ValueError(f"prefix has {{{sorted(unknown)[0]}}}, want fields of {', '.join(sorted(FIELDS))}")

    @property
    def fields(self) -> frozenset[str]:
        """Return the names of the fields in `prefix`."""
        try:
            return frozenset(name for _, name, _, _ in string.Formatter().parse(self.prefix) if name is not None)
        except ValueError as e:
            raise ValueError(f"prefix is {self.prefix!r}, want fields in braces as in {{id}} ({e})") from e


class RemoteSource:
    """Downloads each medium to a file of its own, gone again when its clip is done."""

    def __init__(self, config: RemoteConfig) -> None:
        """Load what the prefix needs.

        Raises:
            PlanError: a package is missing, or the spool cannot be written.
        """
        self.config = config
        self._systems: dict[str, Any] = {}
        if config.prefix:
            self._system(_scheme(config.prefix))
        self._spool = Spool(config.spool)

    @contextmanager
    def open(self, clip: Clip) -> Iterator[Medium]:
        """Yield the clip's medium, fetched whole; see `Source.open`."""
        address, start_ms = self.locate(clip)
        system = self._system(_scheme(address))
        with self._spool.folder() as folder:
            path = folder / "medium"
            _fetch(system, address, path, self.config)
            with called(path, shown(address)):
                yield Medium(path, start_ms)

    def locate(self, clip: Clip) -> tuple[str, int]:
        """Return the address of the clip's medium and the instant at which that file begins, in ms.

        Raises:
            ClipError: `policy.address` if the list names what it may not, `source.no_address` if it names nothing.
        """
        prefix, source = self.config.prefix, clip.source
        if source and SCHEME_PATTERN.match(source):
            if _scheme(source) not in self.config.schemes:
                raise ClipError("policy.address", f"{shown(source)}: want an address with {_one_of(self.config)}")
            if not _is_whole(source):
                raise ClipError("policy.address", f"{shown(source)}: not an address")
            return source, 0
        if fields := self.config.fields:
            return _fill(prefix, clip), clip.start_ms if fields & CLIP_FIELDS else 0
        if not prefix or not source:
            raise ClipError(
                "source.no_address", f"{clip.key}: the list names no address; give a prefix with {{id}} or list paths"
            )
        if source.startswith("/") or BAD_IN_PATH.search(source) or {"..", "."} & set(source.split("/")):
            raise ClipError("policy.address", f"{source[:200]!r}: want a path below {shown(prefix)}")
        if _scheme(prefix) in ("http", "https"):
            source = quote(source)
        return f"{prefix.rstrip('/')}/{source}", 0

    def _system(self, scheme: str) -> Any:
        """Return the file system of a scheme, made once."""
        if scheme not in self._systems:
            self._systems[scheme] = file_system(scheme, self.config)
        return self._systems[scheme]


def file_system(scheme: str, config: RemoteConfig) -> Any:
    """Return fsspec's file system for addresses of a scheme.

    Raises:
        PlanError: a package is missing, or its options do not fit.
    """
    import fsspec

    options = dict(config.options.get(scheme, {}))
    try:
        if scheme in ("http", "https"):
            options["client_kwargs"] = _http_client(config) | options.get("client_kwargs", {})
        return fsspec.filesystem(scheme, skip_instance_cache=True, **options)
    except (ImportError, ValueError) as e:
        raise PlanError(
            f"{scheme}:// cannot be read here ({first_line(e)}); http(s) and s3 come with "
            "`pip install 'unibrivl[remote]'`, others with the package that fsspec names"
        ) from e


def _http_client(config: RemoteConfig) -> dict[str, Any]:
    import aiohttp

    # No compression: the length that the server announces is then that of the file.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"unibrivl/{__version__}"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=config.timeout_s, sock_read=config.timeout_s)
    return {"timeout": timeout, "headers": headers}


def _fetch(system: Any, address: str, path: Path, config: RemoteConfig) -> None:
    """Download a file, watching its size and the time."""
    from fsspec.callbacks import Callback

    name, until = shown(address), time.monotonic() + config.deadline_s

    class Watch(Callback):
        def relative_update(self, inc: int = 1) -> None:
            self.value += inc
            if self.value > config.max_bytes or (self.size or 0) > config.max_bytes:
                raise ClipError("policy.too_large", f"{name}: more than {config.max_bytes} bytes")
            if time.monotonic() > until:
                raise ClipError("transient.network", f"{name}: not here after {config.deadline_s:g} s")

    watch = Watch()
    try:
        # Asked of the file system itself: `fsspec.open` and its like would follow chained addresses.
        system.get_file(system._strip_protocol(address), str(path), callback=watch)
    except Exception as e:
        raise explain(e, name) from e
    if not path.is_file():
        raise ClipError("source.unavailable", f"{name}: a folder, not a file")
    if watch.size is not None and path.stat().st_size < watch.size:
        raise ClipError("transient.network", f"{name}: {path.stat().st_size} of {watch.size} bytes came")


def explain(error: Exception, name: str) -> Exception:
    """Return what an exception of fsspec, or of a library below it, means for the clip."""
    chain = list(causes(error))
    for one in chain:
        if isinstance(one, ClipError) or is_disk_full(one):
            return one  # type: ignore[return-value]
    for one in chain:
        kinds = " ".join(kind.__name__ for kind in type(one).__mro__)
        if "RedirectClientError" in kinds:
            return ClipError("policy.address", f"{name}: leads to an address that is not http")
        if "TooManyRedirects" in kinds:
            return ClipError("source.unavailable", f"{name}: leads in a circle")
        if status := status_of(one):
            headers = getattr(one, "headers", None) or {}
            return http_error(status, name, asks_to_wait="Retry-After" in headers)
        if isinstance(one, FileNotFoundError | IsADirectoryError):
            return ClipError("source.unavailable", f"{name}: not there")
        if isinstance(one, PermissionError) or FORBIDDEN_NAMES.search(kinds):
            return ClipError("source.forbidden", f"{name}: not allowed")
        if isinstance(one, OSError) and one.errno == errno.EBUSY:  # s3fs, of SlowDown
            return ClipError("throttle.http_429", f"{name}: the server asks for fewer requests")
        if "InvalidURL" in kinds:
            return ClipError("policy.address", f"{name}: not an address")
        if isinstance(one, TimeoutError | ConnectionError) or NETWORK_NAMES.search(kinds):
            return ClipError("transient.network", f"{name}: {_without_addresses(one) or type(one).__name__}")
    return ClipError("source.unknown", f"{name}: {type(error).__name__}: {_without_addresses(error)}")


def _fill(prefix: str, clip: Clip) -> str:
    start, end = (
        time_ms // 1000 if time_ms % 1000 == 0 else time_ms / 1000 for time_ms in (clip.start_ms, clip.end_ms)
    )
    values = {"start": start, "end": end, "start_ms": clip.start_ms, "end_ms": clip.end_ms}
    try:
        return prefix.format(id=clip.media_id, key=clip.key, **values)
    except (ValueError, LookupError) as e:  # `{start:06d}` of 30.5 s
        raise ClipError("source.no_address", f"{clip.key}: {prefix} cannot be filled in ({first_line(e)})") from e


def _scheme(address: str) -> str:
    match = SCHEME_PATTERN.match(address)
    return match[1].lower() if match else ""


def _is_whole(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return bool(parts.netloc) and (parts.port or 0) >= 0
    except ValueError:
        return False


def _one_of(config: RemoteConfig) -> str:
    return ", ".join(f"{scheme}://" for scheme in config.schemes)


def shown(address: str) -> str:
    """Return an address for messages: without user, password and query, which may hold keys.

    >>> shown("https://me:secret@host/a.mp4?signature=abc")
    'https://host/a.mp4'
    """
    try:
        parts = urlsplit(address)
    except ValueError:
        return f"{_scheme(address)}://..."
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:300]


def _without_addresses(error: object) -> str:
    return re.sub(r"""\S+://\S+""", "...", first_line(error))
