"""Clips of a shard set as cards for a page: picture, sound and facts, within a bound on the sound they carry."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
from PIL import Image

from ..shards import ClipShards, Sample, ShardError, epoch_order
from ..shards.labels import Ontology

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers

PICTURE_PX = 256
"""Longest side of a picture on a page; larger ones are made smaller."""
SOUNDS = {"flac": "audio/flac", "wav": "audio/wav"}
"""Member extension to media type."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipCard:
    """A clip as a page shows it."""

    key: str
    title: str
    """Its caption, else its labels, else its key."""
    labels: str
    """Names of its labels, empty for none or where they are the title."""
    facts: str
    """Split, length, language."""
    note: str
    """Why it is shown, such as its level; empty for no reason."""
    picture: str
    """A data: address; empty where the clip cannot be read."""
    sound: str
    """A data: address; empty where it was not asked for, did not fit the page, or cannot be read."""
    problem: str
    """What is wrong with the clip or missing from its card; empty for nothing."""


class ClipCards:
    """Makes cards, each with its player as long as the sounds fit into `max_audio_bytes`."""

    def __init__(
        self, clips: ClipShards | None, rows: pa.Table, *, max_audio_bytes: int, ontology: Ontology | None
    ) -> None:
        """Prepare cards of `clips`, None where nothing came; `rows` has a row a planned clip."""
        self._clips, self._rows, self._ontology = clips, rows, ontology
        self._left_bytes = max_audio_bytes
        self.silenced = 0
        """Cards that had no room for their player."""

    def label_name(self, label: str) -> str:
        """Return the name of a label: that of its class, or the label itself."""
        known = self._ontology is not None and label in self._ontology
        return self._ontology.name(label) if known else label  # type: ignore[union-attr]

    def make(self, keys: Sequence[str], notes: Sequence[str] = (), *, sound: bool = True) -> list[ClipCard]:
        """Return the cards of `keys` in their order; `notes` says why each is shown."""
        if not keys or self._clips is None:
            return []
        wanted = pa.array(keys, pa.string())
        rows = self._rows.take(pc.index_in(wanted, value_set=self._rows["key"])).to_pylist()
        places = pc.index_in(wanted, value_set=self._clips.catalog.table["key"]).to_pylist()
        return [
            self._card(row, place, note, sound)
            for row, place, note in zip(rows, places, [*notes] or [""] * len(keys), strict=True)
        ]

    def _card(self, row: dict[str, Any], place: int, note: str, sound: bool) -> ClipCard:
        picture = player = problem = ""
        try:
            assert self._clips is not None
            sample = self._clips[place]
            picture = _data_address("image/jpeg", _small_picture(sample))
            player = self._player(sample) if sound else ""
            problem = "no room for its player" if sound and not player else ""
        except ShardError as e:
            problem = str(e)
        labels = ", ".join(self.label_name(label) for label in row["labels"] or [])
        title = row["caption"] or labels or row["key"]
        duration = f"{(row['duration_ms'] or 0) / 1000:.4g} s"
        return ClipCard(
            key=row["key"], title=title, labels="" if title == labels else labels,
            facts=" · ".join(fact for fact in (row["split"], duration, row["language"]) if fact), note=note,
            picture=picture, sound=player, problem=problem,
        )  # fmt: skip

    def _player(self, sample: Sample) -> str:
        name, data = next((name, sample.members[name]) for name in SOUNDS if name in sample.members)
        if len(data) > self._left_bytes:
            self.silenced += 1
            return ""
        self._left_bytes -= len(data)
        return _data_address(SOUNDS[name], data)


def draw_keys(rows: pa.Table, count: int, seed: int) -> list[str]:
    """Draw `count` keys of the clips that came, or all if there are fewer; the same for any order of the rows."""
    keys = sorted(rows.filter(pc.field("status") == "ok")["key"].to_pylist())
    return [keys[i] for i in epoch_order(len(keys), seed=seed, epoch=0)[:count].tolist()]


def open_clips(root: Path, rows: pa.Table) -> ClipShards | None:
    """Open the set at `root`, or return None where no clip came, since a reader refuses that."""
    came = pc.any(pc.equal(rows["status"], "ok")).as_py()
    return ClipShards(root) if came else None


def _small_picture(sample: Sample) -> bytes:
    data = sample.members["jpg"]
    frame = sample.frame()
    if max(frame.shape[:2]) <= PICTURE_PX:
        return data
    image, buffer = Image.fromarray(frame), io.BytesIO()
    image.thumbnail((PICTURE_PX, PICTURE_PX))
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _data_address(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
