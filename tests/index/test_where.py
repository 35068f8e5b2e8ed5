"""Filters: the rows that a plain loop over them would keep, and slips that are named."""

import json
import operator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.index.classes import Classes, read_classes
from unibrivl.index.conditions import COLUMNS, OPS
from unibrivl.index.errors import QueryError
from unibrivl.index.where import MAX_CONDITIONS, MAX_DEPTH, MAX_VALUES, parse_where

NAMES = ["Dog", "Cat", "Bark, loud", "Music"]
FIELDS = {
    "labels": st.lists(st.sampled_from(NAMES), max_size=3), "caption": st.sampled_from(["A Dog", "cats", "", None]),
    "split": st.sampled_from(["train", "test"]), "language": st.sampled_from(["fr", "en", ""]),
    "duration_s": st.sampled_from([0.5, 1.0, 2.5]), "start_ms": st.integers(0, 3), "end_ms": st.integers(4, 6),
    "source": st.integers(0, 1), "media_id": st.sampled_from(["m1", "m2"]), "group": st.sampled_from(["g1", "g2"]),
    "key": st.sampled_from(["k1", "k2"]), "item_id": st.sampled_from(["k1/audio", "k2/audio"]),
}  # fmt: skip
SCHEMA = pa.schema(
    [
        (name, pa.list_(pa.string()) if kind == "labels" else pa.float64() if name == "duration_s"
         else pa.int64() if kind == "number" else pa.string())
        for name, kind in COLUMNS.items()
    ]
)  # fmt: skip
COMPARE = {
    "=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def table(rows: list[dict[str, Any]]) -> pa.Table:
    defaults = {"labels": [], "duration_s": 1.0, "start_ms": 0, "end_ms": 1000, "source": 0}
    return pa.Table.from_pylist([{name: "" for name in COLUMNS} | defaults | row for row in rows], schema=SCHEMA)


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, Any]:
    column = draw(st.sampled_from(sorted(COLUMNS)))
    op = draw(st.sampled_from(OPS[COLUMNS[column]]))
    one = FIELDS[column].filter(lambda value: value is not None)
    value = st.sampled_from(NAMES) if column == "labels" else one
    many = draw(st.booleans()) and op in ("=", "!=")
    return {"column": column, "op": op, "value": draw(st.lists(value, min_size=1, max_size=3) if many else value)}


FILTERS = st.recursive(
    conditions(),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"and": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"or": parts}),
        inner.map(lambda part: {"not": part}),
    ),
    max_leaves=6,
)


def keeps(told: dict[str, Any], row: dict[str, Any]) -> bool:
    """Decide one row by the meaning of a filter."""
    if "and" in told:
        return all(keeps(part, row) for part in told["and"])
    if "or" in told:
        return any(keeps(part, row) for part in told["or"])
    if "not" in told:
        return not keeps(told["not"], row)
    has, op = row[told["column"]], told["op"]
    values = told["value"] if isinstance(told["value"], list) else [told["value"]]
    if op == "!=":
        return not keeps(told | {"op": "="}, row)
    if told["column"] == "labels":
        return any(value in has for value in values)
    if has is None:
        return False
    if op == "~":
        return values[0].lower() in has.lower()
    return any(COMPARE[op](has, value) for value in values)


@settings(deadline=None)  # the first call loads libraries
@given(st.lists(st.fixed_dictionaries(FIELDS), max_size=12), FILTERS)
def test_a_filter_keeps_what_a_loop_over_the_rows_keeps(rows: list[dict[str, Any]], told: dict[str, Any]) -> None:
    where = parse_where(told)
    assert where is not None
    assert where.mask(table(rows)).tolist() == [keeps(told, row) for row in rows]


