"""Text to units: by hand, against what the original's script does to the same phones, and what does not fit."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.model.errors import TextError
from unibrivl.model.units import Lexicon, Vocabulary, text_to_units

PHONES = ["<eps>", "SIL", "SPN", "SPN_S", "AH0_S", "AH0_B", "AH0_I", "AH0_E", "AH_S", "D_B", "D_E", "AO1_I", "G_E",
          "B_B", "B_E", "R_I", "K_I", "IH1_I", "NG_E"]  # fmt: skip
KALDI = """!SIL  SIL_S
<UNK>  SPN_S
A  AH0_S
DOG  D_B AO1_I G_E
DOG  D_B AH0_I G_E
BARKING  B_B AH0_I R_I K_I IH1_I NG_E
O'DOG AH0_B D_E
"""
CMU = """;;; a comment, as old releases have them
A  AH0
DOG  D AO1 G  # a comment, as new releases have them
DOG(1)  D AH0 G
o'dog AH0 D
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def read_vocabulary(folder: Path, phones: list[str] = PHONES) -> Vocabulary:
    text = "".join(f"{phone} {number}\n" for number, phone in enumerate(phones))
    return Vocabulary.read(write(folder / "dict.txt", text))


@pytest.fixture
def vocabulary(tmp_path: Path) -> Vocabulary:
    return read_vocabulary(tmp_path)


@pytest.fixture
def lexicon(tmp_path: Path) -> Lexicon:
    return Lexicon.read(write(tmp_path / "lexicon.txt", KALDI))


def spelled(units: list[int], vocabulary: Vocabulary) -> list[tuple[str, int]]:
    """Return runs of equal units as symbols and lengths."""
    runs: list[tuple[str, int]] = []
    for unit in units:
        symbol = vocabulary.symbols[unit]
        runs = [*runs[:-1], (symbol, runs[-1][1] + 1)] if runs and runs[-1][0] == symbol else [*runs, (symbol, 1)]
    return runs


def test_special_symbols_come_first_and_the_mask_last(vocabulary: Vocabulary) -> None:
    assert vocabulary.symbols[:5] == ("<s>", "<pad>", "</s>", "<unk>", "<eps>")
    assert vocabulary.symbols[-1] == "<mask>" and len(vocabulary) == 4 + len(PHONES) + 1
    assert vocabulary.units()["SIL"] == 5


def test_a_sentence_by_hand(lexicon: Lexicon, vocabulary: Vocabulary) -> None:
    found = text_to_units("A dog, barking!", lexicon, vocabulary)
    assert spelled(found.units, vocabulary) == [
        ("SIL", 14), ("AH0_S", 5), ("D_B", 5), ("AO1_I", 5), ("G_E", 5), ("B_B", 5), ("AH0_I", 5), ("R_I", 5),
        ("K_I", 5), ("IH1_I", 5), ("NG_E", 5), ("SIL", 14),
    ]  # fmt: skip
    assert found.unknown == []
    assert text_to_units("a DOG\nbarking", lexicon, vocabulary) == found


def test_a_word_may_begin_or_end_with_an_apostrophe(tmp_path: Path, vocabulary: Vocabulary) -> None:
    lexicon = Lexicon.read(write(tmp_path / "lexicon.txt", "'DOG  D_B\nDOG'  G_E\nDOG  B_B\n"))
    found = text_to_units("'dog dog' dog 'dog-", lexicon, vocabulary)
    assert [symbol for symbol, _ in spelled(found.units, vocabulary)[1:-1]] == ["D_B", "G_E", "B_B", "D_B"]


def test_a_mask_in_the_file_is_not_added_again(tmp_path: Path) -> None:
    vocabulary = read_vocabulary(tmp_path, ["SIL", "<mask>"])
    assert vocabulary.symbols == ("<s>", "<pad>", "</s>", "<unk>", "SIL", "<mask>")


def test_the_end_is_said_on_request(lexicon: Lexicon, vocabulary: Vocabulary) -> None:
    plain = text_to_units("a dog", lexicon, vocabulary).units
    assert text_to_units("a dog", lexicon, vocabulary, end=True).units == [*plain, 2]


def test_unknown_words_are_noise_and_reported(lexicon: Lexicon, vocabulary: Vocabulary) -> None:
    found = text_to_units("a zyzzyva dog 7", lexicon, vocabulary)
    assert found.unknown == ["ZYZZYVA", "7"]
    assert spelled(found.units, vocabulary)[:3] == [("SIL", 14), ("AH0_S", 5), ("SPN_S", 32)]


@pytest.mark.parametrize("text", ["o'dog", "O\u2019Dog", "'o'dog'", "\u2018o\u2019dog\u2019", '"o\'dog"'])
def test_an_apostrophe_belongs_to_its_word_and_a_quotation_mark_does_not(
    lexicon: Lexicon, vocabulary: Vocabulary, text: str
) -> None:
    found = text_to_units(text, lexicon, vocabulary)
    assert spelled(found.units, vocabulary)[1:-1] == [("AH0_B", 5), ("D_E", 5)] and not found.unknown


