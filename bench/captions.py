"""Captions as words: what a decoder learns and writes; the measures tokenise by themselves (`caption_metrics.py`)."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
"""Letters and digits; an apostrophe only within."""
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
PAD, BOS, EOS, UNK = range(len(SPECIAL))


def words_of(caption: str) -> list[str]:
    """Return a caption's words, lower case, without punctuation.

    >>> words_of("A man's well-tuned radio, then: rain.")
    ['a', "man's", 'well', 'tuned', 'radio', 'then', 'rain']
    """
    return WORD.findall(caption.lower().replace("\u2019", "'"))


def most_frequent(captions: Iterable[str]) -> str:
    """Return the caption that stands most often, compared by its words; of several the first in order."""
    counts = Counter(" ".join(words_of(caption)) for caption in captions)
    return min(counts, key=lambda caption: (-counts[caption], caption))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words by number, `SPECIAL` first."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, captions: Iterable[str]) -> "Vocabulary":
        """Return every word of captions, sorted."""
        return cls((*SPECIAL, *sorted({word for caption in captions for word in words_of(caption)})))

    def encode(self, captions: Sequence[str], max_words: int) -> list[list[int]]:
        """Return the numbers of each caption's first words, `BOS` before and, unless some were cut, `EOS` after."""
        number_of = {word: number for number, word in enumerate(self.words)}
        found = []
        for words in map(words_of, captions):
            numbers = [number_of.get(word, UNK) for word in words[:max_words]]
            found.append([BOS, *numbers, *([EOS] if len(words) <= max_words else [])])
        return found

    def decode(self, numbers: Iterable[int]) -> str:
        """Return the text of numbers up to `EOS`."""
        words = []
        for number in numbers:
            if number == EOS:
                break
            if number >= len(SPECIAL):
                words.append(self.words[number])
        return " ".join(words)
