"""The page of the tables in a real browser: figures whole, sentences wrapped, a wide table scrolling in its own box."""

from typing import Any

import pytest

from unibrivl.bench.tables import as_page, read_row, table_rows
from unibrivl.index.page import Table, write_page

from ..browser import HOSTILE, assert_quiet_and_fits
from .test_tables import write_row

WIDE = "a wide one"


@pytest.fixture(scope="module")
def page_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("tables")
    coverage = {"clips": 15_446, "listed": 15_446}
    row = write_row(root / "urbansound8k-of-a-tower_2-core-cpu_2026-11.json", tower=HOSTILE, coverage=coverage)
    columns = tuple(f"figure {n}" for n in range(20))
    wide = Table(caption=WIDE, columns=columns, rows=(tuple(["0.123 [0.100, 0.200]"] * 20),), note="Its note.")
    write_page(as_page(table_rows([read_row(row)]), [wide]), root / "tables.html")
    return (root / "tables.html").as_uri()


def show(driver: Any, page_url: str, width_px: int) -> None:
    size = {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": width_px < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get("about:blank")
    for log in ("browser", "performance"):
        driver.get_log(log)
    driver.get(page_url)


@pytest.mark.parametrize("width_px", [1280, 390])
def test_only_a_wide_tables_own_box_scrolls(driver: Any, page_url: str, width_px: int) -> None:
    show(driver, page_url, width_px)
    assert_quiet_and_fits(driver, page_url, width_px)
    boxes = driver.execute_script(
        "return [...document.querySelectorAll('.wide-table')].map("
        "e => [e.querySelector('caption').textContent, e.scrollWidth - e.clientWidth])"
    )
    assert {name for name, beyond_px in boxes if beyond_px > 0} == ({WIDE} if width_px > 1000 else set())
    assert len(boxes) > 5


@pytest.mark.parametrize("width_px", [1280, 390])
def test_no_figure_is_broken(driver: Any, page_url: str, width_px: int) -> None:
    """A figure's text stands on one line; so does the name of its column where that is told beside it."""
    show(driver, page_url, width_px)
    lines = driver.execute_script(
        """
        const count = (cell) => {
            const range = document.createRange();
            range.selectNodeContents(cell);
            return new Set([...range.getClientRects()].map(box => Math.round(box.top))).size;
        };
        return [...document.querySelectorAll('td:not(.prose):not(:empty)')].map(c => [c.textContent, count(c)]);
        """
    )
    assert len(lines) > 60 and [text for text, count in lines if count != 1] == []


def test_sentences_begin_at_the_left_and_empty_cells_take_no_room(driver: Any, page_url: str) -> None:
    show(driver, page_url, 390)
    aligned = (
        "return [...new Set([...document.querySelectorAll(arguments[0])].map(e => getComputedStyle(e)[arguments[1]]))]"
    )
    assert driver.execute_script(aligned, "td.prose", "textAlign") == ["start"]
    assert driver.execute_script(aligned, "td:empty", "display") == ["none"]
    heights = driver.execute_script(
        """
        const labels = [...document.querySelectorAll('td[data-column=protocol]:not(:empty)')];
        const style = label => getComputedStyle(label, '::before');
        return labels.map(label => parseFloat(style(label).height) / parseFloat(style(label).fontSize));
        """
    )
    assert heights and max(heights) < 2  # one line is 1.5 times as high as its letters
