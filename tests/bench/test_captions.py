"""Captions as words and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.bench.captions import BOS, EOS, UNK, Vocabulary, most_frequent, words_of


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A Dog BARKS, twice.", ["a", "dog", "barks", "twice"]),
        ("'Hello' -- it\u2019s 5_00 o'clock!", ["hello", "it's", "5", "00", "o'clock"]),
        ("...", []),
    ],
)
def test_words_are_lower_case_without_punctuation(caption: str, words: list[str]) -> None:
    assert words_of(caption) == words


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_what_was_seen_is_written_again(captions: list[str]) -> None:
    words = Vocabulary.of(captions)
    for caption, numbers in zip(captions, words.encode(captions, 10_000), strict=True):
        assert numbers[0] == BOS and numbers[-1] == EOS and UNK not in numbers
        assert words.decode(numbers[1:]) == " ".join(words_of(caption))
        assert words_of(words.decode(numbers[1:])) == words_of(caption)


def test_unknown_words_and_long_captions() -> None:
    words = Vocabulary.of(["rain falls"])
    assert words.encode(["rain never falls"], 3) == [[BOS, 5, UNK, 4, EOS]]
    assert words.encode(["rain never falls"], 2) == [[BOS, 5, UNK]]  # not the end: it goes on
    assert words.decode([5, UNK, 4, EOS, 5]) == "rain falls"


def test_the_most_frequent_caption_is_found_by_its_words() -> None:
    assert most_frequent(["b", "a dog barks", "c", "A dog, barks!", "a"]) == "a dog barks"
    assert most_frequent(["b", "a"]) == "a"
