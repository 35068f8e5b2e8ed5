"""Milvus as a place for vectors: a server, or a file of Milvus Lite, that holds one collection a snapshot.

A collection is called by the id of its snapshot, and says in its properties which model embedded it, how it is searched
and which recall was measured. It counts only once it is marked as whole. What fills it stands in `milvus_push.py`, what
searches it in `milvus_search.py`. Shapes: N rows, D dimensions.
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .errors import IndexMismatchError, MilvusError
from .snapshot import read_manifest

TOKEN = "UNIBRIVL_MILVUS_TOKEN"  # noqa: S105  (the name of a variable)
"""Environment variable with the token of the server, such as `user:password`: a command line can be read by others."""
PREFIX = "unibrivl_"
"""Of the names of collections; the id of the snapshot follows."""
PROPERTY = "unibrivl"
"""The property in which a collection says what it is, as JSON."""
COLLECTION_FORMAT = 1
METRIC = "IP"
"""Vectors have length one, so that inner products are cosines."""
ROW_BITS = 40
"""A primary key is the number of the segment, then so many bits with the number of the row in it."""
TIMEOUT_S = 10.0
"""For one call that answers at once."""
LONG_S = 600.0
"""For one call that works through a collection."""
NOT_LOADED = 101
"""Code of an error."""
LITE = ".db"


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What a collection says of itself."""

    snapshot: str
    """Id of the snapshot whose rows it holds."""
    encoder: dict[str, str]
    """Fingerprints of what embedded them, by modality."""
    dim: int
    metric: str = METRIC
    lists: int = 0
    """Inverted lists of its index; 0: every vector is compared."""
    nprobe: dict[str, int] = field(default_factory=dict)
    """By number of answers: lists that a search without a filter looks through."""
    recall: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """By direction, by number of answers: what was measured when it was pushed, with its interval."""
    whole: bool = False
    """Whether all rows are there and the recall was reached."""
    format: int = COLLECTION_FORMAT


def check_uri(name: str, uri: str) -> None:
    """Refuse what names no server and no file.

    Raises:
        ValueError: `uri` is of another kind, or holds a password.
    """
    is_server = uri.startswith(("http://", "https://"))
    if not (is_server or uri.endswith(LITE)):
        raise ValueError(f"{name} is {uri[:80]!r}, want http://HOST:PORT or a file of Milvus Lite, NAME{LITE}")
    if is_server and "@" in urlsplit(uri).netloc:
        raise ValueError(f"{name} holds a password, which others could read; put USER:PASSWORD into {TOKEN}")


class Store:
    """A connection; every failure is a `MilvusError` of one line."""

    def __init__(self, uri: str, client: Any, faults: tuple[type[Exception], ...]) -> None:
        """Take a connected client and what it may raise; use `connect`."""
        self.uri, self._client, self._faults = uri, client, faults

    def call(self, what: str, *args: Any, timeout: float = TIMEOUT_S, **kwargs: Any) -> Any:
        """Return what the client's method `what` returns.

        Raises:
            MilvusError: it failed, or took more than `timeout` seconds.
        """
        try:
            return getattr(self._client, what)(*args, timeout=timeout, **kwargs)
        except self._faults as e:
            raise MilvusError(f"{self.uri}: {_reason(e, timeout)}") from e

    def about(self, collection: str) -> About | None:
        """Return what a collection says of itself; None: there is no such collection.

        Raises:
            MilvusError: it is no collection of ours, or of another format.
        """
        if not self.call("has_collection", collection):
            return None
        told = self.call("describe_collection", collection).get("properties", {}).get(PROPERTY)
        try:
            return About(**json.loads(told or "{}"))
        except (TypeError, ValueError) as e:
            raise MilvusError(
                f"{self.uri}: collection {collection} was not pushed by this version; drop it and push again"
            ) from e

    def load(self, collection: str) -> None:
        """Make a collection ready to answer; one that is stays so."""
        self.call("load_collection", collection, timeout=LONG_S)

    def search(self, collection: str, *args: Any, timeout: float, **kwargs: Any) -> Any:
        """Return what a search finds; a server that was started again may have to load the collection first."""
        try:
            return self.call("search", collection, *args, timeout=timeout, **kwargs)
        except MilvusError as e:
            if getattr(e.__cause__, "code", None) != NOT_LOADED:
                raise
        self.call("load_collection", collection)
        return self.call("search", collection, *args, timeout=timeout, **kwargs)

    def count(self, collection: str, modality: str) -> int:
        """Return how many rows of a modality a collection holds."""
        found = self.call(
            "query", collection, filter=f'modality == "{modality}"', output_fields=["count(*)"],
            consistency_level="Strong", timeout=LONG_S,
        )  # fmt: skip
        return int(found[0]["count(*)"])

    def snapshots(self) -> list[str]:
        """Return the ids of the snapshots that have a collection."""
        return sorted(
            name.removeprefix(PREFIX) for name in self.call("list_collections") if name.startswith(PREFIX)
        )  # fmt: skip

    def close(self) -> None:
        """End the connection; a file of Milvus Lite is given back to other processes."""
        self._client.close()
        if self.uri.endswith(LITE):
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(self.uri)