@settings(deadline=None)
@given(FILTERS)
def test_a_filter_is_told_so_that_it_can_be_read_again(told: dict[str, Any]) -> None:
    where = parse_where(told)
    assert where is not None
    assert parse_where(json.loads(json.dumps(where.as_json()))) == where


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("labels=Dog", [0, 2]), ("labels!=Dog", [1, 3]), ("labels=Dog,Cat", [0, 1, 2]), ("labels=Bark, loud", [3]),
        ('labels="Bark, loud",Cat', [1, 3]), ("split = test", [1]), ("split=test,train", [0, 1, 2, 3]),
        ("duration_s>=5", [2, 3]), ("duration_s<1.5", [0]), ("caption~CAT", [1]), ("caption~a, b", [3]),
        ("key==k2", [2]), ("start_ms!=0", []), (["labels=Dog", "duration_s>=5"], [2]), ([], [0, 1, 2, 3]),
        (None, [0, 1, 2, 3]), ('{"not": "labels=Dog"}', [1, 3]), ({"or": ["split=test", "key=k3"]}, [1, 3]),
    ],
    ids=str,
)  # fmt: skip
def test_words_say_what_they_seem_to_say(words: Any, kept: list[int]) -> None:
    rows = table(
        [
            {"key": "k0", "labels": ["Dog"], "duration_s": 1.0, "split": "train"},
            {"key": "k1", "labels": ["Cat"], "duration_s": 2.0, "split": "test", "caption": "a cat"},
            {"key": "k2", "labels": ["Dog", "Music"], "duration_s": 5.0, "split": "train"},
            {"key": "k3", "labels": ["Bark, loud"], "duration_s": 9.0, "split": "train", "caption": "a, b"},
        ]
    )
    where = parse_where(words)
    if where is None:
        assert kept == [0, 1, 2, 3]
        return
    where.check([rows])
    assert where.mask(rows).nonzero()[0].tolist() == kept


@pytest.fixture
def classes(tmp_path: Path) -> Classes:
    classes = [
        {"id": "/m/animal", "name": "Animal", "child_ids": ["/m/dog", "/m/cat"]},
        {"id": "/m/dog", "name": "Dog", "child_ids": ["/m/bark"]},
        {"id": "/m/bark", "name": "Bark", "child_ids": []}, {"id": "/m/cat", "name": "Cat", "child_ids": []},
    ]  # fmt: skip
    (tmp_path / "ontology.json").write_text(json.dumps(classes))
    return read_classes([tmp_path / "ontology.json"])


def test_a_label_stands_for_all_below_it(classes: Classes) -> None:
    rows = table([{"labels": ["/m/bark"]}, {"labels": ["Cat"]}, {"labels": ["Music"]}])
    for words, kept in {
        "labels=animal": [True, True, False], "labels=/m/dog": [True, False, False], "labels!=Dog": [False, True, True],
        "labels=Music": [False, False, True], "labels=Bark,Music": [True, False, True],
    }.items():  # fmt: skip
        where = parse_where(words)
        assert where is not None
        where.check([rows], classes)
        assert where.mask(rows, classes).tolist() == kept, words
    with pytest.raises(QueryError, match=r"there is no class 'Dgo'; did you mean 'Dog'"):
        check("labels=Dgo", [rows], classes)


def test_each_shard_set_adds_its_classes(tmp_path: Path) -> None:
    """Once the first ontology was taken for all."""
    trees = {
        "first": [{"id": "/m/dog", "name": "Dog", "child_ids": []}],
        "second": [
            {"id": "/m/horn", "name": "Horn", "child_ids": ["/m/tuba"]},
            {"id": "/m/tuba", "name": "Tuba", "child_ids": []},
            {"id": "/m/dog", "name": "Dog", "child_ids": ["/m/bark"]},
            {"id": "/m/bark", "name": "Bark", "child_ids": []},
        ],
    }
    for name, tree in trees.items():
        (tmp_path / name).write_text(json.dumps(tree))
    read = read_classes([tmp_path / "first", tmp_path / "missing", tmp_path / "second", tmp_path / "second"])
    assert len(read.ontologies) == 2
    rows = table([{"labels": ["Tuba"]}, {"labels": ["/m/bark"]}, {"labels": ["Dog"]}])
    for words, kept in {"labels=Horn": [0], "labels=dog": [1, 2], "labels!=Dog": [0]}.items():
        where = parse_where(words)
        assert where is not None
        where.check([rows], read)
        assert where.mask(rows, read).nonzero()[0].tolist() == kept, words
    with pytest.raises(QueryError, match=r"there is no class 'Hron'; did you mean 'Horn'"):
        check("labels=Hron", [rows], read)


