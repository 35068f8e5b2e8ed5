"""The pictures of a run: drawn from what was measured, on one page that asks for nothing else."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from unibrivl.model.curves import MAX_POINTS, _thinned, write_curves
from unibrivl.model.journal import METRICS_FILE, read_metrics


def test_the_plot_is_a_picture(run: Path) -> None:
    with Image.open(run / "plot.png") as image:
        assert image.format == "PNG" and image.width >= 600
        assert len(image.convert("RGB").getcolors(1 << 20)) > 5


def test_the_page_holds_everything(run: Path) -> None:
    page = (run / "curves.html").read_text(encoding="utf-8")
    parser = HTMLParser()
    parser.feed(page)
    for title in ("Training loss, by term", "R@10 among", "MRR among", "Temperature", "Learning rate", "Throughput",
                  "Waiting for data", "sound to picture, chance", "picture to sound, chance"):  # fmt: skip
        assert title in page, title
    last = next(e for e in reversed(read_metrics(run)) if "validation" in e)["validation"]["audio_to_image"]
    assert f"<td>{last['mrr']:.3f}</td>" in page and f"<td>{last['chance_mrr']:.3f}</td>" in page
    assert "&quot;batch_size&quot;: 4" in page
    assert not re.findall(r"(?:src|href)=[\"'](?!#)", page)  # references within the drawing only


def test_the_same_run_gives_the_same_page(run: Path, tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_bytes((run / METRICS_FILE).read_bytes())
    write_curves(tmp_path, {"name": "</pre><script>"})
    first = (tmp_path / "curves.html").read_bytes()
    write_curves(tmp_path, {"name": "</pre><script>"})
    assert (tmp_path / "curves.html").read_bytes() == first
    assert b"<script>" not in first


def test_a_run_without_a_validation_is_drawn(run: Path, tmp_path: Path) -> None:
    entries = [entry for entry in read_metrics(run) if "loss" in entry]
    (tmp_path / METRICS_FILE).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    write_curves(tmp_path, {})
    assert "<svg" in (tmp_path / "curves.html").read_text(encoding="utf-8")


def test_long_runs_are_averaged() -> None:
    found = _thinned([float(n) for n in range(2 * MAX_POINTS + 1)])
    assert len(found) <= MAX_POINTS and found == sorted(found) and found[0] == 1.0
    assert _thinned([3.0, 4.0]) == [3.0, 4.0] and _thinned([]) == []
