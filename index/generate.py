"""`generate`: pictures of prompts, made by a diffusion pipeline, of which those are kept that fit a sound best.

What is tried stands in `noise_search.py`, how it is made in `studio.py`; here a request becomes a ranked list. Shapes:
C candidates.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..shards.atomic import hold_directory, is_foreign, remove_leftovers, write_json
from .errors import GenerateError
from .generation import CANDIDATES, ESTIMATES, PREVIEWS, RECORD, REQUEST, GenerateConfig, Generation, Placed
from .generation_record import write_record
from .judge import Judge, open_judge
from .media import read_audible
from .noise_search import Tried, search
from .pictures import Pictures, Shot
from .pipelines import Pipeline, open_pipeline
from .prompts import Prompt, prompts_of
from .question import Part
from .rerank import RerankResult, rerank
from .studio import Progress, Studio
from .verifier import Verifier, open_verifier, picture_part

DIGITS = 6


def generate(config: GenerateConfig, progress: Progress = lambda done, total, text: None) -> Generation:
    """Make and choose pictures, and write them with their record; what is there already is not made again.

    Raises:
        QueryError: the sound is not readable, or silent.
        PipelineError: the pipeline cannot be had, or fails.
        GenerateError: there is nothing to make, the folder holds another request's pictures, or all were dropped.
        IndexStoreError, IndexMismatchError, CheckpointError: the index, the run or the judge is not in order.
    """
    sound = read_audible(config.audio)
    verifier = open_verifier(config.place, config.run, config.image_tower)
    heard = Part("audio", verifier.embed([Part("audio", sound, name=str(config.audio))])[0], name=str(config.audio))
    prompts = prompts_of(config.prompts, verifier, heard)
    judge = None if config.judge is None else open_judge(config.judge, verifier)
    pipeline = open_pipeline(config.pipeline)
    shot = shot_of(config, pipeline)
    _prepare(config.out)
    with hold_directory(config.out, wait=False) as mine:
        if not mine:
            raise GenerateError(f"{config.out}: another process is making pictures there; wait for it")
        _keep_request(config, _request(config, sound, prompts, shot, pipeline, verifier))
        studio = open_studio(config, pipeline, prompts, shot)
        tried = search(studio, config.search, lambda pictures: cosines(verifier, heard, pictures), progress)
        made = _choose(config, prompts, tried, verifier, heard, sound, judge)
        generation = Generation(
            config=config, sound=sound, prompts=prompts, shot=shot, pipeline=pipeline.describe(),
            verifier=_describe(verifier), judge=None if judge is None else judge.describe(), placed=made[0],
            background=made[1], evaluations=sum(one.evaluations for one in tried) + studio.probes, found=studio.found,
        )  # fmt: skip
        write_record(generation)
    if not generation.kept:
        raise GenerateError(_all_dropped(generation), figures={"dropped": len(generation.placed)})
    return generation


def cosines(verifier: Verifier, heard: Part, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Return the cosines (C,) of pictures, uint8 (H, W, 3), with a sound, as `rerank` scores them."""
    if not pictures:
        return np.zeros(0)
    result = rerank(verifier, [heard], [picture_part(verifier, picture) for picture in pictures])
    return np.array([one.score for one in sorted(result.ranked, key=lambda one: one.candidate)])


def shot_of(config: GenerateConfig, pipeline: Pipeline) -> Shot:
    """Return how pictures are made: as asked, else as the pipeline's family wants it."""
    family, side = pipeline.family, pipeline.side_px
    width, height = config.size_px or (side, side)
    search_mix = config.search.mix if config.search.method == "zero-order" else 0.0
    return Shot(
        steps=config.steps or family.steps, guidance=family.guidance if config.guidance is None else config.guidance,
        width_px=width, height_px=height, mix=search_mix,
    )  # fmt: skip


def open_studio(config: GenerateConfig, pipeline: Pipeline, prompts: Sequence[Prompt], shot: Shot) -> Studio:
    """Return a studio with its folders."""
    names = [CANDIDATES, *([ESTIMATES] * (config.search.method == "prune")), *([PREVIEWS] * config.previews)]
    for name in names:
        (config.out / name).mkdir(exist_ok=True)
        remove_leftovers(config.out / name)
    return Studio(
        pipeline, tuple(prompt.text for prompt in prompts), shot, config.out / CANDIDATES, config.out / ESTIMATES,
        config.out / PREVIEWS if config.previews else None, config.batch,
    )  # fmt: skip