def test_cmudict_gets_positions_and_needs_no_unknown_word(tmp_path: Path, vocabulary: Vocabulary) -> None:
    lexicon = Lexicon.read(write(tmp_path / "cmudict", CMU))
    assert lexicon.phones == {
        "A": ("AH0_S",), "DOG": ("D_B", "AO1_I", "G_E"), "O'DOG": ("AH0_B", "D_E"),
    }  # fmt: skip
    found = text_to_units("a cat", lexicon, vocabulary)
    assert spelled(found.units, vocabulary) == [("SIL", 14), ("AH0_S", 5), ("SPN_S", 32), ("SIL", 14)]


def test_kaldis_align_lexicon_says_each_word_twice(tmp_path: Path, lexicon: Lexicon) -> None:
    doubled = "".join(f"{line.split()[0]} {line}\n" for line in KALDI.splitlines())
    assert Lexicon.read(write(tmp_path / "align_lexicon.txt", doubled)).phones == lexicon.phones


@pytest.mark.parametrize(
    ("phones", "expected"),
    [
        (["SIL", "SPN", "AH_S"], "AH_S"),
        (["SIL", "SPN", "AH0", "AH"], "AH0"),
        (["SIL", "SPN", "AH"], "AH"),
        (["SIL", "SPN", "AH", "AH_S", "AH0_S"], "AH0_S"),
    ],
)
def test_stress_and_position_are_kept_as_the_vocabulary_has_them(
    tmp_path: Path, lexicon: Lexicon, phones: list[str], expected: str
) -> None:
    vocabulary = read_vocabulary(tmp_path, phones)
    assert spelled(text_to_units("a", lexicon, vocabulary).units, vocabulary)[1] == (expected, 5)
    assert spelled(text_to_units("b", lexicon, vocabulary).units, vocabulary)[1] == ("SPN", 32)


@given(st.lists(st.sampled_from(["a", "dog", "barking", "xyz"]), min_size=1, max_size=60), st.integers(20, 500))
def test_a_long_text_shrinks_as_in_the_original(words: list[str], max_units: int) -> None:
    vocabulary = Vocabulary(("<s>", "<pad>", "</s>", "<unk>", *PHONES, "<mask>"))
    phones = {"A": ("AH0_S",), "DOG": ("D_B", "AO1_I", "G_E"), "BARKING": ("B_B", "R_I"), "<UNK>": ("SPN_S",)}
    lexicon = Lexicon(phones)
    row = ["SIL", *(phone for word in words for phone in phones.get(word.upper(), ("SPN_S",))), "SIL"]
    if len(row) >= max_units:
        with pytest.raises(TextError, match=f"{len(row)} phones, want fewer than {max_units}; cut it"):
            text_to_units(" ".join(words), lexicon, vocabulary, max_units=max_units)
        return
    means = [{"SIL": 14, "SPN_S": 32}.get(phone, 5) for phone in row]
    lengths, minus = means, 0
    while sum(lengths) >= max_units:
        minus += 1
        lengths = [max(1, mean - minus) for mean in means]
    found = text_to_units(" ".join(words), lexicon, vocabulary, max_units=max_units).units
    expected = [symbol for symbol, length in zip(row, lengths, strict=True) for _ in range(length)]
    assert [vocabulary.symbols[unit] for unit in found] == expected and len(found) < max_units


def test_a_phone_that_the_vocabulary_lacks_is_named(tmp_path: Path, lexicon: Lexicon) -> None:
    vocabulary = read_vocabulary(tmp_path, ["SIL", "D_B", "AO1_I"])
    with pytest.raises(TextError, match=r"phone 'G_E' of the lexicon .*lexicon\.txt is not among the 8 symbols of .*"
                                        r"dict\.txt; give the two that belong together"):  # fmt: skip
        text_to_units("dog", lexicon, vocabulary)
    numbers = read_vocabulary(tmp_path, ["0", "1", "2"])  # Kaldi's numbers instead of names, as one release has them
    with pytest.raises(TextError, match=r"phone 'SIL' .* is not among the 8 symbols"):
        text_to_units("dog", lexicon, numbers)


@pytest.mark.parametrize("text", ["", " ...!?", "--- _"])
def test_a_text_without_words_is_refused(lexicon: Lexicon, vocabulary: Vocabulary, text: str) -> None:
    with pytest.raises(TextError, match="holds no word"):
        text_to_units(text, lexicon, vocabulary)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "holds no words"), (";;; only this\n", "holds no words"), ("A AH0\nDOG\n", "line 2: the word 'DOG' has no")],
)
def test_a_broken_lexicon_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(TextError, match=words):
        Lexicon.read(write(tmp_path / "lexicon.txt", text))


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "is empty"), ("SIL 1\nAH0_B\n", "line 2: 'AH0_B', want a symbol, a space and its count"),
     ("SIL 1\nSIL 2\n", "line 2: the symbol 'SIL' stands there a second time"), ("<pad> 1\n", "'<pad>' stands")],
)  # fmt: skip
def test_a_broken_vocabulary_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(TextError, match=words):
        Vocabulary.read(write(tmp_path / "dict.txt", text))


def test_missing_files_are_named(tmp_path: Path) -> None:
    for read in (Vocabulary.read, Lexicon.read):
        with pytest.raises(TextError, match=r"absent\.txt: no readable text file"):
            read(tmp_path / "absent.txt")