@dataclass(frozen=True, slots=True)
class Collection:
    """A whole collection of the snapshot that an index has now."""

    store: Store
    name: str
    about: About


def connect(uri: str, *, create: bool = False) -> Store:
    """Connect to a server or open a file of Milvus Lite.

    Args:
        uri: checked by `check_uri`.
        create: make a file that is not there.

    Raises:
        MilvusError: a package is missing, the server cannot be reached, or the file is not there or open elsewhere.
    """
    try:
        import grpc
        import pymilvus
    except ImportError as e:
        raise _missing(e.name) from e
    for name in ("pymilvus", "milvus_lite", "grpc"):
        logging.getLogger(name).setLevel(
            logging.CRITICAL + 1
        )  # they log each error that they raise, with its traceback
    faults = (pymilvus.MilvusException, grpc.RpcError, grpc.FutureTimeoutError)
    if uri.endswith(LITE):
        _check_lite(uri, create)
    try:
        client = pymilvus.MilvusClient(uri, token=os.environ.get(TOKEN, ""), timeout=TIMEOUT_S)
    except faults as e:
        if uri.endswith(LITE):
            raise MilvusError(
                f"{uri}: cannot be opened; another process has it open, or it is no file of Milvus Lite"
            ) from e
        raise MilvusError(f"{uri}: {_reason(e, TIMEOUT_S)}") from e
    return Store(uri, client, faults)


def open_collection(store: Store, root: Path) -> Collection:
    """Return the collection of an index's current snapshot.

    Raises:
        MilvusError: it was not pushed, or not to its end.
        IndexMismatchError: another snapshot or another encoder is in it.
        IndexStoreError: there is no index.
    """
    snapshot, manifest = read_manifest(root)
    about = store.about(PREFIX + snapshot)
    if about is None or not about.whole:
        others = [name for name in store.snapshots() if name != snapshot]
        state = f"only a part of snapshot {snapshot}" if about else f"no snapshot {snapshot}"
        beside = f" (but {', '.join(others[:5])})" if others else ""
        raise MilvusError(f"{store.uri} holds {state} of {root}{beside}; run `unibrivl push {root} --to {store.uri}`")
    check_about(store, about, snapshot, manifest, root)
    store.load(PREFIX + snapshot)
    return Collection(store, PREFIX + snapshot, about)


def check_about(store: Store, about: About, snapshot: str, manifest: Mapping[str, Any], root: Path) -> None:
    """Refuse a collection that is not that of a snapshot, both named.

    Raises:
        IndexMismatchError: id, encoder, dimensions or metric differ.
    """
    wanted = about_snapshot(snapshot, manifest)
    for what in ("snapshot", "encoder", "dim", "metric", "format"):
        theirs, ours = getattr(about, what), getattr(wanted, what)
        if theirs != ours:
            raise IndexMismatchError(
                f"{store.uri}: collection {PREFIX}{snapshot} has {what} {_short(theirs)}, {root} has {_short(ours)}; "
                "drop it and push again"
            )


def about_snapshot(snapshot: str, manifest: Mapping[str, Any]) -> About:
    """Return what the collection of a snapshot says of itself before it is filled."""
    fingerprints = manifest.get("encoder", {}).get("fingerprints", {})
    return About(snapshot=snapshot, encoder=dict(fingerprints), dim=int(manifest["dim"]))


def _check_lite(uri: str, create: bool) -> None:
    if find_spec("milvus_lite") is None:
        raise _missing("milvus_lite")
    path = Path(uri)
    if not path.exists() and not (create and path.absolute().parent.is_dir()):
        raise MilvusError(f"{uri}: there is no {'folder for it' if create else 'such file of Milvus Lite'}")


def _missing(name: str | None) -> MilvusError:
    return MilvusError(f"{name} is not installed: run pip install 'unibrivl[milvus]'")


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {str(one)[:12]}" for name, one in sorted(value.items())) or "none"
    return str(value)[:40]


def _reason(error: Any, timeout_s: float) -> str:
    """Return in one line what a client's exception says."""
    details = error.details() if hasattr(error, "details") else getattr(error, "message", "")  # of gRPC, of pymilvus
    line = " ".join(str(details or error).split())[:200]
    if "Deadline" in line or "timeout" in line:
        return f"Milvus did not answer within {timeout_s:g} s ({line})"
    return f"Milvus refused or is not there ({line or type(error).__name__})"
