"""Collects questions that come at the same time, so that one pass of the encoder and of the search answers them all.

One thread computes; everything that shares the machine with it (torch, FAISS) keeps to that thread's budget. While it
computes, the next questions gather; a question that comes alone waits for nobody.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..shards.checks import check_ranges

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchConfig:
    """How long and how many questions wait for each other."""

    window_s: float = 0.005
    """The longest that a question waits for others that are on their way."""
    max_batch: int = 32
    """Questions answered in one pass."""

    def __post_init__(self) -> None:
        """Refuse what would wait for ever or never answer."""
        check_ranges(self, window_s=(0, 1), max_batch=(1, 1024))


class Batcher(Generic[Question, Answer]):
    """Answers questions in passes; use it inside one running event loop."""

    def __init__(
        self,
        answer: Callable[[Sequence[Question]], Sequence[Answer | BaseException]],
        config: BatchConfig,
        coming: Callable[[], int] = lambda: 0,
        on_pass: Callable[[int], object] = lambda size: None,
    ) -> None:
        """Remember what to do; passes begin with `start`.

        Args:
            answer: called in the one thread that computes; returns an answer or an error for each question.
            config: how long to wait for more.
            coming: how many questions are on their way but not here yet (being received or decoded).
            on_pass: hears how many questions each pass has.
        """
        self._answer, self._config, self._coming, self._on_pass = answer, config, coming, on_pass
        self._waiting: asyncio.Queue[tuple[Question, asyncio.Future[Answer]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="answers")
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Questions that no pass has taken yet."""
        return self._waiting.qsize()

    def start(self) -> None:
        """Begin to answer."""
        self._task = asyncio.create_task(self._run(), name="batcher")

    async def ask(self, question: Question) -> Answer:
        """Return the answer to one question, or raise the error that came of it."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((question, future))
        return await future

    async def call(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns, done between two passes in the thread that computes."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def close(self) -> None:
        """Stop; questions that still wait are given up."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        while not self._waiting.empty():
            self._waiting.get_nowait()[1].cancel()
        await asyncio.to_thread(self._thread.shutdown)

    async def _run(self) -> None:
        while True:
            batch = [pair for pair in await self._gather() if not pair[1].done()]  # some were given up meanwhile
            if batch:
                await self._pass(batch)

    async def _gather(self) -> list[tuple[Question, "asyncio.Future[Answer]"]]:
        """Return the next questions: those that are here, and those that come within the window."""
        loop = asyncio.get_running_loop()
        batch = [await self._waiting.get()]
        until = loop.time() + self._config.window_s
        while len(batch) < self._config.max_batch:
            if not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            elif self._coming() > 0 and (left := until - loop.time()) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        batch.append(await self._waiting.get())
            else:
                break
        return batch

    async def _pass(self, batch: list[tuple[Question, "asyncio.Future[Answer]"]]) -> None:
        self._on_pass(len(batch))
        questions = [question for question, _ in batch]
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, questions)
        except Exception as e:  # the fault of the program itself must not end the server
            answers = [e] * len(batch)
        for answer, (_, future) in zip(answers, batch, strict=True):
            if future.done():
                continue
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)
