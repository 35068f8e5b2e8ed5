"""Raw text to the phoneme units that SpeechLM's Shared Transformer reads; no tower and no tensor here.

Words become the phones of a lexicon, and each phone as many units as it lasts on average, so that the same text always
gives the same units. SpeechLM's own data drew lengths from normal distributions around these means, and put silence
between a quarter of the words.

Source: microsoft/SpeechT5, SpeechLM/speechlm/data_process/phoneme_tokenizer.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import TextError

MEAN_LENGTH = 5
"""Units of a phone, at 100 a second."""
SILENCE, SILENCE_LENGTH = "SIL", 14
NOISE, NOISE_LENGTH = "SPN", 32
"""Kaldi's phone for spoken noise, which stands for unknown words."""
UNKNOWN_WORD = "<UNK>"
MAX_UNITS = 4375
"""A sequence stays below this; phones of a longer one are shortened, one unit each at a time, down to one."""
SPECIAL_SYMBOLS: tuple[str, ...] = ("<s>", "<pad>", "</s>", "<unk>")
MASK_SYMBOL = "<mask>"

_WORD = re.compile(r"['\u2019]?[^\W_]+(?:['\u2019][^\W_]+)*['\u2019]?")
_POSITION = re.compile(r"_[BIES]$")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The symbols of a network's units; a symbol's place is its unit."""

    symbols: tuple[str, ...]
    path: str = ""
    """Of the file that it came from, for messages."""

    @classmethod
    def read(cls, path: Path) -> "Vocabulary":
        """Read a fairseq `dict.txt`: a symbol and its count a line; four special symbols come before, the mask last.

        Raises:
            TextError: the file is missing or no such list.
        """
        symbols = list(SPECIAL_SYMBOLS)
        for number, line in enumerate(_lines(path), start=1):
            symbol, _, count = line.strip().rpartition(" ")
            if not symbol or not count.lstrip("-").isdigit():
                raise TextError(f"{path}, line {number}: {line[:60]!r}, want a symbol, a space and its count")
            if symbol in symbols:
                raise TextError(f"{path}, line {number}: the symbol {symbol!r} stands there a second time")
            symbols.append(symbol)
        if len(symbols) == len(SPECIAL_SYMBOLS):
            raise TextError(f"{path} is empty, want a symbol and its count in each line")
        return cls((*symbols, *[MASK_SYMBOL] * (MASK_SYMBOL not in symbols)), str(path))

    def __len__(self) -> int:
        """Return the number of units, which is the rows of the network's unit embedding."""
        return len(self.symbols)

    def units(self) -> dict[str, int]:
        """Return each symbol's unit."""
        return {symbol: unit for unit, symbol in enumerate(self.symbols)}


@dataclass(frozen=True, slots=True)
class Lexicon:
    """How words are pronounced."""

    phones: Mapping[str, tuple[str, ...]]
    """By word, in capitals; the first of several pronunciations."""
    path: str = ""
    """Of the file that it came from, for messages."""

    @classmethod
    def read(cls, path: Path) -> "Lexicon":
        """Read a lexicon: a word and its phones in each line.

        Kaldi's (`WORD  PH1_B PH2_I PH3_E`, or with the word twice as in `align_lexicon.txt`) and CMUdict's (`WORD
        PH1 PH2`, `WORD(1)` for further pronunciations, comments behind `;;;` or `#`) are understood. Phones without
        a position get one.

        Raises:
            TextError: the file is missing, or a line has no phones.
        """
        rows = list(_rows(path))
        if not rows:
            raise TextError(f"{path} holds no words, want a word and its phones in each line")
        if all(len(row) > 2 and row[0] == row[1] for row in rows):
            rows = [row[1:] for row in rows]
        phones: dict[str, tuple[str, ...]] = {}
        for word, *found in rows:
            phones.setdefault(re.sub(r"\(\d+\)$", "", word).upper(), tuple(_positioned(found)))
        return cls(phones, str(path))