def _prepare(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise GenerateError(f"{out}: a file, want a folder")
    if is_foreign(out, REQUEST):
        raise GenerateError(f"{out}: holds files of others; name an empty folder with --out")
    out.mkdir(parents=True, exist_ok=True)


def _request(
    config: GenerateConfig, sound: np.ndarray, prompts: Sequence[Prompt], shot: Shot, pipeline: Pipeline,
    verifier: Verifier,
) -> dict[str, Any]:  # fmt: skip
    """Return what decides the pictures and their order; with best-of-n more of them may be asked for later."""
    told: dict[str, Any] = {
        "sound": hashlib.sha256(sound.tobytes()).hexdigest(), "prompts": [prompt.text for prompt in prompts],
        "pipeline": pipeline.fingerprint, "verifier": verifier.fingerprints, "search": config.search.method,
        "seed": config.search.seed, "steps": shot.steps, "guidance": shot.guidance, "width_px": shot.width_px,
        "height_px": shot.height_px,
    }  # fmt: skip
    if config.search.method == "prune":
        told |= {name: getattr(config.search, name) for name in ("n", "preview_steps", "finalists")}
    elif config.search.method == "zero-order":
        told |= {name: getattr(config.search, name) for name in ("n", "neighbours", "mix")}
    return told


def _keep_request(config: GenerateConfig, request: dict[str, Any]) -> None:
    """Write the request, or make sure that the one in the folder is the same."""
    path = config.out / REQUEST
    if not path.exists():
        write_json(path, request)
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise GenerateError(f"{path}: not readable; name another --out") from e
    for name in dict.fromkeys((*request, *before)):
        if before.get(name) != request.get(name):
            told = [json.dumps(found.get(name), ensure_ascii=False)[:60] for found in (before, request)]
            raise GenerateError(
                f"{config.out} holds pictures of another request: {name} was {told[0]}, is now {told[1]}; "
                "name another --out"
            )


def _choose(
    config: GenerateConfig, prompts: Sequence[Prompt], tried: Sequence[Tried], verifier: Verifier, heard: Part,
    sound: np.ndarray, judge: Judge | None,
) -> tuple[tuple[Placed, ...], tuple[float, float] | None]:  # fmt: skip
    """Return every candidate in its place, and the background that the scores were compared with."""
    whole = [one for one in tried if one.score is not None and one.made is not None]
    pictures = Pictures([one.made for one in whole if one.made is not None])
    texts = [prompts[one.candidate.prompt].text for one in whole]
    result = rerank(verifier, [heard], [picture_part(verifier, one) for one in pictures]) if whole else None
    judged = None if judge is None else judge.scores(Part("audio", sound), texts, pictures)
    worded = word_cosines(verifier, texts, pictures)
    placed = [
        Placed(
            tried=whole[ranked.candidate], ranked=ranked, kept=ranked.rank <= config.keep,
            judged=_at(judged, ranked.candidate), worded=_at(worded, ranked.candidate),
        )
        for ranked in (result.ranked if result else ())
    ]  # fmt: skip
    dropped = [Placed(tried=one, ranked=None, kept=False, judged=None, worded=None)
               for one in tried if one.score is None]  # fmt: skip
    return (*placed, *dropped), _background(verifier, result)


def word_cosines(verifier: Verifier, texts: Sequence[str], pictures: Sequence[np.ndarray]) -> np.ndarray | None:
    """Return the cosine of each picture with its own prompt; None where the run reads no text."""
    if not verifier.has_text or not pictures:
        return None
    unique = list(dict.fromkeys(texts))
    words = verifier.embed([Part("text", text) for text in unique])
    seen = verifier.embed([picture_part(verifier, picture) for picture in pictures])
    return (seen * words[[unique.index(text) for text in texts]]).sum(axis=1)


def _at(values: np.ndarray | None, number: int) -> float | None:
    return None if values is None else round(float(values[number]), DIGITS)


def _background(verifier: Verifier, result: RerankResult | None) -> tuple[float, float] | None:
    """Return mean and deviation of random pairs, out of the index's own record."""
    if result is None or result.calibration is None or verifier.snapshot is None:
        return None
    told = verifier.snapshot.evaluation.get("background", {}).get("audio>image")
    return None if told is None else (round(told["mean"], DIGITS), round(told["sd"], DIGITS))


def _describe(verifier: Verifier) -> dict[str, Any]:
    snapshot = verifier.snapshot
    return {
        "run": str(verifier.encoder.run), "fingerprints": verifier.fingerprints,
        "index": None if snapshot is None else str(snapshot.root),
        "snapshot": None if snapshot is None else snapshot.id,
    }  # fmt: skip


def _all_dropped(generation: Generation) -> str:
    reasons = sorted({one.tried.dropped for one in generation.placed if one.tried.made is not None})
    count = sum(one.tried.made is not None for one in generation.placed)
    return (
        f"all {count} pictures were dropped ({', '.join(reasons)}), so none was chosen; ask for other prompts or "
        f"seeds, {generation.config.out / RECORD} says why for each"
    )
