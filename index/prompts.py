"""Prompts for pictures: given, read from a file, or drawn from what a sound is near to in the index."""

import math
from dataclasses import dataclass
from pathlib import Path

from .engine import Engine
from .errors import GenerateError
from .question import Part, Question
from .verifier import Verifier

MAX_PROMPTS = 100
MAX_CHARACTERS = 1000
MAX_FILE_BYTES = 2**20
NEAREST = 20
"""Items of each modality whose labels are drawn from."""
TEMPLATE = "a photo of {label}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptConfig:
    """Where the prompts come from."""

    given: tuple[str, ...] = ()
    file: Path | None = None
    """One prompt a line."""
    labels: int = 3
    """Prompts that are drawn from the sound where none are given."""
    template: str = TEMPLATE

    def __post_init__(self) -> None:
        """Refuse two sources at once, and a template without a place for the label."""
        if self.given and self.file is not None:
            raise ValueError("prompt gives texts, and prompts a file of them; leave one of them out")
        if not 1 <= self.labels <= MAX_PROMPTS:
            raise ValueError(f"labels is {self.labels}, want 1 to {MAX_PROMPTS}")
        if "{label}" not in self.template:
            raise ValueError(f"template is {self.template[:60]!r}, want a text with {{label}} in it")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One text that pictures are made of."""

    text: str
    label: str | None = None
    """What it was drawn from; None where it was given."""
    score: float | None = None
    """Share of the label in what the sound is near to, 0 to 1; None where it was given."""


def prompts_of(config: PromptConfig, verifier: Verifier, sound: Part) -> tuple[Prompt, ...]:
    """Return the prompts, each once.

    Raises:
        GenerateError: the file is not readable, there is no prompt, one is too long, or none can be drawn.
    """
    if config.given or config.file is not None:
        texts = config.given or read_prompts(config.file)
        prompts = tuple(Prompt(text=text) for text in dict.fromkeys(text.strip() for text in texts) if text)
    elif isinstance(verifier, Engine):
        prompts = draw_prompts(config, verifier, sound)
    else:
        raise GenerateError("a run alone has no labels to draw prompts from; give --prompt or --prompts, or an index")
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise GenerateError(f"there are {len(prompts)} prompts, want 1 to {MAX_PROMPTS}")
    for prompt in prompts:
        if len(prompt.text) > MAX_CHARACTERS or not prompt.text.isprintable():
            want = f"{MAX_CHARACTERS} printable characters at most"
            raise GenerateError(f"the prompt {prompt.text[:40]!r} has {len(prompt.text)} characters, want {want}")
    return prompts


def read_prompts(path: Path | None) -> tuple[str, ...]:
    """Return the lines of a file that are not empty.

    Raises:
        GenerateError: it is not there, no text, or too long.
    """
    assert path is not None
    if not path.is_file():
        raise GenerateError(f"{path}: there is no such file; want one prompt a line")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise GenerateError(f"{path}: {path.stat().st_size:,} bytes, want {MAX_FILE_BYTES:,} at most")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as e:
        raise GenerateError(f"{path}: not a text file in UTF-8; want one prompt a line") from e
    return tuple(line.strip() for line in lines if line.strip())


def draw_prompts(config: PromptConfig, engine: Engine, sound: Part) -> tuple[Prompt, ...]:
    """Return prompts of the labels that the sound's nearest items have, the most heard first.

    An item counts as much as its cosine lies above that of random pairs, in deviations; its labels share that.

    Raises:
        GenerateError: the nearest items have no labels.
    """
    result = engine.ask(Question(parts=(sound,), to="both", k=NEAREST))
    heard: dict[str, float] = {}
    for answer in (answer for answers in result.results.values() for answer in answers):
        for label in answer.labels:
            heard[label] = heard.get(label, 0.0) + max(answer.calibrated, 0.0) / len(answer.labels)
    total = math.fsum(heard.values())
    if not total:
        raise GenerateError("nothing near to the sound has a label to draw a prompt from; give --prompt or --prompts")
    best = sorted(heard, key=lambda label: (-heard[label], label))[: config.labels]
    return tuple(
        Prompt(
            text=config.template.replace("{label}", label), label=label, score=round(heard[label] / total, 6)
        )
        for label in best if heard[label]
    )  # fmt: skip
