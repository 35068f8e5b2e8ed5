"""`bench clotho`: captions written from a tower's frozen embeddings; CIDEr-D, BLEU, METEOR and ROUGE-L.

Protocol. One small transformer decoder (`captioner.py`, two presets) learns the development split from the embedding of
the whole clip and those of its seconds. The validation loss chooses the epoch; words are those of the training
captions; nothing of the evaluation split is looked at before its captions are scored. Beside every figure stand chance,
captions of other clips, drawn, and the ceiling, each of a clip's five captions against its other four: one reference
fewer, which all figures but CIDEr's count against people. `constant` is the most frequent training caption for every
clip; a decoder that hears nothing ends near it, not near chance.

Shapes: F features of a clip, D their width.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..shards.checks import check_ranges
from .caption_metrics import MEANS, CaptionScores, Round, check_programs, score
from .captioner import PRESETS, Captioner, CaptionerConfig
from .captioner_train import CaptionData, Place, train_captioner
from .captions import Vocabulary, most_frequent
from .clotho_features import features_of
from .clotho_files import EVALUATION_CLIPS, CaptionedClips, Clotho, read_clotho
from .encoders import Embedder, KnownEncoder
from .errors import BenchError
from .protocol import LEVEL, Progress, Result, bootstrap

BATCH = 64
SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
FENSE_MODELS = ("paraphrase-TinyBERT-L6-v2/model.safetensors", "echecker_clotho_audiocaps_base.ckpt")
NOT_MEASURED = {"spice": SPICE_MODELS, "spider": SPICE_MODELS, "fense": FENSE_MODELS}
"""Figures of other tables, and the weights that they take; never a number here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClothoConfig:
    """What `unibrivl bench clotho` was asked to do."""

    data: Path
    preset: str = "dcase2020"
    epochs: int | None = None
    """At most; None: the preset's."""
    limit: int | None = None
    """Clips of each split at most, for a first look."""
    meteor: bool = True
    """False: METEOR, which takes 2 GiB of memory, is left out."""
    cache: Path | None = None
    work: Path | None = None
    """Folder that keeps the decoder after every epoch; None: nothing is kept."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is not offered."""
        if self.preset not in PRESETS:
            raise ValueError(f"preset is {self.preset!r}, want one of {', '.join(PRESETS)}")
        check_ranges(self, limit=(2, None), seed=(0, 2**31 - 1))
        self.captioner()

    def captioner(self) -> CaptionerConfig:
        """Return the decoder's own configuration."""
        preset = PRESETS[self.preset]
        return preset if self.epochs is None else replace(preset, epochs=self.epochs)

    def protocol(self, has_validation: bool = True) -> str:
        """Return the protocol in words."""
        chooses = "validation split" if has_validation else "a drawn tenth of development (no validation split)"
        part = "" if self.epochs is None else f", {self.epochs} epochs at most"
        part += "" if self.limit is None else f", {self.limit} clips of each split at most"
        return (
            f"one transformer decoder on frozen embeddings of the clip and its seconds, preset {self.preset}; "
            f"{chooses} chooses the epoch by loss; evaluation split, PTB tokens, five references{part}"
        )


def measure_clotho(
    config: ClothoConfig, encoder: Embedder, progress: Progress = lambda done, total, text: None
) -> Result:
    """Train a decoder on an encoder that stays as it is, and score what it writes.

    Raises:
        NeedsError: a list, or every sound of a split, is missing.
        BenchError: a list is not Clotho's, a sound is not readable, the encoder takes none, or a package is missing.
    """
    check_programs(with_meteor=config.meteor)
    data = read_clotho(
        config.data, seed=config.seed, limit=config.limit, needs_sounds=not isinstance(encoder, KnownEncoder)
    )
    if len(data.test.names) < 2:
        raise BenchError(f"{config.data}: one evaluation clip; want several, or no caption is told from another")
    parts = features_of(encoder, (data.train, data.valid, data.test), config.cache, progress)
    words = Vocabulary.of(caption for own in data.train.captions for caption in own)
    model, place = _trained(config, data, parts, words, progress)
    written = _written(model, words, parts[2], progress)
    progress(len(written), len(written), "scoring")
    scores = _scores(data, written, config)
    return _result(config, encoder, data, written, scores, _chosen(model, place, words, parts, encoder))


