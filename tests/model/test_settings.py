"""Settings by name: values of the declared kind, and a hint for what is misspelt."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.model.settings import check_kind, flat, option_kinds, read_settings, unknown_option
from unibrivl.model.train_config import option_names

NAMES = st.from_regex(r"[a-z_]{1,8}(\.[a-z_]{1,8})?", fullmatch=True)


@given(st.dictionaries(NAMES, st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_and_truth_come_back(settings: dict[str, Any]) -> None:
    import json

    assert read_settings([f"{name}={json.dumps(value)}" for name, value in settings.items()]) == settings


def test_what_is_no_json_is_text_and_the_last_word_counts() -> None:
    found = read_settings(["image_tower=brivl-b7:/some/where", "lr=1e-3", "lr=3e-4", "name=a=b", "on=true"])
    assert found == {"image_tower": "brivl-b7:/some/where", "lr": 3e-4, "name": "a=b", "on": True}


@pytest.mark.parametrize("word", ["lr", "=3", "lr=", ""])
def test_a_word_without_name_or_value_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=f"--set {word}: want NAME=VALUE"):
        read_settings([word])


def test_nested_settings_become_dotted() -> None:
    assert flat({"lr": [1], "loss": {"queue_size": [2], "deep": {"er": 3}}}) == {
        "lr": [1], "loss.queue_size": [2], "loss.deep.er": 3,
    }  # fmt: skip


@dataclass
class Options:
    whole: int = 1
    number: float = 1.0
    maybe: str | None = None
    switch: bool = False
    table: dict[str, Any] = field(default_factory=dict)


KINDS = option_kinds(Options)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("whole", 3, 3), ("number", 3, 3.0), ("number", 0.5, 0.5), ("maybe", None, None), ("maybe", "a", "a"),
     ("switch", True, True), ("table", {"a": 1}, {"a": 1})],
)  # fmt: skip
def test_values_of_the_declared_kind_pass(name: str, value: Any, expected: Any) -> None:
    found = check_kind(name, value, KINDS[name])
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "want"),
    [("whole", 3.5, "a whole number"), ("whole", True, "a whole number"), ("number", "fast", "a number"),
     ("number", True, "a number"), ("switch", 1, "true or false"), ("table", [1], "an object"), ("maybe", 3, "text")],
)  # fmt: skip
def test_values_of_another_kind_are_refused(name: str, value: Any, want: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value!r}, want {want}".replace("[", r"\[")):
        check_kind(name, value, KINDS[name])


@pytest.mark.parametrize(
    ("given_name", "hint"),
    [("loss.que_size", r"did you mean loss\.queue_size\?"), ("queue_size", r"did you mean loss\.queue_size\?"),
     ("zzz", r"there are loss\.queue_size, lr")],
)  # fmt: skip
def test_a_misspelt_name_gets_a_hint(given_name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"no option '{given_name}'; {hint}"):
        raise unknown_option(given_name, ["lr", "loss.queue_size"])


@pytest.mark.parametrize(
    ("given_name", "meant"),
    [("clipp_s", "language.clip_s"), ("num_mel", "language.num_mels"), ("batchsize", "batch_size"),
     ("loss.queuesize", "loss.queue_size"), ("temperature", "loss.temperature"), ("epoch", "epochs")],
)  # fmt: skip
def test_the_nearest_of_all_options_comes_first(given_name: str, meant: str) -> None:
    message = str(unknown_option(given_name, option_names("wav2clip")))
    assert message.startswith(f"there is no option {given_name!r}; did you mean {meant}")


def test_a_value_nested_without_end_is_text() -> None:
    assert isinstance(read_settings(["lr=" + "[" * 100_000])["lr"], str)
