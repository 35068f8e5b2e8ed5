"""Cards: rows become what a person sees, with the clip's own sound and picture."""

import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from unibrivl.index.cards import clip_card, query_page
from unibrivl.index.clips import stored_sample
from unibrivl.index.page import render
from unibrivl.index.query import Asked, QueryConfig, ask
from unibrivl.index.snapshot import open_snapshot
from unibrivl.model.embed import Encoder
from unibrivl.shards import ClipShards, ShardError


def test_a_row_leads_to_its_clip(index: Path, shards: Path) -> None:
    snapshot = open_snapshot(index)
    with ClipShards(shards) as clips:
        for modality in ("audio", "image"):
            for row in snapshot.items(modality).rows.to_pylist()[::7]:
                assert stored_sample(snapshot, row) == clips[row["row"]]


def test_a_card_says_what_the_row_says(index: Path) -> None:
    snapshot = open_snapshot(index)
    row = snapshot.items("image").rows.slice(4, 1).to_pylist()[0]
    card = clip_card(snapshot, row | {"language": "fr"}, score=0.25, rank=3, is_true=True)
    assert (card.title, card.key) == (row["caption"], row["key"])
    assert card.subtitle == "tone, block · fr · 0 to 1 s"
    assert (card.score, card.rank, card.is_true) == (0.25, 3, True)
    assert Image.open(io.BytesIO(card.image)).size == (64, 64)
    sound, rate = soundfile.read(io.BytesIO(card.audio))
    assert rate == 16_000 and len(sound) == 16_000
    bare = clip_card(snapshot, row | {"caption": "", "labels": [], "start_ms": 1500})
    assert (bare.title, bare.subtitle, bare.score) == (row["key"], "1.5 to 1 s", None)


def test_shards_that_moved_are_named(index: Path, tmp_path: Path) -> None:
    shutil.copytree(index, tmp_path / "index")
    snapshot = open_snapshot(tmp_path / "index")
    row = snapshot.items("image").rows.slice(0, 1).to_pylist()[0]
    with pytest.raises(FileNotFoundError, match=re.escape(row["shard"])):
        stored_sample(snapshot, row)


def test_a_damaged_shard_is_named(index: Path, shards: Path, tmp_path: Path) -> None:
    shutil.copytree(index, tmp_path / "index")
    shutil.copytree(shards, tmp_path / "shards")
    snapshot = open_snapshot(tmp_path / "index")
    rows = snapshot.items("image").rows.to_pylist()
    with pytest.raises(ShardError, match=r"\.tar: another clip|\.tar: .*damaged|\.tar: .*cut"):
        stored_sample(snapshot, rows[0] | {"tar_offset": rows[1]["tar_offset"], "tar_len": rows[1]["tar_len"]})
    path = tmp_path / "shards" / "shards" / f"{rows[0]['shard']}.tar"
    path.write_bytes(path.read_bytes()[: rows[0]["tar_offset"] + 700])
    with pytest.raises(ShardError, match=r"\.tar"):
        stored_sample(snapshot, rows[0])


def test_a_combined_question_is_shown_with_its_sound_and_picture(
    index: Path, tmp_path: Path, one_encoder: Encoder
) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(8000, np.float32), 16_000)
    item = open_snapshot(index).segments[0].rows["item_id"][3].as_py()
    asked = (
        Asked(kind="audio", value=str(tmp_path / "a.wav"), weight=0.5), Asked(kind="item", value=item, minus=True),
        Asked(kind="item", value=item),
    )  # fmt: skip
    engine, result = ask(QueryConfig(index=index, asked=asked, k=2))
    page = query_page(QueryConfig(index=index, asked=asked, k=2), engine.snapshot, result)
    query = page.questions[0].query
    assert query.title == f"0.5 a.wav -{item} +{item}"
    assert query.image is not None and query.audio is not None
    assert item in render(page)


@pytest.mark.parametrize("asked", ["audio", "image"])
def test_the_page_of_a_query_renders(index: Path, tmp_path: Path, one_encoder: Encoder, asked: str) -> None:
    path = tmp_path / "my <question>"
    if asked == "audio":
        soundfile.write(path, np.zeros(8000, np.float32), 44_100, format="WAV")
    else:
        Image.new("RGBA", (300, 200), (9, 9, 9, 100)).save(path, "PNG")
    config = QueryConfig(index=index, asked=(Asked(kind=asked, value=str(path)),), k=3)
    engine, result = ask(config)
    page = query_page(config, engine.snapshot, result)
    assert [question.answer_modality for question in page.questions] == ["image", "audio"]
    for question in page.questions:
        assert question.query_modality == asked and question.true_rank is None and question.gallery == 24
        found = result.results[question.answer_modality]
        assert [(c.rank, c.key, c.score) for c in question.answers] == [(a.rank, a.key, a.score) for a in found]
    query = page.questions[0].query
    assert (query.audio is None, query.image is None) == (asked == "image", asked == "audio")
    html = render(page)
    assert "my &lt;question&gt;" in html and "<question>" not in html
    assert html.count("data:image/jpeg") >= 6 and html.count("data:audio/flac") >= 6
    assert dict(page.facts)["snapshot"] == result.snapshot
