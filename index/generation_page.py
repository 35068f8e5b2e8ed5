"""The page of a generation: the sound, what was chosen for it, and what that choice is worth."""

import io

import soundfile
from PIL import Image

from ..shards import SAMPLE_RATE
from .baselines import baselines, gain_curve, spent_curve
from .generation import Generation, Placed
from .page import Card, Curve, Figure, Page, Question, Table

SHOWN_PX = 512
"""Longer side of a picture on the page; the file has it whole."""
QUALITY = 90


def generation_page(generation: Generation, sheet: bytes) -> Page:
    """Return the page; `sheet` is the contact sheet as PNG."""
    name = generation.config.audio.name
    count = sum(one.ranked is not None for one in generation.placed)
    kept = generation.kept
    question = Question(
        heading="Nearest to the sound", direction="sound to made pictures", query_modality="audio",
        answer_modality="image", query=_sound_card(generation), answers=tuple(_card(generation, one) for one in kept),
        true_rank=None, gallery=None, large=True,
    )  # fmt: skip
    return Page(
        title=f"Pictures for {name}",
        paragraphs=(_summary(generation, count),),
        tables=(), questions=(question,), facts=_facts(generation),
        figures=(
            *(Figure(table=table) for table in (_worth(generation), _prompts(generation)) if table.rows),
            *_curves(generation), Figure(caption="All candidates, best first", image=sheet),
        ),
    )  # fmt: skip


def _summary(generation: Generation, count: int) -> str:
    pruned = sum(one.tried.made is None for one in generation.placed)
    dropped = len(generation.placed) - count - pruned
    more = f" {pruned} more were given up after a few steps." if pruned else ""
    more += f" {dropped} were dropped unscored: flagged by the safety checker, or black." if dropped else ""
    return (
        f"{len(generation.kept)} of {count} pictures, chosen by how near their embeddings lie to the sound's.{more} "
        "The pipeline never heard the sound: it only made pictures of the prompts."
    )


def _sound_card(generation: Generation) -> Card:
    buffer = io.BytesIO()
    soundfile.write(buffer, generation.sound, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    seconds = len(generation.sound) / SAMPLE_RATE
    return Card(
        title=generation.config.audio.name, subtitle=f"{seconds:.1f} s", key="", image=None, audio=buffer.getvalue(),
        score=None, rank=None, is_true=None,
    )  # fmt: skip


def _card(generation: Generation, one: Placed) -> Card:
    made, ranked = one.tried.made, one.ranked
    assert made is not None and ranked is not None
    details = [f"seed {one.tried.candidate.seed}"]
    if ranked.percentile is not None:
        details.append(f"above {ranked.percentile:.0f} % of random pairs")
    if one.judged is not None:
        details.append(f"judge {one.judged:.3f}")
    return Card(
        title=generation.prompts[one.tried.candidate.prompt].text, subtitle=" · ".join(details), key=made.path.name,
        image=shown_picture(Image.fromarray(made.picture)), audio=None, score=ranked.score, rank=ranked.rank,
        is_true=None,
    )  # fmt: skip


def shown_picture(picture: Image.Image) -> bytes:
    """Return an RGB picture as JPEG, its longer side `SHOWN_PX`."""
    scale = SHOWN_PX / max(picture.size)
    enlarged = scale > 1  # a tiny pipeline's pixels stay pixels
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    buffer = io.BytesIO()
    how = Image.Resampling.NEAREST if enlarged else Image.Resampling.BICUBIC
    picture.resize(size, how).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _worth(generation: Generation) -> Table:
    found = baselines(generation)
    judged, deviations = generation.judge is not None, any(one.z is not None for one in found)
    columns = ["which picture", "cosine with the sound", *["deviations"] * deviations, *["judge"] * judged]
    rows = [
        (one.name, f"{one.score:z.3f}", *([_signed(one.z)] * deviations), *([_plain(one.judged)] * judged))
        for one in found
    ]  # fmt: skip
    notes = ["Deviations count from the mean of random pairs."] * deviations
    if generation.judge is not None:
        shared = generation.judge["shared_with_verifier"]
        notes.append(
            f"The judge compares each picture with the {generation.judge['compares_with']}; "
            + (f"it shares the {' and '.join(shared)} model with the verifier." if shared else "it shares no model.")
        )
    caption = "What the choice is worth"
    return Table(caption=caption, columns=tuple(columns), rows=tuple(rows), note=" ".join(notes))


def _prompts(generation: Generation) -> Table:
    rows = tuple(
        (prompt.text, prompt.label or "", f"{prompt.score:.0%}")
        for prompt in generation.prompts if prompt.score is not None
    )  # fmt: skip
    note = "Share of the label among those of the sound's nearest items, weighed by how near they are."
    return Table(caption="Prompts drawn from the sound", columns=("prompt", "label", "share"), rows=rows, note=note)


def _curves(generation: Generation) -> tuple[Figure, ...]:
    gain = gain_curve(generation)
    if len(gain) > 1:
        curve = Curve(x_label="candidates", y_label="cosine", points=tuple(gain))
        note = "The mean best of so many of these candidates, drawn without putting back."
        return (Figure(caption="Best cosine to expect of n candidates", curve=curve, note=note),)
    spent = spent_curve(generation)
    if len(spent) > 1:
        curve = Curve(x_label="evaluations of the network", y_label="cosine", points=tuple(spent))
        return (Figure(caption="Best cosine so far", curve=curve, note="In the order of the trials."),)
    return ()


def _facts(generation: Generation) -> tuple[tuple[str, str], ...]:
    shot, pipeline, verifier = generation.shot, generation.pipeline, generation.verifier
    search = generation.config.search
    return (
        ("pipeline", f"{pipeline['class']}, {pipeline['family']}, {pipeline['fingerprint'][:16]}"),
        ("steps, guidance, size", f"{shot.steps}, {shot.guidance:g}, {shot.width_px}x{shot.height_px}"),
        ("search", f"{search.method}, n {search.n}, seed {search.seed}"),
        ("evaluations of the network", f"{generation.evaluations:,}"),
        ("index", str(verifier["index"] or "none: a run alone")),
        *((f"{modality} model", told[:16]) for modality, told in verifier["fingerprints"].items()),
        *(() if generation.judge is None else (("judge", generation.judge["folder"]),)),
        ("record", "generation.json"),
    )  # fmt: skip


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+z.2f}"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:z.3f}"
