"""Checks of numbers and of files that a user gives."""

import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.shards import ShardError
from unibrivl.shards.checks import check_file, check_numbers, check_ranges, check_whole, first_line, parse_json


@given(value=st.floats(), least=st.floats(-9, 0), most=st.floats(0, 9) | st.none())
def test_a_number_beyond_its_range_is_refused(value: float, least: float, most: float | None) -> None:
    config = SimpleNamespace(sound_s=value)
    if least <= value <= (math.inf if most is None else most):
        check_ranges(config, sound_s=(least, most))
        return
    wanted = f"at least {least}" if most is None else f"{least} to {most}"
    with pytest.raises(ValueError) as caught:
        check_ranges(config, sound_s=(least, most))
    assert str(caught.value) == f"sound_s is {value}, want {wanted}"


def test_what_was_left_open_is_not_checked() -> None:
    check_ranges(SimpleNamespace(take=None, clips=1), take=(1, None), clips=(1, 1))
    with pytest.raises(ValueError, match=r"^clips is 2, want 1 to 1$"):
        check_ranges(SimpleNamespace(take=None, clips=2), take=(1, None), clips=(1, 1))


@pytest.mark.parametrize("value", [None, "3", True, [3], 2.5, math.nan, 0, 10])
def test_what_is_no_whole_number_of_the_range_is_refused(value: object) -> None:
    with pytest.raises(ValueError) as caught:
        check_whole(SimpleNamespace(clips=value), clips=(1, 9))
    assert str(caught.value) == f"clips is {value!r}, want a whole number from 1 to 9"
    check_whole(SimpleNamespace(clips=9), clips=(1, 9))


@pytest.mark.parametrize("value", [None, "3", True, [3], math.nan, 0, 9.1])
def test_what_is_no_number_of_the_range_is_refused(value: object) -> None:
    with pytest.raises(ValueError) as caught:
        check_numbers(SimpleNamespace(clip_s=value), clip_s=(1, 9))
    assert str(caught.value) == f"clip_s is {value!r}, want 1 to 9"
    check_numbers(SimpleNamespace(clip_s=2.5), clip_s=(1, 9))


def test_json_nested_without_end_is_no_json() -> None:
    assert parse_json('{"a": [1]}') == {"a": [1]}
    for text in ("[" * 100_000, '{"a": ' * 100_000, "{", ""):
        with pytest.raises(ValueError):
            parse_json(text)
    with pytest.raises(ValueError, match=r"^b stands there twice$"):
        parse_json('{"a": [{"b": 1, "b": 1}]}')


def test_only_what_is_there_and_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "broken").symlink_to("nothing")
    for name in ("file", "link", "broken", "nothing"):
        check_file(tmp_path / name, ShardError)
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path, "folder"), (tmp_path / "pipe", "pipe"), (Path("/dev/null"), "device")):
        with pytest.raises(ShardError, match=f"^{path}: a {kind}, want a file$"):
            check_file(path, ShardError)


def test_an_error_is_told_by_its_first_line_or_its_kind() -> None:
    assert first_line(ValueError("\n  one \ntwo")) == "one" and first_line(KeyError()) == "KeyError"
