"""Questions that come together are answered together, each with its own answer; one alone waits for nobody."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.index.batcher import BatchConfig, Batcher


def run(
    answer: Callable[[Sequence[Any]], Any], work: Callable[[Batcher[Any, Any]], Awaitable[Any]], **options: Any
) -> Any:
    async def main() -> Any:
        coming = options.pop("coming", lambda: 0)
        sizes: list[int] = []
        batcher: Batcher[Any, Any] = Batcher(answer, BatchConfig(**options), coming, sizes.append)
        batcher.sizes = sizes  # type: ignore[attr-defined]
        batcher.start()
        try:
            return await work(batcher)
        finally:
            await batcher.close()

    return asyncio.run(main())


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 60), most=st.integers(1, 16))
def test_every_question_gets_its_own_answer_in_few_passes(count: int, most: int) -> None:
    async def work(batcher: Batcher[int, int]) -> None:
        assert await asyncio.gather(*(batcher.ask(n) for n in range(count))) == [n * n for n in range(count)]
        assert sum(batcher.sizes) == count and max(batcher.sizes) <= most
        assert len(batcher.sizes) == -(-count // most)

    run(lambda questions: [n * n for n in questions], work, max_batch=most)


def test_one_alone_does_not_wait() -> None:
    async def work(batcher: Batcher[int, int]) -> float:
        began = time.perf_counter()
        await batcher.ask(1)
        return time.perf_counter() - began

    assert run(list, work, window_s=1.0) < 0.5


def test_it_waits_for_those_on_their_way_but_not_beyond_the_window() -> None:
    async def work(batcher: Batcher[int, int]) -> tuple[list[int], float]:
        first = asyncio.create_task(batcher.ask(1))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(batcher.ask(2))
        began = time.perf_counter()
        await asyncio.gather(first, second)
        return batcher.sizes, time.perf_counter() - began

    sizes, seconds = run(list, work, window_s=0.4, coming=lambda: 1)
    assert sizes == [2]
    assert 0.2 < seconds < 2


def test_questions_gather_while_it_computes() -> None:
    def answer(questions: Sequence[int]) -> Sequence[int]:
        time.sleep(0.05)
        return questions

    async def work(batcher: Batcher[int, int]) -> list[int]:
        first = asyncio.create_task(batcher.ask(0))
        await asyncio.sleep(0.01)
        await asyncio.gather(first, *(batcher.ask(n) for n in range(1, 9)))
        return batcher.sizes

    assert run(answer, work) == [1, 8]


def test_an_error_is_that_of_its_question_alone() -> None:
    def answer(questions: Sequence[int]) -> list[Any]:
        return [ValueError(f"not {n}") if n % 2 else n for n in questions]

    async def work(batcher: Batcher[int, int]) -> list[Any]:
        return await asyncio.gather(*(batcher.ask(n) for n in range(4)), return_exceptions=True)

    assert [str(found) for found in run(answer, work)] == ["0", "not 1", "2", "not 3"]


def test_a_pass_that_fails_is_told_to_all_and_the_next_goes_on() -> None:
    def answer(questions: Sequence[int]) -> Sequence[int]:
        if 0 in questions:
            raise ZeroDivisionError
        return questions

    async def work(batcher: Batcher[int, int]) -> int:
        with pytest.raises(ZeroDivisionError):
            await batcher.ask(0)
        return await batcher.ask(5)

    assert run(answer, work) == 5


def test_what_was_given_up_is_not_computed() -> None:
    seen: list[int] = []

    def answer(questions: Sequence[int]) -> Sequence[int]:
        time.sleep(0.05)
        seen.extend(questions)
        return questions

    async def work(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.ask(0))
        await asyncio.sleep(0.01)
        given_up = asyncio.create_task(batcher.ask(1))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.gather(first, batcher.ask(2))

    run(answer, work)
    assert seen == [0, 2]


def test_one_thread_computes_and_other_work_takes_turns_with_it() -> None:
    names: set[str] = set()

    def answer(questions: Sequence[int]) -> Sequence[int]:
        names.add(threading.current_thread().name)
        return questions

    async def work(batcher: Batcher[int, Any]) -> None:
        for _ in range(3):
            await batcher.ask(1)
            names.add(await batcher.call(lambda: threading.current_thread().name))

    run(answer, work)
    assert len(names) == 1


def test_limits_that_never_answer_are_refused() -> None:
    for wrong in ({"window_s": -1}, {"max_batch": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            BatchConfig(**wrong)
