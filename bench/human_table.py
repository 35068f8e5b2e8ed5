"""What a person reads of a human test: the table and the page. Only people's answers are ever called Table 5."""

from pathlib import Path
from typing import Any

from ..index.page import Page, Table
from .errors import BenchError

BENCH = "human"
COLUMNS = ("system", "own picture", "other picture", "neither", "of decided", "Wilson", "p", "alpha", "answers")
PAIR_COLUMNS = ("pair", "only the first fits", "only the second", "p (McNemar)", "difference")
HEADS = {
    "ok": "Table 5: what people choose",
    "insufficient": "Human test: insufficient",
    "simulated": "Simulated raters: not Table 5, not people",
}
WARNING = "No person gave these answers: a program did. They test the study, and say nothing of any system."


def heading(result: dict[str, Any]) -> str:
    """Return what the result may be called."""
    return HEADS["simulated" if result["simulated"] else result["status"]]


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a row for each system, or the one that says how many raters are missing."""
    if not result["metrics"]:
        coverage = result["coverage"]
        told = f"insufficient: {coverage['raters']} of {coverage['wanted']} valid raters"
        return [(result["tower"], told, *[""] * (len(COLUMNS) - 2))]
    return [
        (
            _marked(result, name), _with(f["agree"], i["agree"]), f"{f['disagree']:.3f}", f"{f['undecided']:.3f}",
            _with(f["preference"], i["preference"]), _brackets(i["preference_wilson"]), p_text(f["p"]),
            "" if f["alpha"] is None else f"{f['alpha']:z.2f}", str(f["answers"]),
        )
        for name, f in result["metrics"]["by_system"].items()
        for i in (result["interval"]["by_system"][name],)
    ]  # fmt: skip


def pair_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a row for each pair of systems that were asked for the same sounds."""
    return [
        (
            _marked(result, f"{pair['first']}, {pair['second']}"), str(pair["only_first"]), str(pair["only_second"]),
            p_text(pair["p"]), _with(pair["difference"], pair["difference_interval"]),
        )
        for pair in result["metrics"].get("pairs", ())
        if pair["items"]
    ]  # fmt: skip


def coverage_text(result: dict[str, Any]) -> str:
    """Return who took part, whose answers count, and why others do not."""
    c = result["coverage"]
    who = "simulated raters" if result["simulated"] else "raters"
    reasons = {"withdrawn": "withdrew", "unfinished": "not finished", "failed_catches": "failed the catch trials",
               "beyond": "beyond the number wanted"}  # fmt: skip
    left_out = [f"{c['left_out'][name]} {words}" for name, words in reasons.items() if c["left_out"][name]]
    told = f"{c['raters']} {who} count of {c['begun']} who began; {c['wanted']} were wanted"
    told += f" ({', '.join(left_out)})" if left_out else ""
    told += f". {c['trials']} trials of {c['classes']} classes and {c['catches']} catch trials each"
    told += f", {c['median_s']:.1f} s a trial (median), {c['replays']} replays" if c["median_s"] is not None else ""
    return told + (f". {c['half_lines']} half-written lines were ignored." if c["half_lines"] else ".")


def human_page(result: dict[str, Any]) -> Page:
    """Return the page of a result."""
    return Page(
        title=heading(result), paragraphs=(*[WARNING] * result["simulated"], coverage_text(result)),
        tables=human_tables(result), questions=(),
        facts=(("study", result["study"]), ("protocol", result["protocol"]), ("status", result["status"]),
               ("seed", str(result["seed"]))),
    )  # fmt: skip


def human_tables(result: dict[str, Any]) -> tuple[Table, ...]:
    """Return the table of the systems and, where some were asked for the same sounds, that of their pairs."""
    tables = [Table(caption=heading(result), columns=COLUMNS, rows=tuple(rows(result)), note=_note(result))]
    if pairs := pair_rows(result):
        note = "Counts are answers of one rater to one sound for which only one of the two pictures was chosen."
        caption = "Pairs of systems, by the same sounds" + (" (simulated)" if result["simulated"] else "")
        tables.append(Table(caption=caption, columns=PAIR_COLUMNS, rows=tuple(pairs), note=note))
    return tuple(tables)


def check_result(path: Path, result: dict[str, Any]) -> None:
    """Refuse what `bench human report` cannot have written, so that nothing else is ever called Table 5.

    Raises:
        BenchError: it does not say whose answers they are, says it in two ways, or has figures of too few raters.
    """
    coverage, simulated = result["coverage"], result.get("simulated")
    counts = [coverage.get(name) for name in ("raters", "wanted")]
    if not isinstance(simulated, bool) or not all(isinstance(n, int) for n in counts) or "study" not in result:
        raise BenchError(f"{path}: does not say whose answers these are; want a file of bench human report --out")
    marks = (result["status"] == "simulated", *("(simulated)" in result[name] for name in ("tower", "protocol")))
    if set(marks) != {simulated}:
        raise BenchError(f"{path}: says that raters are simulated and that they are not; make the report again")
    figures = "by_system" in result["metrics"]
    if figures != (counts[0] >= counts[1]) or figures != bool(result["metrics"]):
        told = f"{'' if result['metrics'] else 'no '}figures of {counts[0]} raters where {counts[1]} were wanted"
        raise BenchError(f"{path}: {told}; make the report again")


def _note(result: dict[str, Any]) -> str:
    level = f"{100 * result['interval']['level']:g}"
    chance = result["chance"]
    note = f"By chance {chance['agree']:.3f} choose the own picture, {chance['preference']:.3f} of those who decide. "
    note += f"Brackets: {level} % of resamples with raters and sounds both drawn anew. "
    return note + "Wilson and p (exact, a fair coin): of decided answers, as if all were independent."


def _marked(result: dict[str, Any], name: str) -> str:
    return f"{name} (simulated)" if result["simulated"] else name


def _with(value: float | None, bounds: list[float] | None) -> str:
    if value is None or bounds is None:
        return ""
    return f"{value:z.3f} {_brackets(bounds)}"


def _brackets(bounds: list[float] | None) -> str:
    return "" if bounds is None else f"[{bounds[0]:z.3f}, {bounds[1]:z.3f}]"


def p_text(p: float) -> str:
    """Return a p as it is printed."""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"
