"""What the sample corpora have in common: their configuration, their rows, their ids, and the split by groups."""

import base64
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import SampleError

Progress = Callable[[int, int, str], None]
"""Called with what is done, of how many, and what it is."""

NAMES = ("stamps", "film")
FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """Which sample to write, and where to."""

    name: str
    """`stamps` or `film`."""
    out: Path
    cache: Path
    """Where the fetched package is kept."""
    languages: tuple[str, ...] = ("fr",)
    """Of the stamps' spoken names."""
    sounds: bool = True
    """Whether the stamps' own sounds are clips too."""
    seed: int = 0
    """Of the draw of held-out groups."""
    held_out: float = 0.2
    """The share of groups that are held out, in [0, 1)."""

    def __post_init__(self) -> None:
        """Check what can be checked before anything is fetched."""
        if self.name not in NAMES:
            raise SampleError(f"unknown sample {self.name!r}: the samples are {', '.join(NAMES)}")
        if not 0 <= self.held_out < 1:
            raise SampleError(f"`held_out` is {self.held_out}, expected a share from 0 to below 1")
        if self.name == "stamps" and not self.languages and not self.sounds:
            raise SampleError("no language and no sounds: the sample would be empty")

    def identity(self) -> dict[str, Any]:
        """Return what decides the bytes of the sample, to compare with what a folder holds."""
        identity: dict[str, Any] = {"name": self.name, "format": FORMAT}
        if self.name == "stamps":
            identity |= {"languages": sorted(set(self.languages)), "sounds": self.sounds}
            identity |= {"seed": self.seed, "held_out": self.held_out}
        return identity


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleClip:
    """One row of the general list; several may share a media file."""

    id: str
    end_s: float
    labels: tuple[str, ...]
    caption: str
    group: str
    is_held_out: bool
    license: str
    start_s: float = 0.0
    language: str = ""

    @property
    def path(self) -> str:
        """Return the media file's name."""
        return f"{self.id}.mp4"


def clip_id(content: bytes) -> str:
    """Return an id shaped like AudioSet's: 11 characters of the base64url alphabet, `-` and `_` included."""
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def connected_groups(edges: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the group of every node: a name for the connected component that the edges put it in."""
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for a, b in edges:
        parent[root(a)] = root(b)
    members: dict[str, list[str]] = {}
    for node in sorted(parent):
        members.setdefault(root(node), []).append(node)
    return {
        node: hashlib.sha256("\n".join(nodes).encode()).hexdigest()[:12] for nodes in members.values() for node in nodes
    }


def held_out_groups(groups: Iterable[str], seed: int, share: float) -> set[str]:
    """Return the groups to hold out: the first `share` of them in an order that only the seed decides."""
    ranked = sorted(set(groups), key=lambda g: hashlib.blake2b(f"{seed} {g}".encode()).digest())
    return set(ranked[: round(share * len(ranked))])