def _trained(
    config: ClothoConfig, data: Clotho, parts: list[list[np.ndarray]], words: Vocabulary, progress: Progress
) -> tuple[Captioner, Place]:
    captioner = config.captioner()
    train, valid = (
        CaptionData(features, [words.encode(own, captioner.max_words) for own in clips.captions])
        for features, clips in zip(parts, (data.train, data.valid), strict=False)
    )
    return train_captioner(
        captioner, len(words.words), train, valid, seed=config.seed, work=config.work, progress=progress
    )


def _written(model: Captioner, words: Vocabulary, features: list[np.ndarray], progress: Progress) -> list[str]:
    captions = []
    for start in range(0, len(features), BATCH):
        captions += [words.decode(numbers) for numbers in model.write(features[start : start + BATCH])]
        progress(len(captions), len(features), "writing")
    return captions


def _scores(data: Clotho, written: list[str], config: ClothoConfig) -> dict[str, Any]:
    """Return the scores of what was `written`, of `chance`, of the `constant` caption, and the figures of `people`."""
    references, constant = data.test.captions, most_frequent(c for own in data.train.captions for c in own)
    people = [
        Round([own[number] for own in references], [own[:number] + own[number + 1 :] for own in references])
        for number in range(len(references[0]))
    ]
    chance = Round(others_captions(references, config.seed), references)
    alone = Round([constant] * len(written), references)
    found = score([Round(written, references), chance, alone, *people], with_meteor=config.meteor)
    human = {name: float(np.mean([s.figures[name] for s in found[3:]])) for name in found[0].figures}
    return {
        "written": found[0], "chance": found[1].figures, "people": human,
        "constant": found[2].figures | {"caption": constant},
    }  # fmt: skip


def others_captions(captions: tuple[tuple[str, ...], ...], seed: int) -> list[str]:
    """Return for each clip a drawn caption of another one, each of which serves once."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 4]))
    circle = rng.permutation(len(captions))
    other = np.empty(len(captions), dtype=np.int64)
    other[circle] = np.roll(circle, 1)
    return [captions[clip][int(rng.integers(len(captions[clip])))] for clip in other]


def _chosen(
    model: Captioner, place: Place, words: Vocabulary, parts: list[list[np.ndarray]], encoder: Embedder
) -> dict[str, Any]:
    return {
        "captioner": asdict(model.config), "dim": parts[0][0].shape[1], "fingerprint": encoder.fingerprint,
        "words": len(words.words),
        "chosen": {
            "epoch": place.best_epoch, "validation_loss": round(place.best_loss, 6), "epochs_made": place.epoch
        },
    }  # fmt: skip


def _result(
    config: ClothoConfig,
    encoder: Embedder,
    data: Clotho,
    written: list[str],
    scores: dict[str, Any],
    chosen: dict[str, Any],
) -> Result:
    found: CaptionScores = scores["written"]
    splits = (data.train, data.valid, data.test)
    is_whole = len(written) == EVALUATION_CLIPS and all(len(clips.names) == clips.listed for clips in splits)
    recordings = np.array(data.test.sounds)
    interval: dict[str, Any] = {n: bootstrap(found.by_clip[n], config.seed, recordings, digits=6) for n in MEANS}
    return Result(
        bench="clotho", protocol=config.protocol(data.has_validation), tower=encoder.name,
        metrics=_rounded(found.figures) | {"clips": len(written)}, chance=_rounded(scores["chance"]),
        oracle=_rounded(scores["people"]), coverage=_coverage(*splits), interval=interval | {"level": LEVEL},
        seed=config.seed, status="ok" if is_whole else "partial",
        config={"preset": config.preset, "limit": config.limit} | chosen,
        more={
            "constant": _rounded(scores["constant"]),
            "shared_recordings": len(set(data.train.sounds) & set(data.test.sounds)),
            "not_measured": {
                name: {"status": "needs-weights", "expected": list(files)} for name, files in NOT_MEASURED.items()
            },
        },
        predictions=_predictions(data.test, written, found),
    )  # fmt: skip


def _coverage(train: CaptionedClips, valid: CaptionedClips, test: CaptionedClips) -> dict[str, int]:
    told = {"clips": len(test.names), "listed": test.listed}
    for name, clips in (("development", train), ("validation", valid)):
        told |= {name: len(clips.names), f"{name}_listed": clips.listed}
    return told


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in figures.items()}


def _predictions(test: CaptionedClips, written: list[str], found: CaptionScores) -> pa.Table:
    return pa.table(
        {
            "item": list(test.names),
            "group": list(test.sounds),
            "caption": written,
            "references": [list(own) for own in test.captions],
            **found.by_clip,
        }
    )
