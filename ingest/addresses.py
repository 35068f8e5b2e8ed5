"""Looks once, before the first clip, whether the address that media come from can be reached at all.

What is wrong with the address itself (no such host or bucket, nobody listening, no credentials) would fail every clip
alike and stand in the shards as the fault of each. What one medium lacks stays that clip's own failure.
"""

import re
import socket
import time
from collections.abc import Iterable
from urllib.parse import urlsplit
from urllib.request import getproxies

from .clips import Clip
from .errors import ClipError, PlanError
from .medium import causes, first_line
from .patience import FIRST_TRY_PAUSE_S, MAX_TRIES
from .remote import SCHEME_PATTERN, RemoteConfig, explain, file_system, shown
from .sources import SourceConfig
from .youtube import YouTubeConfig

HINT = "nothing was made; mend the address or the way there, and run the same command again"
PORTS = {"http": 80, "https": 443}


def check_address(config: SourceConfig | None, clips: Iterable[Clip]) -> None:
    """Refuse an address under which no medium of `clips` can be had; those with addresses of their own do not count.

    Faults of the network are tried as often as those of a clip.

    Raises:
        PlanError: no such host or bucket, nobody listens there, or there are no credentials for it.
    """
    prefix = _prefix(config)
    if not prefix or all(SCHEME_PATTERN.match(clip.source) for clip in clips):
        return
    for number in range(MAX_TRIES):
        fault, is_passing = _fault(config, prefix)
        if not fault:
            return
        if not is_passing or number == MAX_TRIES - 1:
            raise PlanError(f"{shown(prefix)}: {fault}; {HINT}")
        time.sleep(FIRST_TRY_PAUSE_S * 2**number)


def _prefix(config: SourceConfig | None) -> str:
    """Return the address that all media share; empty where there is none, or where it differs from clip to clip.

    Raises:
        PlanError: it is none.
    """
    prefix = ""
    if isinstance(config, RemoteConfig):
        prefix = config.prefix
    elif isinstance(config, YouTubeConfig) and not getproxies():  # yt-dlp goes through a proxy that is set
        prefix = config.url
    try:
        return "" if "{" in urlsplit(prefix).netloc else prefix
    except ValueError as e:
        raise PlanError(f"{shown(prefix)}: not an address ({e}); {HINT}") from e


def _fault(config: SourceConfig | None, prefix: str) -> tuple[str, bool]:
    """Return what is wrong with an address, empty if nothing is, and whether that may pass."""
    parts = urlsplit(prefix)
    if not parts.netloc:
        return "it names no host and no bucket", False
    if isinstance(config, RemoteConfig) and parts.scheme.lower() not in PORTS:
        return _bucket_fault(config, f"{parts.scheme}://{parts.netloc}")
    timeout_s = config.timeout_s if isinstance(config, RemoteConfig | YouTubeConfig) else None
    try:
        port = parts.port or PORTS[parts.scheme.lower()]
        socket.create_connection((parts.hostname or "", port), timeout=timeout_s).close()
    except (OSError, ValueError) as e:  # ValueError: a port or name that cannot be
        return f"{parts.hostname} cannot be reached ({getattr(e, 'strerror', None) or first_line(e)})", True
    return "", False


def _bucket_fault(config: RemoteConfig, bucket: str) -> tuple[str, bool]:
    """Ask storage for a bucket; one that may not be looked at may have media that may."""
    system = file_system(urlsplit(bucket).scheme.lower(), config)
    try:
        system.info(system._strip_protocol(bucket))
    except Exception as e:
        error = explain(e, bucket)
        if any(re.search("Credential", type(one).__name__) for one in causes(e)):
            return f"there are no credentials for it ({first_line(e)})", False
        if isinstance(error, ClipError) and error.code == "source.unavailable":
            return f"there is no {bucket}", False
        if isinstance(error, ClipError) and error.code == "transient.network":
            return f"the storage cannot be reached ({str(error).removeprefix(f'{bucket}: ')})", True
    return "", False
