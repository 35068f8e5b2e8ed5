"""What a build may hold: asked in one place, before the work, of `--memory` or of what the machine has left."""

import pytest

from unibrivl.index import memory
from unibrivl.index.errors import IndexStoreError
from unibrivl.index.memory import available_gb, check_memory, peak_rss_mb
from unibrivl.index.plan import SearchConfig


def test_what_is_allowed_goes_before_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_gb", lambda: 2.0)
    check_memory(10_000, 512, SearchConfig())
    check_memory(10**6, 512, SearchConfig(memory_gb=20))
    with pytest.raises(IndexStoreError, match=r"about \d+\.\d GB \(10,000,000 rows of 512 .*machine has left 2\.0"):
        check_memory(10**7, 512, SearchConfig())
    with pytest.raises(IndexStoreError, match=r"--memory allows 1\.0; give more memory, or pass --exact"):
        check_memory(10**6, 512, SearchConfig(memory_gb=1))
    with pytest.raises(IndexStoreError, match=r"exact search.*--memory allows 0\.1; give more memory$"):
        check_memory(10_000, 512, SearchConfig(memory_gb=0.1))
    monkeypatch.setattr(memory, "available_gb", lambda: None)
    check_memory(10**7, 512, SearchConfig())


def test_the_system_tells_what_there_is() -> None:
    left = available_gb()
    assert left is None or 0 < left < 10**5
    assert peak_rss_mb() > 10
