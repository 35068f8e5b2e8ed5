"""`rerank`: files in order with the scores of the server and of `generate`, what is dropped, and mistakes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from unibrivl.cli import app
from unibrivl.index.engine import open_engine
from unibrivl.index.errors import IndexStoreError, QueryError
from unibrivl.index.generate import generate
from unibrivl.index.pictures import png
from unibrivl.index.serve_config import ServeConfig
from unibrivl.model.embed import Encoder

from ..conftest import picture
from .generating import make_config
from .serving import serving

Ask = Callable[..., Result]
ROW = {"path", "prompt", "seed", "score", "z", "percentile", "kept", "dropped_reason"}
ROUNDED = 1e-5
"""Pictures pass the encoder in another order, and figures of up to 100 are rounded to six digits."""


@pytest.fixture
def ask(one_encoder: Encoder) -> Ask:
    """Return a function that runs the command; errors of ours come through."""

    def run(*words: Any) -> Result:
        return CliRunner().invoke(app, ["rerank", *map(str, words)])

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of five pictures of many kinds, and a text."""
    out = tmp_path / "pictures"
    out.mkdir()
    for number, suffix in enumerate(("png", "jpg", "webp", "PNG", "bmp")):
        Image.fromarray(picture(number)[:, :80]).save(out / f"{number}.{suffix}")
    (out / "read me.txt").write_text("no picture")
    return out


def test_scores_are_those_of_the_server_and_of_generate(
    index: Path, beep: Path, tiny: Path, tmp_path: Path, ask: Ask, one_encoder: Encoder
) -> None:
    made = generate(make_config(index, beep, tiny, tmp_path / "made")).rows()
    sorted_files = json.loads(ask(index, "--audio", beep, tmp_path / "made" / "candidates", "--json").stdout)
    assert [row["seed"] for row in sorted_files] == [row["seed"] for row in made]
    assert {row["prompt"] for row in sorted_files} == {"a red square"}
    with serving(ServeConfig(index=index, port=0), open_engine(index)) as client:
        files = {str(row["seed"]): Path(row["path"]).read_bytes() for row in made}
        query = json.dumps({"parts": [{"audio": "mine"}], "images": list(files)})
        told = client.form("/v1/rerank", {"query": query, "mine": beep.read_bytes(), **files}).json["ranked"]
    assert [one["name"] for one in told] == [str(row["seed"]) for row in made]
    for name, of_server in (("score", "score"), ("z", "calibrated"), ("percentile", "percentile")):
        here = [row[name] for row in sorted_files]
        assert here == pytest.approx([row[name] for row in made], abs=ROUNDED), name
        assert here == pytest.approx([one[of_server] for one in told], abs=ROUNDED), name


