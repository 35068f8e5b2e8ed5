"""What is written of a generation: its record, the chosen pictures with theirs inside, a contact sheet, the page."""

import io
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .. import __version__
from ..shards.atomic import TEMPORARY_MARK, write_bytes, write_json
from .baselines import baselines, gain_curve
from .generation import KEPT, PAGE, RECORD, SHEET, Generation, Placed
from .generation_page import generation_page
from .page import write_page
from .pictures import png
from .pipelines import library_versions

CELL_PX, LINE_PX, COLUMNS, MARGIN_PX = 160, 18, 6, 10
INK, MUTED, PAPER, EMPTY = "#1d2125", "#5d656d", "#f7f6f3", "#e2e0da"
MAX_CELLS = 300
"""Of the sheet: the first of the ranked list."""


def write_record(generation: Generation) -> None:
    """Write everything but the candidates themselves, which are there already."""
    out = generation.config.out
    write_kept(generation, out / KEPT)
    sheet = contact_sheet(generation)
    write_bytes(out / SHEET, sheet)
    write_page(generation_page(generation, sheet), out / PAGE)
    write_json(out / RECORD, record(generation))


def record(generation: Generation) -> dict[str, Any]:
    """Return the whole record as plain values."""
    config, shot = generation.config, generation.shot
    return {
        "format": 1, "unibrivl": __version__, "versions": library_versions(),
        "sound": str(config.audio), "prompts": [
            {"text": prompt.text, "label": prompt.label, "score": prompt.score} for prompt in generation.prompts
        ],
        "pipeline": generation.pipeline, "verifier": generation.verifier, "judge": generation.judge,
        "shot": {"steps": shot.steps, "guidance": shot.guidance, "width_px": shot.width_px,
                 "height_px": shot.height_px},
        "search": {name: getattr(config.search, name) for name in config.search.__dataclass_fields__},
        "evaluations": generation.evaluations,
        "dropped": _dropped(generation), "background": generation.background,
        "baselines": [one.as_dict() for one in baselines(generation)], "expected_best_of": gain_curve(generation),
        "candidates": [row | _more(generation, one) for row, one in
                       zip(generation.rows(), generation.placed, strict=True)],
    }  # fmt: skip


def write_kept(generation: Generation, folder: Path) -> None:
    """Write the chosen pictures, best first by name, each with its record inside; earlier ones go."""
    folder.mkdir(exist_ok=True)
    rows = dict(zip((one.tried.candidate for one in generation.placed), generation.rows(), strict=True))
    wanted = {}
    for number, one in enumerate(generation.kept, 1):
        assert one.tried.made is not None
        name = f"{number:0{len(str(len(generation.kept)))}d}-{one.tried.candidate.name}.png"
        told = {k: v for k, v in rows[one.tried.candidate].items() if k not in ("path", "dropped_reason")}
        told |= _more(generation, one) | _made_by(generation)
        wanted[name] = png(one.tried.made.picture, told)
    for path in folder.glob("*.png"):
        if path.name not in wanted and TEMPORARY_MARK not in path.name:
            path.unlink()
    for name, data in wanted.items():
        write_bytes(folder / name, data)


def contact_sheet(generation: Generation) -> bytes:
    """Return all candidates, best first, as one PNG with rank, cosine, prompt and seed under each."""
    shown = generation.placed[:MAX_CELLS]
    columns = min(COLUMNS, max(1, len(shown)))
    rows = -(-len(shown) // columns) or 1
    step_x, step_y = CELL_PX + MARGIN_PX, CELL_PX + 2 * LINE_PX + MARGIN_PX
    sheet = Image.new("RGB", (columns * step_x + MARGIN_PX, rows * step_y + MARGIN_PX), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for number, one in enumerate(shown):
        x, y = MARGIN_PX + number % columns * step_x, MARGIN_PX + number // columns * step_y
        _draw_cell(sheet, draw, one, x, y)
        words, color = _caption(one)
        draw.text((x, y + CELL_PX + 3), words, fill=color, font=font)
        candidate = one.tried.candidate
        where = f"prompt {candidate.prompt}, seed {candidate.seed}"
        draw.text((x, y + CELL_PX + 3 + LINE_PX), where, fill=MUTED, font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _draw_cell(sheet: Image.Image, draw: ImageDraw.ImageDraw, one: Placed, x: int, y: int) -> None:
    shown = one.tried.made or one.tried.estimate
    if shown is None or shown.dropped:
        draw.rectangle((x, y, x + CELL_PX - 1, y + CELL_PX - 1), fill=EMPTY)
        return
    picture = Image.fromarray(shown.picture)
    scale = CELL_PX / max(picture.size)
    how = Image.Resampling.BICUBIC if scale < 1 else Image.Resampling.NEAREST
    small = picture.resize((round(picture.width * scale), round(picture.height * scale)), how)
    sheet.paste(small, (x + (CELL_PX - small.width) // 2, y + (CELL_PX - small.height) // 2))
    if one.kept:
        draw.rectangle((x - 3, y - 3, x + CELL_PX + 2, y + CELL_PX + 2), outline="#17693f", width=3)


def _caption(one: Placed) -> tuple[str, str]:
    if one.ranked is None:
        return one.tried.dropped.split(" after ")[0].split(" by ")[0], MUTED
    return f"{one.ranked.rank}   {one.ranked.score:z.3f}", INK


def _more(generation: Generation, one: Placed) -> dict[str, Any]:
    """Return what the record has of a candidate beside its row."""
    tried = one.tried
    return {
        "seeds": list(tried.candidate.seeds), "mix": generation.shot.mix if len(tried.candidate.seeds) > 1 else None,
        "evaluations": tried.evaluations, "estimate_score": tried.estimate_score, "judge": one.judged,
        "text": one.worded,
    }  # fmt: skip


def _made_by(generation: Generation) -> dict[str, Any]:
    shot = generation.shot
    return {
        "steps": shot.steps, "guidance": shot.guidance, "width_px": shot.width_px, "height_px": shot.height_px,
        "pipeline": generation.pipeline["fingerprint"], "components": generation.pipeline["components"],
        "verifier": generation.verifier["fingerprints"], "versions": library_versions(),
    }  # fmt: skip


def _dropped(generation: Generation) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in generation.placed:
        if one.tried.dropped:
            counts[one.tried.dropped] = counts.get(one.tried.dropped, 0) + 1
    return counts
