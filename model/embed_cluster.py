"""Embeds the shards of a set on a Ray cluster: actors that load the run once, a call a shard, the same files.

An actor whose process or machine dies is replaced, and its shard goes to whichever actor is free: a file that is whole
is left alone, so that nothing is done twice but what was cut off.
"""

import os
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..shards import ClipShards
from ..shards.cluster import MAX_LOSSES, check_same, connected, this_node
from .embed import load_encoder
from .embed_shard import EmbedConfig, embed_shard
from .errors import TrainError

WAIT_S = 1.0
"""Between two looks at how many machines there are."""


class Embedder:
    """An actor that holds a loaded run."""

    def __init__(self, config: EmbedConfig, about: dict[str, Any], num_threads: int, folder: Path) -> None:
        """Remember what to load: an actor that fails to start could not say why.

        Args:
            config: what was asked for, with absolute paths.
            about: what the files say of their making.
            num_threads: that torch computes with where the command was given; another number, other last bits.
            folder: in which the command was given, where the names of weights may be relative to it.
        """
        self.config, self.about, self.num_threads, self.folder = config, about, num_threads, folder

    def load(self, versions: dict[str, str], content: str) -> None:
        """Load run and catalog.

        Raises:
            CheckpointError, ShardError: they are not to be had here.
            TrainError: here are other versions, another run, or other shards.
        """
        check_same("the versions", software(), versions, TrainError)
        with suppress(OSError):
            os.chdir(self.folder)
        torch.set_num_threads(self.num_threads)
        self.encoder = load_encoder(self.config.run, self.config.image_tower, which=self.config.which)
        self.clips = ClipShards(self.config.shards, split=self.config.split)
        if self.encoder.fingerprints() != self.about["fingerprints"] or self.clips.catalog_sha != content:
            raise TrainError(
                f"{this_node()} sees another {self.config.run} or {self.config.shards} than the command's own machine; "
                "every machine of the cluster must see the same files under the same paths"
            )

    def embed(self, number: int) -> bool:
        """Write the file of a shard unless it is there; tell whether it was written."""
        return embed_shard(self.encoder, self.clips, number, self.config.out, self.about)


def software() -> dict[str, str]:
    """Return the versions that decide the bytes of embeddings."""
    return {"unibrivl": __version__, "torch": torch.__version__.partition("+")[0]}


def embed_on_cluster(
    config: EmbedConfig, clips: ClipShards, numbers: list[int], about: dict[str, Any]
) -> Iterator[tuple[int, bool]]:
    """Embed some shards, by their number in the catalog; yield each, as it is done, with whether it was written.

    Raises:
        TrainError: there is no such cluster, it keeps losing actors, or one of its machines has other files.
    """
    assert config.cluster is not None
    absolute = replace(config, run=config.run.absolute(), shards=config.shards.absolute(), out=config.out.absolute())
    with connected(config.cluster, TrainError) as ray:
        crew = _Crew(ray, absolute, about, clips.catalog_sha)
        try:
            yield from crew.embed(numbers)
        finally:
            crew.dismiss()


class _Crew:
    """The actors, and what each is doing."""

    def __init__(self, ray: Any, config: EmbedConfig, about: dict[str, Any], content: str) -> None:
        self.ray, self.content = ray, content
        self.arguments = config, about, torch.get_num_threads(), Path.cwd()
        self.jobs: dict[Any, tuple[Any, int | None]] = {}
        """Call to actor and shard; None while it loads."""
        self.losses = Counter[int | None]()

    def embed(self, numbers: list[int]) -> Iterator[tuple[int, bool]]:
        waiting = deque(numbers)
        while waiting or any(number is not None for _, number in self.jobs.values()):
            while len(self.jobs) < min(self._room(), len(waiting)):
                self._start()
            done, _ = self.ray.wait(list(self.jobs), timeout=WAIT_S)
            for call in done:
                actor, number = self.jobs.pop(call)
                is_lost, is_new = self._result(call, number)
                if not is_lost and number is not None:
                    yield number, is_new
                elif number is not None:
                    waiting.appendleft(number)
                if not is_lost and waiting:
                    following = waiting.popleft()
                    self.jobs[actor.embed.remote(following)] = actor, following
                else:
                    self.ray.kill(actor)

    def dismiss(self) -> None:
        """End the actors that still load or embed."""
        for actor, _ in self.jobs.values():
            self.ray.kill(actor)

    def _room(self) -> int:
        """Return how many actors the cluster has place for: one a GPU, or as many as its cores can have threads."""
        total = self.ray.cluster_resources()
        return max(1, int(total.get("GPU", 0) or total.get("CPU", 0) / self._cores()))

    def _cores(self) -> int:
        """Return the cores that an actor takes: one a thread, or all of the largest machine."""
        largest = max(node["Resources"].get("CPU", 0) for node in self.ray.nodes() if node["Alive"])
        return max(1, min(torch.get_num_threads(), int(largest)))

    def _start(self) -> None:
        num_gpus = 1 if self.ray.cluster_resources().get("GPU") else 0
        kind = self.ray.remote(num_cpus=1 if num_gpus else self._cores(), num_gpus=num_gpus)(Embedder)
        actor = kind.remote(*self.arguments)
        self.jobs[actor.load.remote(software(), self.content)] = actor, None

    def _result(self, call: Any, number: int | None) -> tuple[bool, bool]:
        """Return whether the actor was lost, and what it answered.

        Raises:
            TrainError: actors are lost again and again.
        """
        from ray.exceptions import RayActorError

        try:
            return False, bool(self.ray.get(call))
        except RayActorError as e:
            self.losses[number] += 1
            if self.losses[number] > MAX_LOSSES:
                raise TrainError(
                    f"{self.losses[number]} processes died while {'loading' if number is None else 'embedding'}; are "
                    "there memory and machines enough? The same command goes on where it was"
                ) from e
            return True, False