def test_files_come_best_first_with_all_that_is_told(index: Path, beep: Path, folder: Path, ask: Ask) -> None:
    result = ask(index, "--audio", beep, folder, "--keep", 2, "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert len(rows) == 5 and all(set(row) == ROW for row in rows)
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert [row["kept"] for row in rows] == [True] * 2 + [False] * 3
    assert all(row["prompt"] is row["seed"] is row["dropped_reason"] is None for row in rows)
    listed = folder / "list.txt"
    listed.write_text("0.png\n\n1.jpg\n0.png\n")
    named = json.loads(ask(index, "--audio", beep, "--images-from", listed, "--json").stdout)
    scores = {Path(row["path"]).name: row["score"] for row in rows}
    assert {Path(row["path"]).name: row["score"] for row in named} == pytest.approx(
        {name: scores[name] for name in ("0.png", "1.jpg")}, abs=1e-5
    )
    shown = ask(index, "--audio", beep, folder)
    assert "1 kept" in shown.stdout and "5 pictures, 0 dropped" in shown.stdout


def test_any_parts_ask_and_a_run_alone_scores_too(index: Path, run: Path, beep: Path, folder: Path, ask: Ask) -> None:
    own = folder / "3.PNG"
    rows = json.loads(ask(run, "--image", own, folder, "--json").stdout)
    assert rows[0]["path"] == str(own) and rows[0]["score"] == pytest.approx(1, abs=1e-5)
    assert all(row["z"] is row["percentile"] is None for row in rows)
    away = json.loads(ask(index, "--audio", beep, "--minus-image", own, "--weight", "minus-image=5", folder, "--json")
                      .stdout)  # fmt: skip
    assert away[-1]["path"] == str(own)
    with pytest.raises(QueryError, match="a run alone holds no items; name the index that does"):
        raise ask(run, "--item", "x", folder).exception or AssertionError


def test_what_cannot_be_scored_is_told_and_counted(index: Path, beep: Path, folder: Path, ask: Ask) -> None:
    (folder / "5.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (folder / "6.png").write_bytes(png(np.zeros((8, 8, 3), np.uint8), {"flagged": True, "prompt": "a", "seed": 7}))
    (folder / "7.png").write_bytes(png(picture(7), {"prompt": ["no text"], "seeds": ["x"]}))
    result = ask(index, "--audio", beep, folder, folder / "none.png", "--json")
    assert result.exit_code == 1
    assert result.stderr == "error: 2 of 9 pictures could not be read; their rows say why\n"
    rows = json.loads(result.stdout)
    dropped = {Path(row["path"]).name: row for row in rows[6:]}
    assert dropped["5.png"]["dropped_reason"].startswith("not a readable picture")
    assert dropped["none.png"]["dropped_reason"] == "there is no such file"
    assert dropped["6.png"]["dropped_reason"] == "flagged by the safety checker"
    assert (dropped["6.png"]["prompt"], dropped["6.png"]["seed"]) == ("a", 7)
    assert all(row["score"] is None and not row["kept"] for row in dropped.values())
    seventh = next(row for row in rows if row["path"].endswith("7.png"))
    assert seventh["score"] is not None and seventh["prompt"] is seventh["seed"] is None
    (folder / "5.png").unlink()
    assert ask(index, "--audio", beep, folder, "--json").exit_code == 0, "a flagged picture is no fault"


def test_the_page_shows_what_was_chosen(index: Path, beep: Path, folder: Path, tmp_path: Path, ask: Ask) -> None:
    page = tmp_path / "page.html"
    result = ask(index, "--audio", beep, folder, "--keep", 2, "--html", page)
    assert result.exit_code == 0 and f"page: {page}" in result.stdout.replace("\n", "")
    text = page.read_text()
    assert text.count("data:image/jpeg") == 2 and text.count("data:audio/flac") == 1 and ">Sound</h3>" in text
    assert "2 of 5 pictures" in text and "4.bmp" in text
    assert ask(index, "--image", folder / "0.png", folder, "--html", page).exit_code == 0
    assert ">Query</h3>" in page.read_text()


def test_mistakes_are_one_line(index: Path, beep: Path, folder: Path, tmp_path: Path, ask: Ask) -> None:
    silent, empty, listed = tmp_path / "silent.wav", tmp_path / "empty", tmp_path / "list.txt"
    soundfile.write(silent, np.zeros(16_000), 16_000)
    empty.mkdir()
    listed.write_bytes(b"\xff\xfe\x00")
    for words, kind, told in (
        ((index, "--audio", silent, folder), QueryError, "is silent, so no picture fits it better"),
        ((index, "--audio", tmp_path / "none.wav", folder), QueryError, "there is no such file"),
        ((index, "--audio", beep, empty), QueryError, "empty: holds no pictures; want files that end in .png"),
        ((index, "--audio", beep, folder / "read me.txt"), QueryError, "read me.txt: not a readable picture"),
        ((index, "--audio", beep, tmp_path / "x", tmp_path / "y"), QueryError, "none of 2 pictures can be scored"),
        ((index, "--audio", beep, "--images-from", listed), QueryError, "list.txt: not a text in UTF-8"),
        ((index, "--audio", beep, "--images-from", empty), QueryError, "empty: a folder, want a file"),
        ((index, "--audio", beep, "--images-from", folder / "none"), QueryError, "there is no such list of pictures"),
        ((index, "--text", "a dog", folder), QueryError, "text"),
        ((tmp_path / "none", "--audio", beep, folder), IndexStoreError, "there is no such folder"),
    ):  # fmt: skip
        error = ask(*words).exception
        assert isinstance(error, kind) and told in str(error) and "\n" not in str(error), (words, error)
    for words, told in (
        ((index, folder), "give something to search with"), ((index, "--audio", beep), "name picture files or folders"),
        ((index, "--audio", beep, folder, "--keep", 0), "--keep is 0, want at least 1"),
    ):  # fmt: skip
        result = ask(*words)
        assert result.exit_code == 2 and told in " ".join(result.stderr.replace("│", " ").split())
