"""Checks the tree of classes: names and MIDs, descendants, and what a damaged ontology says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.shards import ShardError
from unibrivl.shards.labels import Ontology


def entry(mid: str, name: str, *children: str, restrictions: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"id": mid, "name": name, "child_ids": list(children), "restrictions": list(restrictions)}


ENTRIES = [
    entry("/m/animal", "Animal", "/m/dog", "/m/cat", restrictions=("abstract",)),
    entry("/m/dog", "Dog", "/m/bark", "/m/growl"),
    entry("/m/cat", "Cat", "/m/growl", "/m/purr"),
    entry("/m/bark", "Bark"),
    entry("/m/growl", "Growling", restrictions=("blacklist",)),
    entry("/m/purr", "Purr"),
    entry("/t/1", "Chirp"),
    entry("/t/2", "chirp"),
]


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


@pytest.fixture
def ontology(tmp_path: Path) -> Ontology:
    """Return a small ontology in which a class has two parents and two classes one name."""
    return Ontology.read(write(tmp_path / "ontology.json", ENTRIES))


def test_descendants_include_the_class_itself(ontology: Ontology) -> None:
    assert ontology.descendants("/m/dog") == {"/m/dog", "/m/bark", "/m/growl"}
    assert ontology.descendants("/m/bark") == {"/m/bark"}
    assert ontology.descendants("/m/animal") == {"/m/animal", "/m/dog", "/m/cat", "/m/bark", "/m/growl", "/m/purr"}


@pytest.mark.parametrize("label", ["/m/dog", "Dog", "dog", "DOG", " dog "])
def test_a_class_is_found_by_mid_or_by_name_in_any_case(ontology: Ontology, label: str) -> None:
    assert ontology.resolve(label) == "/m/dog"
    assert ontology.name("/m/dog") == "Dog"
    assert "/m/dog" in ontology and "Dog" not in ontology and len(ontology) == 8


def test_a_name_of_two_classes_is_refused_with_their_mids(ontology: Ontology) -> None:
    with pytest.raises(ShardError, match=r"ontology\.json: 'Chirp' names 2 classes; say /t/1 or /t/2"):
        ontology.resolve("Chirp")
    assert ontology.resolve("/t/2") == "/t/2"


def test_an_unknown_name_suggests_close_ones(ontology: Ontology) -> None:
    with pytest.raises(ShardError, match=r"there is no class 'growlin'; did you mean 'Growling'\?"):
        ontology.resolve("growlin")
    with pytest.raises(ShardError, match="there is no class 'xyz'; give a name or MID"):
        ontology.resolve("xyz")
    for ask in (ontology.name, ontology.descendants):
        with pytest.raises(ShardError, match="there is no class 'Dog'; resolve names to MIDs first"):
            ask("Dog")


def test_restrictions(ontology: Ontology) -> None:
    assert ontology.restricted() == {"/m/animal", "/m/growl"}


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ([*ENTRIES, ENTRIES[1]], "class /m/dog stands twice"),
        ([entry("/m/a", "A", "/m/b")], "class /m/a has a child '/m/b' that is not in the file"),
        ([entry("/m/a", "A", "/m/a")], "1 classes lie on or below a cycle, such as /m/a"),
        (
            [entry("/m/r", "R", "/m/a"), entry("/m/a", "A", "/m/b"), entry("/m/b", "B", "/m/a")],
            "2 classes lie on or below a cycle, such as /m/a",
        ),
        ([], "no list of classes"),
        ({"id": "/m/a"}, "no list of classes"),
        ([1], "entry 1 has no id and name"),
        ([ENTRIES[3], {"id": "/m/a"}], "entry 2 has no id and name"),
        ([{"id": "/m/a", "name": "A", "child_ids": "x"}], "child_ids of class /m/a is no list of strings"),
        ([{"id": "/m/a", "name": "A", "child_ids": [1]}], "child_ids of class /m/a is no list of strings"),
        ([entry("/m/a", "A", restrictions=("secret",))], "class /m/a has an unknown restriction 'secret'"),
    ],
)
def test_a_damaged_ontology_is_refused_in_one_line(tmp_path: Path, value: Any, match: str) -> None:
    with pytest.raises(ShardError, match=match) as caught:
        Ontology.read(write(tmp_path / "ontology.json", value))
    assert "ontology.json: " in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_no_ontology_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ontology.json"
    with pytest.raises(ShardError, match="there is no such ontology"):
        Ontology.read(path)
    with pytest.raises(ShardError, match=": a folder, want a file"):
        Ontology.read(tmp_path)
    for data in (b"", b"[", b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(data)
        with pytest.raises(ShardError, match="not a JSON file"):
            Ontology.read(path)


@settings(deadline=None)
@given(
    edges=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20, unique=True), is_sorted=st.booleans()
)
def test_cycles_are_refused_and_only_cycles(
    tmp_path_factory: pytest.TempPathFactory, edges: list[tuple[int, int]], is_sorted: bool
) -> None:
    edges = list(dict.fromkeys((min(e), max(e)) for e in edges if e[0] != e[1])) if is_sorted else edges
    reached = {n: {b for a, b in edges if a == n} for n in range(10)}
    for _ in range(10):
        reached = {n: below.union(*(reached[b] for b in below)) for n, below in reached.items()}
    has_cycle = any(n in below for n, below in reached.items())
    entries = [entry(f"/m/{n}", f"n{n}", *(f"/m/{b}" for a, b in edges if a == n)) for n in range(10)]
    path = write(tmp_path_factory.mktemp("labels") / "ontology.json", entries)
    if has_cycle:
        with pytest.raises(ShardError, match="cycle"):
            Ontology.read(path)
        return
    ontology = Ontology.read(path)
    for n in range(10):
        assert ontology.descendants(f"/m/{n}") == {f"/m/{b}" for b in reached[n] | {n}}


def test_the_real_ontology(folder: Callable[[str], Path]) -> None:
    ontology = Ontology.read(folder("data") / "audioset" / "ontology.json")
    assert len(ontology) == 632
    dog = ontology.resolve("dog")
    assert dog == "/m/0bt9lr"
    assert {ontology.name(mid) for mid in ontology.descendants(dog)} >= {"Dog", "Bark", "Howl", "Whimper (dog)"}
    assert ontology.resolve("Bark") in ontology.descendants(ontology.resolve("Animal"))
    assert len(ontology.restricted()) == 89
    with pytest.raises(ShardError, match="did you mean 'Dog'"):
        ontology.resolve("dogs")
