"""A clip as the members of its sample, both ways: encoded after decoding, and described again where its row is lost."""

import hashlib
import io
import json
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from ..shards import SAMPLE_RATE, Sample
from ..shards.tarindex import parse_members
from .clips import Clip
from .decoded import DecodedClip
from .quality import flags, measure_audio, measure_frame
from .recipe import AUDIO_CODECS, JPEG_QUALITY, Recipe

Row = dict[str, Any]

DESCRIBED = ("num_samples", "duration_ms", "pad_ms", "frame_pts_ms", "frame_is_key")
"""Columns that a sample's own description keeps beside those of the plan."""


def planned_row(clip: Clip) -> Row:
    """Return the sidecar columns that the plan decides."""
    names = ("key", "corpus", "media_id", "source", "start_ms", "end_ms", "split")
    names += ("labels", "caption", "language", "license")
    row = {name: getattr(clip, name) for name in names}
    return row | {"group": clip.group or clip.media_id, "events": [event._asdict() for event in clip.events]}


def encode_clip(clip: Clip, decoded: DecodedClip, made: Row, recipe: Recipe) -> tuple[Row, dict[str, bytes]]:
    """Encode a decoded clip; return the sidecar columns that this fills, `made` included, and the sample's members."""
    audio, frames = _sound(decoded.audio, recipe.audio), [_jpeg(frame) for frame in decoded.frames]
    info = planned_row(clip) | {name: made[name] for name in DESCRIBED}
    members = {recipe.audio: audio}
    for number, (size, frame) in enumerate(zip(recipe.decode.frame_sizes, frames, strict=True)):
        members[f"{size}.jpg" if number else "jpg"] = frame
    members["json"] = json.dumps(info, sort_keys=True, ensure_ascii=False).encode()
    return made | _content(audio, frames[0]) | {
        "src_video_codec": decoded.video_codec,
        "src_audio_codec": decoded.audio_codec,
        "src_width": decoded.width,
        "src_height": decoded.height,
        "src_fps": decoded.fps,
        "decode_errors": decoded.decode_errors,
    }, members  # fmt: skip


def describe_sample(span: bytes, key: str, recipe: Recipe) -> Row:
    """Return the sidecar columns that a stored sample itself still tells; those of its medium are not among them.

    The sound is stored without loss, so its measures are those of ingestion. The picture's luma is that of the JPEG,
    within a step of what was measured; its hash is left out, since JPEG turned 9 of 64 bits of a flat test picture
    and alike ones are looked for within 3. A clip that came had no flag that the recipe drops.

    Raises:
        ShardError: the span is no sample of `key`, or does not decode.
    """
    members = parse_members(span, key)
    sample = Sample(key, members)
    info, frame = sample.info(), sample.frame()
    samples = np.round(sample.audio() * 32768).astype(np.int16)  # exact: 16 bits fit into a float's 24
    measures = measure_audio(samples) | measure_frame(frame)
    measures["frame_dhash"] = None
    noted = [flag for flag in flags(measures) if flag not in recipe.drop]
    known = {name: info[name] for name in DESCRIBED if name in info}
    return known | measures | {"flags": noted} | _content(members[recipe.audio], members["jpg"])


def _content(audio: bytes, frame: bytes) -> Row:
    return {
        "status": "ok",
        "audio_sha256": hashlib.sha256(audio).hexdigest(),
        "frame_sha256": hashlib.sha256(frame).hexdigest(),
    }


def _sound(samples: np.ndarray, codec: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format=AUDIO_CODECS[codec], subtype="PCM_16")
    return buffer.getvalue()


def _jpeg(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
