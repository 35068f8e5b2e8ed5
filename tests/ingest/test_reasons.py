"""Every code that ingestion can give has words in the report."""

import re
from pathlib import Path

import pytest

from unibrivl import ingest
from unibrivl.ingest import errors
from unibrivl.ingest.quality import FLAGS
from unibrivl.ingest.reasons import ADVICE, FLAG_MEANINGS, MEANINGS, explain

CODE = re.compile(rf'"((?:{"|".join(ADVICE)})\.[a-z0-9_]+)"')
SOURCES = [path for path in Path(ingest.__file__).parent.glob("*.py") if path.name != "reasons.py"]


def test_every_code_of_the_program_is_explained_and_no_other():
    given = {code for path in SOURCES for code in CODE.findall(path.read_text(encoding="utf-8"))}
    assert given == set(MEANINGS)


def test_every_flag_of_the_program_is_explained_and_no_other():
    assert set(FLAG_MEANINGS) == set(FLAGS)


def test_every_class_with_a_policy_has_advice():
    assert set(ADVICE) >= errors.WAITS | errors.AGAIN


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("media.no_audio", "media", "no sound"),
        ("quality.silent", "quality", "hardly any sound"),
        ("source.of_tomorrow", "source", "examples"),
        ("<b>strange", "other", "examples"),
    ],
)
def test_a_code_has_a_class_and_a_meaning(code, kind, words):
    reason = explain(code)
    assert (reason.code, reason.kind, reason.advice) == (code, kind, ADVICE[kind])
    assert words in reason.meaning


def test_all_words_are_sentences():
    assert all(text[0].isupper() and text.endswith(".") for text in (*MEANINGS.values(), *ADVICE.values()))
    assert not any(text.endswith(".") for text in FLAG_MEANINGS.values())