def check(words: Any, tables: list[pa.Table], classes: Classes | None = None) -> None:
    where = parse_where(words)
    assert where is not None
    where.check(tables, classes)


def test_a_value_may_be_in_any_segment() -> None:
    tables = [table([{"labels": ["Dog"], "split": "train"}]), table([{"labels": ["Cat"], "split": "test"}])]
    check(["labels=Dog", "labels!=Cat", "split=test"], tables)
    with pytest.raises(QueryError, match=r"filter labels=Dgo: no item has it; did you mean 'Dog'\?"):
        check("labels=Dgo", tables)
    with pytest.raises(QueryError, match=r"filter split=tset: no item has it; did you mean 'test'\?"):
        check("split=tset", tables)
    with pytest.raises(QueryError, match="filter language=xx: no item has it; there are "):
        check("language=xx", tables)


def deep(depth: int) -> dict[str, Any]:
    told: dict[str, Any] = {"column": "key", "op": "=", "value": "a"}
    for _ in range(depth - 1):
        told = {"not": told}
    return told


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("lables=Dog", "there is no column 'lables'; did you mean labels?"), ("x=1", "there are labels, caption"),
        ("labels", "want COLUMN=VALUE, such as labels=Dog"), ("=Dog", "there is no column ''"),
        ("labels<Dog", "labels can be compared by = !="), ("duration_s~5", "duration_s can be compared by = != <"),
        ("duration_s>=long", '"long" is no number'), ("duration_s>=nan", "is no number"), ("duration_s>", "no value"),
        ("duration_s>1,2", "takes one value, not 2"), ("labels=", "there is no value"), ("{nonsense", "is none"),
        ({"column": "labels"}, "want words, "), ({"and": []}, "want a list of filters"), ({"and": 3}, "not 3"),
        ({"xor": []}, "want words"), (7, "filter 7: want words"), ([[1]], "want words"), ({"not": None}, "null: want"),
        ({"column": 3, "op": "=", "value": 3}, "must be texts"),
        ({"column": "key", "op": "=", "value": 3}, "want a text as value, not 3"),
        ({"column": "duration_s", "op": "=", "value": True}, "true is no number"),
        ({"column": "duration_s", "op": "=", "value": 10**400}, "is no number"),
        ({"column": "key", "op": "=", "value": ["a"] * (MAX_VALUES + 1)}, f"{MAX_VALUES + 1} values"),
        ({"column": "key", "op": "=", "value": "a" * 10_001}, "want a text"),
        ("labels=\udcff", "want a text"), ({"column": "caption", "op": "~", "value": "\ud800"}, "want a text"),
        (["key=a"] * (MAX_CONDITIONS + 1), f"more than {MAX_CONDITIONS} conditions"),
        (deep(MAX_DEPTH + 1), f"nested {MAX_DEPTH + 1} deep"), (deep(500), f"nested {MAX_DEPTH + 1} deep"),
        ("{" + '"not":{' * 5000, "begins as JSON"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_is_no_filter_is_named(told: Any, words: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse_where(told)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_filters_at_the_limits_are_taken() -> None:
    assert parse_where(deep(MAX_DEPTH)) is not None
    assert parse_where(["key=a"] * MAX_CONDITIONS) is not None


def test_duration_follows_from_the_span_in_indexes_without_it() -> None:
    rows = table([{"start_ms": 0, "end_ms": 1000}, {"start_ms": 500, "end_ms": 3500}]).drop_columns(["duration_s"])
    where = parse_where("duration_s>=3")
    assert where is not None and where.mask(rows).tolist() == [False, True]
