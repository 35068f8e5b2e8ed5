"""Shares, bars and histograms as the page draws them."""

import pytest

from unibrivl.ingest.charts import CHARTS, MAX_BARS, MINUS, Bar, bars, draw_chart, share
from unibrivl.shards.histogram import Histogram


def histogram(counts, edges=None, least=0.0, most=10.0):
    edges = tuple(float(n) for n in range(len(counts) + 1)) if edges is None else edges
    return Histogram(unit="s", edges=edges, counts=counts, least=least, p05=1.0, median=5.0, p95=9.0, most=most)


@pytest.mark.parametrize(
    ("count", "of", "text"),
    [
        (0, 10, "0 %"),
        (0, 0, "0 %"),
        (10, 10, "100 %"),
        (1, 3, "33.3 %"),
        (1, 2_000_000, "< 0.1 %"),
        (1_999_999, 2_000_000, "> 99.9 %"),
    ],
)
def test_a_share_is_never_nothing_for_some_nor_all_for_most(count, of, text):
    assert share(count, of) == text


def test_the_parts_of_a_bar_lie_side_by_side():
    first = Bar.of("came", 3, of=4)
    second = Bar.of("failed", 1, of=4, begin=3)
    assert (first.begin, first.length, first.note) == ("0.000%", "75.000%", "75.0 %")
    assert (second.begin, second.length) == ("75.000%", "25.000%")


def test_rare_values_are_summed_up():
    drawn = bars({f"codec{n}": 100 - n for n in range(MAX_BARS + 3)})
    assert len(drawn) == MAX_BARS + 1
    assert (drawn[-1].name, drawn[-1].count) == ("3 others", sum(100 - n for n in range(MAX_BARS, MAX_BARS + 3)))
    assert [bar.name for bar in bars({"h264": 5})] == ["h264"]


def test_a_column_is_as_high_as_its_count_and_a_rare_one_stays_visible():
    chart = draw_chart(histogram((1_000_000, 500_000, 0, 1)), title="Length", form="{:g} s")
    assert [column.height for column in chart.columns] == ["100.00%", "50.00%", "0.00%", "2.00%"]
    assert [column.y for column in chart.columns] == ["0.00%", "50.00%", "100.00%", "98.00%"]
    assert chart.columns[3].span == "3 s to 4 s"
    assert (chart.first, chart.last, chart.most) == ("0 s", "4 s", 1_000_000)


def test_shares_are_shown_in_percent_and_negative_numbers_with_a_minus():
    assert draw_chart(histogram((1,), (0.0, 0.05)), **CHARTS["silent_ratio"]).last == "5 %"
    assert draw_chart(histogram((1,), (-80.0, 0.0)), **CHARTS["rms_dbfs"]).first == f"{MINUS}80 dBFS"


def test_where_all_clips_measure_the_same_there_is_nothing_to_draw():
    chart = draw_chart(histogram((7,), least=10.0, most=10.0), title="Length", form="{:g} s")
    assert chart.columns == () and chart.summary == "10 s everywhere."
