"""Counts in Prometheus' own words."""

import re

from hypothesis import given
from hypothesis import strategies as st

from unibrivl.index.counters import SECONDS, Counters, Histogram

SAMPLE = re.compile(r'[a-z_]+(\{[a-z]+="(?:[^"\\\n]|\\.)*"(,[a-z]+="(?:[^"\\\n]|\\.)*")*\})? [-+0-9.e]+')


@given(st.lists(st.floats(0, 100), max_size=50))
def test_a_bucket_holds_all_that_is_not_larger(values: list[float]) -> None:
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.add(value)
    lines = histogram.lines("x", ())
    for bound, line in zip(SECONDS, lines, strict=False):
        assert line == f'x_bucket{{le="{bound:g}"}} {sum(value <= bound for value in values)}'
    assert lines[-1] == f"x_count {len(values)}" and lines[-3] == f'x_bucket{{le="+Inf"}} {len(values)}'


def test_every_line_is_a_sample_or_tells_of_one() -> None:
    counters = Counters()
    counters.note('/v1/items/{item_id:path}"\\\n', 200, 0.02)
    counters.note("other", 404, 3.0)
    counters.batches.add(5)
    counters.gauges["unibrivl_x"] = ("Told.", lambda: 3)
    lines = counters.text().splitlines()
    assert 'unibrivl_requests_total{route="other",status="404"} 1' in lines and "unibrivl_x 3" in lines
    for line in lines:
        assert line.startswith(("# HELP ", "# TYPE ")) or SAMPLE.fullmatch(line), line
    assert len({line for line in lines if line.startswith("# TYPE")}) == 4
