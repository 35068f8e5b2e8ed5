"""The engine that answers now, and its replacement when a new snapshot is published.

A request keeps the engine that it began with; the old one goes when the last of them is done.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .. import UnibrivlError
from .engine import Engine, QueryResult, Question
from .errors import MilvusError
from .items import columns_of, examples_of

logger = logging.getLogger(__name__)

EXAMPLES = 12
"""Items that the page offers to begin with."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine and what is told of its index."""

    engine: Engine
    columns: dict[str, dict[str, Any]]
    examples: list[dict[str, Any]]


def opened(engine: Engine) -> Opened:
    """Gather what is told of an index; it is counted once."""
    examples = examples_of(engine.snapshot, EXAMPLES)
    for example in examples[:1]:
        engine.snapshot.find(example["item_id"])  # makes the table of ids now and not for the first who asks
    return Opened(engine, columns_of(engine.snapshot), examples)


class Live:
    """The current engine."""

    def __init__(self, engine: Engine, watch_s: float) -> None:
        """Begin with an engine; `watch_s` seconds lie between two looks for a new snapshot."""
        self.now = opened(engine)
        self.swaps = 0
        self.failed = ""
        """The snapshot that could not be opened, if the current one is such."""
        self._may_follow = False
        """Whether it may still come: it was not pushed to Milvus yet, or Milvus was away."""
        self._watch_s = watch_s
        self._task: asyncio.Task[None] | None = None

    @property
    def engine(self) -> Engine:
        """Return the engine of the current snapshot."""
        return self.now.engine

    def start(self) -> None:
        """Begin to watch for new snapshots."""
        self._task = asyncio.create_task(self._watch(), name="watch")

    async def close(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def answer(self, questions: Sequence[Question]) -> list[QueryResult | BaseException]:
        """Answer questions in one pass; where one of them cannot be answered, each by itself."""
        engine = self.engine
        try:
            return list(engine.ask_many(questions))
        except UnibrivlError as e:
            if isinstance(e, MilvusError):  # none of the others would be answered
                logger.error("%d questions are not answered: %s", len(questions), e)
            if len(questions) == 1 or isinstance(e, MilvusError):
                return [e] * len(questions)
        answers: list[QueryResult | BaseException] = []
        for question in questions:
            answers += self.answer([question])
        return answers

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._watch_s)
            await self.look()

    async def look(self) -> None:
        """Swap to the snapshot that is current now; a damaged one is left alone and told of once."""
        name = await asyncio.to_thread(self._current)
        if name in (self.engine.snapshot.id, "") or (name == self.failed and not self._may_follow):
            return
        try:
            self.now = await asyncio.to_thread(lambda: opened(self.engine.reopen()))
        except (UnibrivlError, OSError) as e:
            was_told, self.failed, self._may_follow = name == self.failed, name, isinstance(e, MilvusError)
            if was_told:
                return
            logger.error("snapshot %s cannot be opened, %s goes on: %s", name, self.engine.snapshot.id, e)
        else:
            self.failed = ""
            self.swaps += 1
            logger.info("snapshot %s answers now", self.engine.snapshot.id)

    def _current(self) -> str:
        with suppress(OSError, ValueError):
            return (self.engine.snapshot.root / "CURRENT").read_text(encoding="utf-8").strip()
        return ""
