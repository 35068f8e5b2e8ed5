"""Checks which clips of a list are chosen: by label, balanced, or a random part."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.ingest.clips import Clip, clips_of, table_of
from unibrivl.ingest.errors import PlanError
from unibrivl.ingest.lists import read_list
from unibrivl.ingest.plan import make_plan
from unibrivl.ingest.select import SelectConfig, select
from unibrivl.shards import ShardError
from unibrivl.shards.labels import Ontology


def clip(media_id: str, *labels: str, start_ms: int = 0) -> Clip:
    return Clip(corpus="as", media_id=media_id, start_ms=start_ms, end_ms=start_ms + 1, labels=labels)


CLIPS = [
    clip("dog", "/m/dog", "/m/animal"),
    clip("bark", "/m/bark"),
    clip("name", "Bark", "Speech"),
    clip("cat", "/m/cat", "Speech"),
    clip("speech", "Speech"),
    clip("vgg", "dog barking"),
    clip("animal", "/m/animal"),
    clip("none"),
]


@pytest.fixture
def ontology(tmp_path: Path) -> Ontology:
    """Return an ontology of five classes, one of them abstract and one blacklisted."""
    path = tmp_path / "ontology.json"
    path.write_text(
        """[{"id": "/m/animal", "name": "Animal", "child_ids": ["/m/dog", "/m/cat"], "restrictions": ["abstract"]},
        {"id": "/m/dog", "name": "Dog", "child_ids": ["/m/bark"]},
        {"id": "/m/cat", "name": "Cat"}, {"id": "/m/bark", "name": "Bark"},
        {"id": "/m/speech", "name": "Speech", "restrictions": ["blacklist"]}]"""
    )
    return Ontology.read(path)


def chosen(clips: list[Clip], config: SelectConfig, ontology: Ontology | None = None) -> list[str]:
    return [c.media_id for c in clips_of(select(table_of(clips), config, ontology))]


def test_by_default_all_are_chosen(ontology: Ontology) -> None:
    assert select(table_of(CLIPS), SelectConfig(), ontology) == table_of(CLIPS)


@pytest.mark.parametrize(
    ("config", "with_ontology", "without"),
    [
        ({"labels": ("dog",)}, ["dog", "bark", "name"], None),
        ({"labels": ("/m/dog",)}, ["dog", "bark", "name"], ["dog"]),
        ({"labels": ("Bark",)}, ["bark", "name"], ["name"]),
        ({"labels": ("Bark", "Cat")}, ["bark", "name", "cat"], None),
        ({"labels": ("Bark", "/m/cat")}, ["bark", "name", "cat"], ["name", "cat"]),
        ({"labels": ("dog barking",)}, ["vgg"], ["vgg"]),  # VGGSound's classes are in no ontology
        ({"exclude_labels": ("Dog",)}, ["cat", "speech", "vgg", "animal", "none"], None),
        ({"labels": ("Animal",), "exclude_labels": ("Dog",)}, ["cat", "animal"], None),
        ({"labels": ("Speech",), "exclude_labels": ("Bark",)}, ["cat", "speech"], ["cat", "speech"]),
        ({"drop_restricted": True}, ["dog", "bark", "name", "cat", "vgg", "none"], None),
    ],
)
def test_labels_stand_for_all_below_them_in_an_ontology(
    ontology: Ontology, config: dict[str, Any], with_ontology: list[str], without: list[str] | None
) -> None:
    assert chosen(CLIPS, SelectConfig(**config), ontology) == with_ontology
    if without is not None:
        assert chosen(CLIPS, SelectConfig(**config)) == without


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"labels": ("Bark",), "exclude_labels": ("Bark",)}, "none of 8 clips is without the label 'Bark'"),
        ({"drop_restricted": True}, "only with an ontology"),
    ],
)
def test_nothing_left_is_an_error(config: dict[str, Any], match: str) -> None:
    with pytest.raises(PlanError, match=match):
        chosen(CLIPS, SelectConfig(**config))


def test_what_restrictions_leave_nothing_of_is_an_error(ontology: Ontology) -> None:
    with pytest.raises(PlanError, match="none of 1 clips has a label that is not restricted"):
        chosen([clip("a", "/m/animal", "Speech")], SelectConfig(drop_restricted=True), ontology)
    with pytest.raises(PlanError, match="none of 1 clips has a label to balance"):
        chosen([clip("a")], SelectConfig(balance=1))


def test_a_label_that_neither_list_nor_ontology_has_is_refused(ontology: Ontology) -> None:
    with pytest.raises(ShardError, match="there is no class 'dogg'; did you mean 'Dog'"):
        chosen(CLIPS, SelectConfig(labels=("dogg",)), ontology)
    with pytest.raises(ShardError, match="there is no class 'dogg'"):
        chosen(CLIPS, SelectConfig(exclude_labels=("dogg",)), ontology)


@pytest.mark.parametrize("choice", ["labels", "exclude_labels"])
@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        (("speach",), "did you mean 'Speech'?"),
        (("SPEECH",), "did you mean 'Speech'?"),
        (("Speech", "dog barkin"), "did you mean 'dog barking'?"),
        (("Bark", "zebra"), "labels are compared letter by letter"),
    ],
)
def test_a_label_that_no_clip_has_is_named_with_what_may_be_meant(
    choice: str, asked: tuple[str, ...], hint: str
) -> None:
    """One good name among them does not hide the misspelt one."""
    with pytest.raises(ShardError) as caught:
        chosen(CLIPS, SelectConfig(**{choice: asked}))
    assert str(caught.value) == f"the list: no clip has the label {asked[-1]!r}; {hint}"


def test_a_class_that_no_clip_carries_is_spelt_rightly_all_the_same(ontology: Ontology) -> None:
    cats = [clip("cat", "/m/cat")]
    assert chosen(cats, SelectConfig(exclude_labels=("Dog",)), ontology) == ["cat"]
    assert chosen(cats, SelectConfig(labels=("Dog", "Cat")), ontology) == ["cat"]
    with pytest.raises(PlanError, match="none of 1 clips has the label 'Dog'; ask for other labels"):
        chosen(cats, SelectConfig(labels=("Dog",)), ontology)
    with pytest.raises(PlanError, match="none of 1 clips has the label 'Dog' or 'Bark' or '/m/dog' and 1 more"):
        chosen(cats, SelectConfig(labels=("Dog", "Bark", "/m/dog", "/m/bark")), ontology)


@pytest.mark.parametrize("config", [{"take": 0}, {"balance": 0}, {"take": -1}, {"labels": ("",)}])
def test_what_cannot_be_meant_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="want"):
        SelectConfig(**config)


MANY = [
    clip(f"m{n}", *(label for label, share in (("a", 2), ("b", 5), ("c", 50)) if n % share == 0)) for n in range(200)
]


@pytest.mark.parametrize("seed", [0, 1])
def test_takes_are_nested_and_the_beginning_of_the_plan(seed: int) -> None:
    taken = {size: chosen(MANY, SelectConfig(take=size, seed=seed)) for size in (1, 7, 100, 200, 1000)}
    assert {size: len(ids) for size, ids in taken.items()} == {1: 1, 7: 7, 100: 100, 200: 200, 1000: 200}
    assert set(taken[1]) < set(taken[7]) < set(taken[100])
    plan = make_plan(table_of(MANY), seed=seed, shard_clips=1000)
    assert set(taken[100]) == {c.media_id for c in plan.clips(plan.shards[0])[:100]}
    assert taken[100] == [c.media_id for c in MANY if c.media_id in set(taken[100])]  # in the order of the list


def test_another_seed_takes_others() -> None:
    one, other = (set(chosen(MANY, SelectConfig(take=50, seed=seed))) for seed in (0, 1))
    assert 2 < len(one & other) < 30


def test_the_golden_take() -> None:
    """A published subset must stay what it is."""
    assert chosen([clip(f"m{n}") for n in range(6)], SelectConfig(take=3)) == ["m0", "m2", "m3"]


def test_a_take_is_of_what_the_labels_leave() -> None:
    taken = chosen(MANY, SelectConfig(labels=("b",), take=10))
    assert len(taken) == 10 and {int(name[1:]) % 5 for name in taken} == {0}


def test_a_balanced_choice_written_out() -> None:
    """c has 4 clips, all taken; b needs 6 and has those 4 already, as every clip of c is one of b; and so on."""
    picked = chosen(MANY, SelectConfig(balance=6))
    counts = Counter(label for c in MANY if c.media_id in set(picked) for label in c.labels)
    assert counts["c"] == 4
    assert counts["b"] == 6
    assert counts["a"] >= 6
    assert not {c.media_id for c in MANY if not c.labels} & set(picked)


LABELLED = st.lists(st.lists(st.sampled_from("abcd"), max_size=3), min_size=1, max_size=40)


@settings(deadline=None)
@given(labels=LABELLED, balance=st.integers(1, 5), seed=st.integers(0, 3))
def test_each_label_ends_with_what_it_asked_for_or_all_it_has(labels: list[list[str]], balance: int, seed: int) -> None:
    clips = [clip(f"m{n}", *names) for n, names in enumerate(labels)]
    has = Counter(name for names in labels for name in set(names))
    if not has:
        return
    order = [c.media_id for c in clips_of(make_plan(table_of(clips), seed=seed, shard_clips=99).table)]
    by_id = {c.media_id: c for c in clips}
    expected: set[str] = set()
    for label in sorted(has, key=lambda name: (has[name], name)):
        for media_id in order:
            carried = sum(label in by_id[i].labels for i in expected)
            if label in by_id[media_id].labels and carried < balance:
                expected.add(media_id)
    config = SelectConfig(balance=balance, seed=seed)
    assert set(chosen(clips, config)) == expected
    shuffled = random.Random(0).sample(clips, len(clips))
    assert set(chosen(shuffled, config)) == expected
    kept = Counter(name for i in expected for name in set(by_id[i].labels))
    assert all(kept[name] >= min(balance, has[name]) for name in has)


def test_restricted_labels_choose_nothing(ontology: Ontology) -> None:
    clips = [clip(f"s{n}", "Speech", "Dog") for n in range(3)] + [clip(f"t{n}", "Speech", "Cat") for n in range(3)]
    picked = chosen(clips, SelectConfig(balance=1, drop_restricted=True), ontology)
    assert sorted(name[0] for name in picked) == ["s", "t"]


def test_clips_of_one_medium_are_taken_by_their_start() -> None:
    clips = [clip("m", start_ms=n) for n in (5, 3, 4)]
    table = select(table_of(clips), SelectConfig(take=2))
    assert [c.start_ms for c in clips_of(table)] == [3, 4]


def test_dogs_of_the_real_evaluation_list(folder: Callable[[str], Path]) -> None:
    data = folder("data") / "audioset"
    table, ontology = read_list(data / "eval_segments.csv").table, Ontology.read(data / "ontology.json")
    below = ontology.descendants(ontology.resolve("Dog"))
    dogs = list(clips_of(select(table, SelectConfig(labels=("Dog",)), ontology)))
    assert len(dogs) == sum(bool(below & set(c.labels)) for c in clips_of(table)) > 100
    balanced = list(clips_of(select(table, SelectConfig(balance=20), ontology)))
    counts = Counter(label for c in balanced for label in c.labels)
    everywhere = Counter(label for c in clips_of(table) for label in c.labels)
    assert all(counts[label] >= min(20, everywhere[label]) for label in everywhere)
    assert len(balanced) < len(table) / 2
    assert replace(dogs[0], labels=()).corpus == "as"
