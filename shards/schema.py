"""The shard format, version 1: keys, members and the columns of the sidecar table.

A sample is one clip: `{key}.flac` (or `.wav`), `{key}.jpg`, `{key}.json`, in that order. A shard is a tar of
samples, its byte index, a Parquet sidecar with one row for every planned clip, and a commit file
(docs/shards.md has a real example of each).
"""

import re

import pyarrow as pa

FORMAT_VERSION = 1
SAMPLE_RATE = 16_000
"""Hz; the rate of every stored sound (SpeechLM's input)."""

KEY_PATTERN = re.compile(r"^[a-z][a-z0-9]{0,15}_[A-Za-z0-9_-]{1,64}_[0-9]{9}$")
MEDIA_ID_PATTERN = re.compile(r"^[A-Za-z0-9_-]{1,64}$")
CORPUS_PATTERN = re.compile(r"^[a-z][a-z0-9]{0,15}$")
SPLIT_PATTERN = re.compile(r"^[a-z][a-z0-9]{0,31}$")

EVENTS_TYPE = pa.list_(pa.struct([("start_ms", pa.int64()), ("end_ms", pa.int64()), ("label", pa.string())]))
"""Strong labels: what sounds from when to when, in ms from the clip's start."""

SIDECAR_SCHEMA = pa.schema(
    [
        # what was planned
        ("key", pa.string()),
        ("corpus", pa.string()),
        ("media_id", pa.string()),
        ("source", pa.string()),
        ("start_ms", pa.int64()),
        ("end_ms", pa.int64()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("events", EVENTS_TYPE),
        ("caption", pa.string()),
        ("language", pa.string()),
        ("license", pa.string()),
        # what came of it
        ("status", pa.string()),
        ("error_code", pa.string()),
        ("error_detail", pa.string()),
        ("src_sha256", pa.string()),
        ("src_video_codec", pa.string()),
        ("src_audio_codec", pa.string()),
        ("src_width", pa.int32()),
        ("src_height", pa.int32()),
        ("src_fps", pa.float32()),
        ("num_samples", pa.int64()),
        ("duration_ms", pa.int64()),
        ("pad_ms", pa.int64()),
        ("frame_pts_ms", pa.int64()),
        ("frame_is_key", pa.bool_()),
        ("decode_errors", pa.int32()),
        # measures of quality, never a reason to drop a clip by themselves
        ("rms_dbfs", pa.float32()),
        ("peak_dbfs", pa.float32()),
        ("silent_ratio", pa.float32()),
        ("clip_ratio", pa.float32()),
        ("frame_luma_mean", pa.float32()),
        ("frame_luma_std", pa.float32()),
        ("flags", pa.list_(pa.string())),
        ("audio_fp", pa.uint64()),
        ("frame_dhash", pa.uint64()),
        # where the sample lies in the tar, and the content of its two parts
        ("tar_offset", pa.int64()),
        ("tar_len", pa.int64()),
        ("audio_sha256", pa.string()),
        ("frame_sha256", pa.string()),
        ("sample_xxh3", pa.uint64()),
    ]
)
"""One row a planned clip; columns that do not apply to a failed clip are null."""


PLAN_SCHEMA = pa.schema(
    [
        pa.field(name, SIDECAR_SCHEMA.field(name).type)
        for name in (
            "corpus", "media_id", "source", "start_ms", "end_ms", "split", "group", "labels", "events", "caption",
            "language", "license",
        )
    ]
)  # fmt: skip
"""What a plan says of a clip, nothing null; its file has `key`, `shard` and `slot` beside these columns."""
ROUND_PATTERN = re.compile(r"-r(\d{2})-\d{6}$")
"""The end of a patch shard's name; the group is the round of its retry."""


def make_key(corpus: str, media_id: str, start_ms: int) -> str:
    """Return the key of a clip: `{corpus}_{media_id}_{start in ms, nine digits}`.

    Raises:
        ValueError: a part does not fit `KEY_PATTERN`.
    """
    key = f"{corpus}_{media_id}_{start_ms:09d}"
    if not KEY_PATTERN.fullmatch(key) or not CORPUS_PATTERN.fullmatch(corpus):
        raise ValueError(f"{key!r} is no clip key: want corpus_id_start, as in as_--PJHxphWEs_000030000")
    return key


def split_key(key: str) -> tuple[str, str, int]:
    """Take a key apart from both ends (a media id may hold `_`): corpus, media id, start in ms."""
    if not KEY_PATTERN.fullmatch(key):
        raise ValueError(f"{key!r} is no clip key: want corpus_id_start, as in as_--PJHxphWEs_000030000")
    corpus, rest = key.split("_", 1)
    media_id, start_ms = rest.rsplit("_", 1)
    return corpus, media_id, int(start_ms)


def shard_name(corpus: str, split: str, number: int, *, retry: int = 0) -> str:
    """Return the stem that the four files of a shard share; a patch shard carries the round of its retry."""
    return f"{corpus}-{split}-{f'r{retry:02d}-' if retry else ''}{number:06d}"
