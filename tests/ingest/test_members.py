"""Checks that a stored sample tells of itself what was noted when it was made."""

import json
from dataclasses import replace

import numpy as np
import pytest

from unibrivl.ingest.clips import Clip, Event
from unibrivl.ingest.decoded import DecodeConfig, DecodedClip
from unibrivl.ingest.members import DESCRIBED, describe_sample, encode_clip, planned_row
from unibrivl.ingest.quality import flags, measure_audio, measure_frame
from unibrivl.ingest.recipe import Recipe
from unibrivl.shards import ShardError
from unibrivl.shards.tarindex import sample_bytes

CLIP = Clip(corpus="gen", media_id="a", start_ms=0, end_ms=1000, labels=("x",), events=(Event(0, 5, "x"),), caption="É")
MADE = {"num_samples": 16_000, "duration_ms": 1000, "pad_ms": 3, "frame_pts_ms": 480, "frame_is_key": True}


def decoded(seed: int, *, black: bool = False) -> DecodedClip:
    rng = np.random.default_rng(seed)
    slopes = np.add.outer(np.arange(64), 2 * np.arange(64))
    frame = np.repeat((0 if black else 1) * slopes.astype(np.uint8)[:, :, None], 3, axis=2)
    return DecodedClip(
        audio=rng.integers(-32768, 32768, 16_000, np.int16), frames=(frame, frame[::2, ::2]), pad_ms=3,
        frame_pts_ms=480, frame_is_key=True, decode_errors=0, video_codec="h264", audio_codec="aac",
        width=64, height=64, fps=25.0,
    )  # fmt: skip


@pytest.mark.parametrize("audio", ["flac", "wav"])
@pytest.mark.parametrize("seed", range(3))
def test_what_a_sample_tells_of_itself_is_what_was_noted(seed: int, audio: str) -> None:
    recipe = Recipe(decode=DecodeConfig(frame_sizes=(64, 32)), audio=audio)
    clip = decoded(seed)
    measures = measure_audio(clip.audio) | measure_frame(clip.frames[0])
    row, members = encode_clip(CLIP, clip, MADE | measures | {"flags": flags(measures)}, recipe)
    assert list(members) == [audio, "jpg", "32.jpg", "json"]
    said = planned_row(CLIP) | {name: MADE[name] for name in DESCRIBED}
    assert json.loads(members["json"]) == said | {"labels": list(CLIP.labels)}
    told = describe_sample(sample_bytes(CLIP.key, members), CLIP.key, recipe)
    for name in ("frame_luma_mean", "frame_luma_std"):
        assert abs(told.pop(name) - row[name]) < 1  # a JPEG of quality 95
    assert told.pop("frame_dhash") is None
    assert told == {name: row[name] for name in told}
    assert {name for name in row if name not in told} == {
        "src_video_codec", "src_audio_codec", "src_width", "src_height", "src_fps", "decode_errors",
        "frame_luma_mean", "frame_luma_std", "frame_dhash",
    }  # fmt: skip


def test_a_clip_that_came_had_no_flag_that_the_recipe_drops() -> None:
    clip, recipe = decoded(0, black=True), Recipe(decode=DecodeConfig(frame_sizes=(64, 32)))
    _, members = encode_clip(CLIP, clip, MADE, recipe)
    span = sample_bytes(CLIP.key, members)
    assert {"black_frame", "flat_frame"} <= set(describe_sample(span, CLIP.key, recipe)["flags"])
    assert "black_frame" not in describe_sample(span, CLIP.key, replace(recipe, drop=("black_frame",)))["flags"]


@pytest.mark.parametrize("harm", ["flac", "jpg", "json", "header"])
def test_a_sample_that_does_not_decode_is_an_error(harm: str) -> None:
    recipe = Recipe(decode=DecodeConfig(frame_sizes=(64, 32)))
    _, members = encode_clip(CLIP, decoded(0), MADE, recipe)
    span = sample_bytes(CLIP.key, members | ({harm: b"no"} if harm != "header" else {}))
    with pytest.raises(ShardError, match=CLIP.key):
        describe_sample(b"\1" * 512 + span[512:] if harm == "header" else span, CLIP.key, recipe)
