"""Which index a segment may get, and what it takes."""

import pytest

from unibrivl.index.plan import (
    SearchConfig,
    as_asked,
    chosen_factories,
    code_bytes,
    estimate_memory,
    factories,
    num_lists,
)


@pytest.mark.parametrize(
    ("rows", "dim", "wanted"),
    [
        (200_000, 512, ["IVF2048,PQ128x4fsr", "IVF2048,SQ8"]),
        (1_000_000, 512, ["IVF4096,PQ128x4fsr", "IVF4096,SQ8"]),
        (10_000_000, 768, ["IVF16384_HNSW32,PQ192x4fsr", "IVF16384_HNSW32,SQ8"]),
        (1_000_000, 509, ["IVF4096,SQ8"]),  # not in pieces of four
    ],
)
def test_candidates_by_size(rows: int, dim: int, wanted: list[str]) -> None:
    assert factories(rows, dim) == wanted


def test_lists_are_a_power_of_two_near_four_roots() -> None:
    for rows in (1, 100, 10**5, 10**6, 10**7, 10**9):
        lists = num_lists(rows)
        assert lists & (lists - 1) == 0
        assert lists in (4, 2**17) or 0.7 <= lists / (4 * rows**0.5) <= 1.42


@pytest.mark.parametrize(
    ("factory", "size"),
    [("IVF16,PQ128x4fsr", 64), ("IVF16,PQ64", 64), ("IVF16,SQ8", 512), ("IVF16,SQfp16", 1024), ("IVF16,Flat", 2048)],
)
def test_bytes_of_a_code(factory: str, size: int) -> None:
    assert code_bytes(factory, 512) == size


def test_memory_grows_with_rows_and_is_told() -> None:
    config = SearchConfig()
    exact, large, larger = (estimate_memory(rows, 512, config) for rows in (1000, 10**6, 10**7))
    assert exact.bytes < large.bytes < larger.bytes
    assert "exact search" in exact.plan and "1,000,000 rows of 512 numbers" in large.plan
    assert large.bytes < 8 * 2**30
    assert estimate_memory(10**6, 512, SearchConfig(exact=True)).bytes == exact.bytes


def test_little_memory_leaves_out_the_larger_candidate() -> None:
    assert len(chosen_factories(10**6, 512, SearchConfig(memory_gb=8))) == 2
    small = SearchConfig(memory_gb=1.6)
    assert chosen_factories(10**6, 512, small) == ["IVF4096,PQ128x4fsr"]
    assert estimate_memory(10**6, 512, small).bytes < estimate_memory(10**6, 512, SearchConfig()).bytes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"recall": 1.0}, "recall is 1.0, want 0.5 to 0.999"),
        ({"recall": float("nan")}, "recall is nan"),
        ({"memory_gb": 0}, "memory_gb is 0, want at least 0.1"),
        ({"seed": -1}, "seed is -1"),
        ({"exact": True, "factory": "IVF16,SQ8"}, "exclude each other"),
        ({"factory": "HNSW32"}, "factory is 'HNSW32', want an inverted-file index"),
    ],
)
def test_what_cannot_be_met_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchConfig(**fields)


def test_what_was_asked_before_holds_unless_it_is_given_anew() -> None:
    before = SearchConfig(recall=0.9, exact=True, seed=3).asked()
    assert as_asked({}, {}) == SearchConfig()
    assert as_asked(before, {"memory_gb": 4}) == SearchConfig(recall=0.9, exact=True, seed=3, memory_gb=4)
    assert as_asked(before, {"exact": False, "seed": 5}) == SearchConfig(recall=0.9, seed=5)
    by_name = as_asked(before, {"factory": "IVF16,SQ8"})
    assert by_name == SearchConfig(recall=0.9, factory="IVF16,SQ8", seed=3)
    assert as_asked(by_name.asked(), {"exact": True}) == SearchConfig(recall=0.9, exact=True, seed=3)
    with pytest.raises(ValueError, match="exclude each other"):
        as_asked(before, {"exact": True, "factory": "IVF16,SQ8"})