@dataclass(frozen=True, slots=True)
class TextUnits:
    """A text as units."""

    units: list[int]
    unknown: list[str]
    """Words that the lexicon lacks, in order; they became its `<UNK>`, or spoken noise."""


def text_to_units(
    text: str, lexicon: Lexicon, vocabulary: Vocabulary, *, max_units: int = MAX_UNITS, end: bool = False
) -> TextUnits:
    """Return the units of a text: silence, each word's phones at their mean lengths, silence.

    Args:
        text: of any case and punctuation, which is dropped.
        lexicon: whose phones the vocabulary has.
        vocabulary: of the network that will read the units.
        max_units: which the result stays below.
        end: closes with `</s>`, as the text (but not the sound) of pre-training did.

    Raises:
        TextError: the text has no word, is too long, or a phone is not in the vocabulary.
    """
    words = [match.replace("\u2019", "'").upper() for match in _WORD.findall(text)]
    if not words:
        raise TextError(f"the text {text[:60]!r} holds no word")
    known = vocabulary.units()
    phones, unknown = [SILENCE], []
    for word in words:
        found = lexicon.phones.get(word) or lexicon.phones.get(word.strip("'"))
        if found is None:
            unknown.append(word.strip("'"))
            found = lexicon.phones.get(UNKNOWN_WORD, (f"{NOISE}_S",))
        phones += found
    symbols = [_symbol(phone, known, lexicon, vocabulary) for phone in [*phones, SILENCE]]
    lengths = _lengths(symbols, max_units - end)
    units = [known[symbol] for symbol, length in zip(symbols, lengths, strict=True) for _ in range(length)]
    return TextUnits(units + [known["</s>"]] * end, unknown)


def _lengths(symbols: list[str], max_units: int) -> list[int]:
    """Return each symbol's length; all shrink together until their sum is below `max_units`."""
    means = [_mean_length(symbol) for symbol in symbols]
    for less in range(max(means)):
        lengths = [max(1, mean - less) for mean in means]
        if sum(lengths) < max_units:
            return lengths
    raise TextError(f"the text has {len(symbols)} phones, want fewer than {max_units}; cut it into parts")


def _mean_length(symbol: str) -> int:
    return {SILENCE: SILENCE_LENGTH, NOISE: NOISE_LENGTH}.get(_POSITION.sub("", symbol), MEAN_LENGTH)


def _symbol(phone: str, known: Mapping[str, int], lexicon: Lexicon, vocabulary: Vocabulary) -> str:
    """Return what the vocabulary calls a phone: itself, or without its stress, its position, or both."""
    bare = _POSITION.sub("", phone)
    position = phone[len(bare) :]
    unstressed = re.sub(r"\d$", "", bare)
    for symbol in (SILENCE if bare == SILENCE else phone, unstressed + position, bare, unstressed):
        if symbol in known:
            return symbol
    raise TextError(
        f"the phone {phone!r} of the lexicon {lexicon.path} is not among the {len(vocabulary)} symbols of the "
        f"vocabulary {vocabulary.path}; give the two that belong together"
    )


def _positioned(phones: list[str]) -> Iterable[str]:
    """Yield a word's phones with Kaldi's positions: B, I and E for its beginning, inside and end, S for a single."""
    if any(_POSITION.search(phone) for phone in phones):
        yield from phones
    elif len(phones) == 1:
        yield f"{phones[0]}_S"
    else:
        yield from (f"{phone}_{'B' if i == 0 else 'E' if i == len(phones) - 1 else 'I'}"
                    for i, phone in enumerate(phones))  # fmt: skip


def _rows(path: Path) -> Iterable[list[str]]:
    for number, line in enumerate(_lines(path), start=1):
        row = [] if line.startswith(";;;") else line.partition(" #")[0].split()
        if len(row) == 1:
            raise TextError(f"{path}, line {number}: the word {row[0]!r} has no phones")
        if row:
            yield row


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise TextError(f"{path}: no readable text file ({e})") from e
