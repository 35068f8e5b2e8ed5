"""The tables that measure a tower on a data set, by name: where the data lie, and how they are measured.

A further table is one more line of `REGISTRY`. From Python, `measure_table` measures any object that embeds
(`encoders.py`), by the same protocol as the table's own command.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..shards.checks import check_ranges
from .clotho import ClothoConfig, measure_clotho
from .desed_detection import DesedConfig, measure_desed
from .doctor import DATASETS, DataSet
from .encoders import Embedder, content_key, embeds
from .errors import BenchError
from .esc50 import list_esc50
from .folds import FoldedSounds, FrozenConfig, check_way, measure_frozen
from .protocol import Progress, Result
from .urbansound8k import list_urbansound8k
from .vggsound_classes import VggsoundConfig, measure_vggsound
from .vggsound_retrieval import VggsoundRetrievalConfig, measure_vggsound_retrieval


@dataclass(frozen=True, kw_only=True, slots=True)
class TableConfig:
    """What all tables are asked for alike; what else a protocol leaves open is as its own command has it."""

    probe: str = "l3"
    """`l3`, `hear`, or `zero-shot`, of tables that tell classes apart."""
    template: str = "laion"
    """Of zero-shot's headline."""
    seed: int = 0
    cache: Path | None = None
    """Folder for embeddings, which all tables share."""

    def __post_init__(self) -> None:
        """Refuse what is not offered."""
        check_ranges(self, seed=(0, 2**31 - 1))
        check_way(self.probe, self.template)

    def stored(self) -> dict[str, Any]:
        """Return what decides a figure, but for the seed."""
        return {name: value for name, value in asdict(self).items() if name not in ("seed", "cache")}


Measure = Callable[[Path, Embedder, TableConfig, Progress], Result]
"""Measures an encoder on the data set in a folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableEntry:
    """A table of the registry."""

    name: str
    """Of its result file."""
    dataset: str
    """Its name in `doctor.DATASETS`, which says where it may lie."""
    measure: Measure
    bench: str = ""
    """Of the result, where it is not the name."""
    modalities: tuple[str, ...] = ("audio",)
    """What the protocol cannot do without."""
    tells_classes: bool = True
    """Whether `probe` is asked for, of which `zero-shot` needs words."""
    variant: str = "bench all"
    """What the protocol of a row without a figure begins with: the part of the data set, where a bench has several."""

    @property
    def place(self) -> DataSet:
        """Return the data set as the doctor looks for it."""
        return next(dataset for dataset in DATASETS if dataset.name == self.dataset)

    def lacks(self, encoder: Embedder, probe: str) -> str | None:
        """Return a modality of the protocol that an encoder does not take."""
        asked = (*self.modalities, *(["text"] if self.tells_classes and probe == "zero-shot" else []))
        return next((modality for modality in asked if not embeds(encoder, modality)), None)


def measure_table(
    name: str,
    data: Path,
    encoder: Embedder,
    config: TableConfig | None = None,
    progress: Progress = lambda done, total, text: None,
) -> Result:
    """Measure an encoder of anybody's on one table.

    Args:
        name: of the table.
        data: folder of its data set, in the official layout.
        encoder: any object as `encoders.py` describes it.
        config: the choices; by default those of the commands.
        progress: called as the work goes on.

    Raises:
        NeedsError: the data set is not there.
        BenchError: it is damaged, the encoder does not take what the table asks for, or returns what is no embedding.
    """
    return entry_of(name).measure(data, encoder, config or TableConfig(), progress)


def entry_of(name: str) -> TableEntry:
    """Return a table of the registry."""
    found = next((entry for entry in REGISTRY if entry.name == name), None)
    if found is None:
        raise BenchError(f"there is no table {name!r}; want one of {', '.join(entry.name for entry in REGISTRY)}")
    return found


def _folded(bench: str, listing: Callable[[Path], FoldedSounds]) -> Measure:
    def measure(data: Path, encoder: Embedder, config: TableConfig, progress: Progress) -> Result:
        sounds = listing(data)
        return measure_frozen(bench, sounds, encoder, sounds.official, FrozenConfig(**asdict(config)), progress)

    return measure


def _vggsound(data: Path, encoder: Embedder, config: TableConfig, progress: Progress) -> Result:
    return measure_vggsound(VggsoundConfig(data=data, **asdict(config)), encoder, progress)


def _vggsound_retrieval(data: Path, encoder: Embedder, config: TableConfig, progress: Progress) -> Result:
    own = VggsoundRetrievalConfig(data=data, cache=config.cache, seed=config.seed)
    return measure_vggsound_retrieval(own, encoder, progress)


def _desed(subset: str) -> Measure:
    def measure(data: Path, encoder: Embedder, config: TableConfig, progress: Progress) -> Result:
        return measure_desed(DesedConfig(data=data, subset=subset, **asdict(config)), encoder, progress)

    return measure


def _clotho(data: Path, encoder: Embedder, config: TableConfig, progress: Progress) -> Result:
    work = None
    if config.cache is not None:  # a decoder takes hours: a killed one goes on
        work = config.cache / f"captioner-{content_key(encoder.fingerprint.encode())[:16]}-{config.seed}"
    own = ClothoConfig(data=data, cache=config.cache, work=work, seed=config.seed)
    return measure_clotho(own, encoder, progress)


BOTH = ("audio", "image")
REGISTRY = (
    TableEntry(name="esc50", dataset="ESC-50", measure=_folded("esc50", list_esc50)),
    TableEntry(name="esc10", dataset="ESC-10", measure=_folded("esc50", list_esc50), bench="esc50"),
    TableEntry(name="urbansound8k", dataset="UrbanSound8K", measure=_folded("urbansound8k", list_urbansound8k)),
    TableEntry(name="vggsound", dataset="VGGSound, test", measure=_vggsound),
    TableEntry(
        name="vggsound-retrieval", dataset="VGGSound, test", measure=_vggsound_retrieval, modalities=BOTH,
        tells_classes=False,
    ),
    *(
        TableEntry(
            name=f"desed-{name}", dataset=f"DESED, {title}", measure=_desed(subset), bench="desed", variant=subset
        )
        for name, title, subset in (
            ("synthetic", "synthetic validation", "synth21-val"), ("real", "validation", "real-val"),
            ("public", "public evaluation", "public-eval"),
        )
    ),
    TableEntry(name="clotho", dataset="Clotho, evaluation", measure=_clotho, tells_classes=False),
)  # fmt: skip
"""In the order in which they are measured and shown."""
