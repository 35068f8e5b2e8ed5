"""Which recall that the build measured stands for the answers to a question, and why none does where none was measured.

A recall belongs to a direction (the modality of the question and that of the rows), to a number of answers, and to the
share of the rows that may be found.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Protocol

from .ann import LEVELS
from .question import Question

UNFILTERED = 0.7
"""From this share of rows on, a search is nearer to one without a filter than to one that keeps half."""


class ListLike(Protocol):
    """What is needed of a list that was found."""

    @property
    def mode(self) -> str:
        """`exact` or `ann`."""
        ...

    @property
    def params(self) -> Mapping[str, Any]:
        """Of the ANN search: `level`."""
        ...

    @property
    def matched(self) -> int:
        """Rows that could be found."""
        ...


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recall and what it stands for."""

    value: float | None
    note: str
    """What was measured; without a value, why there is none."""


def recall_of(
    evaluation: Mapping[str, Any], question: Question, found: Mapping[str, ListLike], rows: Mapping[str, int]
) -> Recorded:
    """Return the lowest recall of a question's lists, or the reason why that of one is not known.

    Args:
        evaluation: `eval.json` of the snapshot.
        question: that was asked.
        found: its lists by modality.
        rows: that each modality has, deleted ones included.
    """
    lists = [_of_list(evaluation, question, target, one, rows[target]) for target, one in found.items()]
    approximate = [told for told, one in zip(lists, found.values(), strict=True) if one.mode == "ann"]
    if not approximate:
        return Recorded(1.0, "every item that could be found was compared")
    return min(approximate, key=lambda told: -1.0 if told.value is None else told.value)


def directions_of(question: Question, targets: Sequence[str]) -> list[str]:
    """Return the directions of a question, such as `audio>image`."""
    asked = dict.fromkeys(part.modality for part in question.parts if part.weight)
    return [f"{modality}>{target}" for target in targets for modality in asked]


def not_measured(evaluation: Mapping[str, Any], asked_with: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return what `eval.json` says of directions that can be asked but had no queries, in its `search` still.

    Args:
        evaluation: what the gate returned.
        asked_with: the modalities that the encoder embeds.
    """
    told = {}
    for target, search in evaluation["search"].items():
        missing = [m for m in asked_with if f"{m}>{target}" not in evaluation["directions"]]
        if search["factory"] != "exact" and missing:
            stand_in = " and ".join(search["params"])
            told |= dict.fromkeys((f"{m}>{target}" for m in missing), f"parameters of {stand_in}, the most thorough")
    return {"not_measured": told} if told else {}


def _of_list(
    evaluation: Mapping[str, Any], question: Question, target: str, found: ListLike, rows: int
) -> Recorded:  # fmt: skip
    if found.mode != "ann":
        return Recorded(1.0, f"every {target} item that could be found was compared")
    names = directions_of(question, [target])
    if question.fuse == "sum" and sum(part.weight > 0 for part in question.parts) > 1:
        return _of_sum(evaluation, question, target, found, rows)
    directions = evaluation.get("directions", {})
    if missing := [name for name in names if name not in directions]:
        how = evaluation.get("not_measured", {}).get(missing[0], "the most thorough parameters")
        return Recorded(None, f"no {missing[0]} question was measured; it is searched with {how}")
    told = [_of_direction(directions[name], name, found, found.matched / max(1, rows)) for name in names]
    return min(told, key=lambda one: -1.0 if one.value is None else one.value)


def _of_sum(
    evaluation: Mapping[str, Any], question: Question, target: str, found: ListLike, rows: int
) -> Recorded:  # fmt: skip
    """Return the recall of sums of two parts, which were measured without filters, nothing taken away."""
    parts = [part for part in question.parts if part.weight > 0]
    pair, level = "+".join(sorted(part.modality for part in parts)), found.params["level"]
    told = evaluation.get("segments", {}).get(target, {}).get("sums", {}).get(pair)
    if told is None or any(part.minus for part in parts):
        return Recorded(None, "only sums of two parts were measured, and nothing taken away")
    if found.matched < UNFILTERED * rows:
        return Recorded(None, "sums of two parts were measured without filters only")
    return Recorded(told["recall"][str(level)]["value"], f"{pair}>{target}, sums of two equal weights, {level} answers")


def _of_direction(entry: Mapping[str, Any], name: str, found: ListLike, share: float) -> Recorded:
    """Return the recall of the measured share nearest to this one, by proportion."""
    level = found.params["level"]
    shares = {1.0: entry["recall"].get(str(level))} | {float(s): told for s, told in entry.get("filters", {}).items()}
    nearest = min(shares, key=lambda measured: abs(log(measured) - log(max(share, 1e-9))))
    told = shares[nearest]
    if told is None:
        return Recorded(
            None, f"{name} was not measured for {level} answers" + (" with a filter" if nearest < 1 else "")
        )
    if nearest == 1:
        return Recorded(told["value"], f"{name}, {level} answers")
    if level != LEVELS[0]:
        return Recorded(None, f"{name} was measured with filters for {LEVELS[0]} answers, not for {level}")
    measured = f"{name}, {level} answers, a random filter that keeps {100 * nearest:g} % (here {100 * share:.2g} %)"
    return Recorded(told["value"], measured)
