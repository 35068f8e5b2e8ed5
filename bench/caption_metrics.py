"""BLEU, METEOR, ROUGE-L and CIDEr of captions, by the published programs of the package pycocoevalcap.

What tables call CIDEr is CIDEr-D here as there. BLEU and METEOR are of the whole corpus, ROUGE-L and CIDEr means over
clips. CIDEr weighs words by the references given: the same captions beside fewer clips have another score.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from .errors import BenchError
from .java import java_program, missing, packaged, started

PUNCTUATION = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
"""Tokens that are dropped. Source: pycocoevalcap, tokenizer/ptbtokenizer.py; the brackets that it lists beside them,
in capitals, never come out of a tokenizer that is told to lower case, so brackets stay, there as here."""
TOKENIZER, METEOR = "stanford-corenlp-3.4.1.jar", "meteor-1.5.jar"
TOKENIZER_MIB, METEOR_MIB = 512, 2048
TOKENIZER_LIMIT_S, METEOR_LIMIT_S = 300.0, 3600.0
MEANS = ("cider", "rouge_l")
"""Figures that are means over clips."""


@dataclass(frozen=True, slots=True)
class CaptionScores:
    """Figures of one set of captions."""

    figures: dict[str, float]
    by_clip: dict[str, np.ndarray]
    """float64 (clips,) of each of `MEANS`."""


@dataclass(frozen=True, slots=True)
class Round:
    """Captions to be scored together: one of each clip, and its references."""

    captions: Sequence[str]
    references: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        """Refuse captions that are not one a clip."""
        if len(self.captions) != len(self.references) or not self.captions or not all(self.references):
            raise ValueError(
                f"{len(self.captions)} captions, {len(self.references)} clips with references; want one each"
            )


def check_programs(*, with_meteor: bool = True) -> None:
    """Look for all that `score` needs, so that hours of work do not end without it.

    Raises:
        BenchError: a package of the extra `tables` is missing.
    """
    java_program()
    packaged("pycocoevalcap.tokenizer", TOKENIZER)
    if with_meteor:
        packaged("pycocoevalcap.meteor", METEOR)
    _scorer("cider", "Cider")


def score(rounds: Sequence[Round], *, with_meteor: bool = True) -> list[CaptionScores]:
    """Score every round; Java starts once for all of them.

    Raises:
        BenchError: a package of the extra `tables` is missing, or a program of it failed.
    """
    texts = [text for r in rounds for text in (*r.captions, *(text for own in r.references for text in own))]
    tokens = tokenized(texts)
    split = [
        Round([tokens[text] for text in r.captions], [[tokens[text] for text in own] for own in r.references])
        for r in rounds
    ]
    meteors = meteor(split) if with_meteor else [{} for _ in split]
    return [_scored(r, found) for r, found in zip(split, meteors, strict=True)]


def tokenized(texts: Iterable[str]) -> dict[str, str]:
    """Return the tokens of each text, joined by spaces, by the Penn Treebank's rules, without punctuation.

    Raises:
        BenchError: as `score`.
    """
    lines = {text: " ".join(text.split()) for text in dict.fromkeys(texts)}
    jar = packaged("pycocoevalcap.tokenizer", TOKENIZER)
    words = ("edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase")
    with started(jar, words, memory_mib=TOKENIZER_MIB, limit_s=TOKENIZER_LIMIT_S) as process:
        out, _ = process.communicate("".join(f"{line}\n" for line in lines.values()))
        if process.returncode:
            raise ValueError(f"exit code {process.returncode}")
    found = out.removesuffix("\n").split("\n")
    if len(found) != len(lines):
        raise BenchError(f"the tokenizer made {len(found)} lines of {len(lines)}; want captions of plain text")
    return {
        text: " ".join(token for token in line.split() if token not in PUNCTUATION)
        for text, line in zip(lines, found, strict=True)
    }


def meteor(rounds: Sequence[Round]) -> list[dict[str, float]]:
    """Return METEOR 1.5 of each round of tokenised captions, as `{"meteor": ...}`; it takes 10 to 20 s to start.

    Raises:
        BenchError: as `score`.
    """
    jar = packaged("pycocoevalcap.meteor", METEOR)
    words = ("Meteor", "-", "-", "-stdio", "-l", "en", "-norm")
    with started(jar, words, memory_mib=METEOR_MIB, limit_s=METEOR_LIMIT_S) as process:
        return [{"meteor": _meteor(process, r)} for r in rounds]


def _meteor(process: Any, r: Round) -> float:
    statistics = []
    for caption, references in zip(r.captions, r.references, strict=True):
        parts = (" ".join(part.replace("|||", " ").split()) for part in (*references, caption))
        statistics.append(_answer(process, f"SCORE ||| {' ||| '.join(parts)}"))
    _answer(process, f"EVAL ||| {' ||| '.join(statistics)}")
    for _ in statistics[1:]:
        _line(process)
    return float(_line(process))


def _answer(process: Any, line: str) -> str:
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    return _line(process)


def _line(process: Any) -> str:
    line = process.stdout.readline()
    if not line:
        raise ValueError("no answer")
    return line.strip()


def _scored(r: Round, meteors: dict[str, float]) -> CaptionScores:
    given = {number: [caption] for number, caption in enumerate(r.captions)}
    wanted = {number: list(references) for number, references in enumerate(r.references)}
    bleu, _ = _scorer("bleu", "Bleu", 4).compute_score(wanted, given, verbose=0)
    rouge, rouges = _scorer("rouge", "Rouge").compute_score(wanted, given)
    cider, ciders = _scorer("cider", "Cider").compute_score(wanted, given)
    figures = {"cider": float(cider)} | {f"bleu{n}": float(value) for n, value in enumerate(bleu, start=1)}
    return CaptionScores(
        figures | meteors | {"rouge_l": float(rouge)},
        {"cider": np.asarray(ciders, dtype=np.float64), "rouge_l": np.asarray(rouges, dtype=np.float64)},
    )


def _scorer(module: str, name: str, *options: int) -> Any:
    try:
        return getattr(import_module(f"pycocoevalcap.{module}.{module}"), name)(*options)
    except ImportError as e:
        raise missing("pycocoevalcap") from e
