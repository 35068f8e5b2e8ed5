"""Tables of data sets are read whole or refused in one line."""

from pathlib import Path

import pytest

from unibrivl.bench.csv_rows import csv_rows
from unibrivl.bench.errors import BenchError


def test_rows_have_their_lines_and_every_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('\ufeffname,label,more\n"a, b",dog,x\nshort\n', encoding="utf-8")
    rows = csv_rows(path, ("name", "label"))
    assert [number for number, _ in rows] == [2, 3]
    assert rows[0][1] == {"name": "a, b", "label": "dog", "more": "x"} and rows[1][1]["label"] == ""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "want rows with the columns name, label"),
        (b"name,label\n", "want rows with the columns name, label"),
        (b"name\na\n", "has no column label; want the columns name, label"),
        ("name,label\ncaf\u00e9,a\n".encode("iso-8859-1"), "not readable as CSV in UTF-8"),
        (b"name,label\n\x00" + b'"' + b"a" * 200_000, "not readable as CSV in UTF-8"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    with pytest.raises(BenchError, match=message) as refused:
        csv_rows(path, ("name", "label"))
    assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="No such file"):
        csv_rows(tmp_path / "a.csv", ("name",))
