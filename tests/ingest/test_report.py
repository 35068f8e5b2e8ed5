"""The report without a browser: what it counts, shows, refuses, leaves out, and that strangers' texts stay texts."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from unibrivl.ingest import report
from unibrivl.ingest.errors import IngestError
from unibrivl.ingest.report import write_report
from unibrivl.shards import ShardError, ShardWriter, make_key
from unibrivl.shards.catalog import write_dataset
from unibrivl.shards.schema import shard_name

PLAN = "0" * 64
HOSTILE = "<script>alert(1)</script>\"'><img src=https://evil.example/x onerror=alert(1)> \u202emarks & </style>"
URL_ATTRIBUTES = {"src", "srcset", "href", "action", "formaction", "poster", "data", "background", "cite", "ping"}


class Outline(HTMLParser):
    """Tags with attributes, and the texts under each tag name."""

    VOID = frozenset({"meta", "link", "img"})

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self._open = [], {}, []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and data.strip():
            self.texts.setdefault(self._open[-1], []).append(data)

    def find(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def members(number, side=16, sound="flac", seconds=0.1):
    """Return a tone and a picture of their own, as stored."""
    samples = np.random.default_rng(number).integers(-9000, 9000, round(16000 * seconds), np.int16)
    audio, picture = io.BytesIO(), io.BytesIO()
    soundfile.write(audio, samples, 16000, format=sound.upper(), subtype="PCM_16")
    Image.new("RGB", (side, side), (9 * number % 256, 90, 200)).save(picture, "JPEG", quality=95)
    return {sound: audio.getvalue(), "jpg": picture.getvalue()}


MEASURES = {"num_samples": 1600, "duration_ms": 100, "pad_ms": 0, "frame_is_key": True, "decode_errors": 0}
MEASURES |= {"src_video_codec": "h264", "src_audio_codec": "aac", "src_width": 640, "src_height": 360, "src_fps": 25.0}
MEASURES |= {"silent_ratio": 0.0, "clip_ratio": 0.0, "frame_luma_std": 40.0, "flags": []}


@pytest.fixture
def make_set(tmp_path):
    """Return a function that writes a set of one shard from what each clip has of its own, and from waiting clips."""

    def write(*clips, waiting=0, **media):
        root = tmp_path / "set"
        (root / "shards" / "train").mkdir(parents=True)
        (root / "plan").mkdir()
        write_dataset(root, {"plan_sha256": PLAN, "seed": 0, "audio": {"codec": "flac"}})
        keys = [make_key("as", f"m{n}", 1000 * n) for n in range(len(clips) + waiting)]
        columns = {"key": pa.array(keys, pa.string()), "split": pa.array(["train"] * len(keys), pa.string())}
        pq.write_table(pa.table(columns), root / "plan" / "plan-00000.parquet")
        rows = []
        with ShardWriter(root / "shards" / "train", shard_name("as", "train", 0)) as writer:
            for number, (key, own) in enumerate(zip(keys, clips, strict=False)):
                row = {"key": key, "corpus": "as", "media_id": f"m{number}", "source": f"m{number}.mp4"}
                row |= {"start_ms": 0, "end_ms": 100, "split": "train", "group": "", "labels": [], "events": []}
                row |= {"caption": "", "language": "", "license": ""}
                if "error_code" in own:
                    rows.append(row | {"status": "failed"} | own)
                    continue
                stored = members(number, **media)
                info = json.dumps({"key": key}).encode()
                measures = {"rms_dbfs": -20.0 - number, "peak_dbfs": -3.0, "frame_luma_mean": 100.0 + number}
                measures |= {"audio_sha256": f"{number:064x}", "frame_sha256": f"{number:064x}"}
                rows.append(
                    row | MEASURES | measures | {"status": "ok"} | own | writer.add(key, stored | {"json": info})
                )
            if clips:
                writer.commit(split="train", plan_sha256=PLAN, rows=rows)
        return root

    return write


@pytest.fixture
def page_of(tmp_path):
    """Return a function from a set to the text of its report."""

    def write(root, **options):
        write_report(root, tmp_path / "report.html", **options)
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return write


@pytest.fixture
def hostile(make_set):
    texts = {"caption": HOSTILE, "labels": [HOSTILE], "language": HOSTILE, "license": HOSTILE, "source": HOSTILE}
    failed = {"error_code": HOSTILE, "error_detail": HOSTILE}
    return make_set(texts | {"flags": [HOSTILE], "src_video_codec": HOSTILE}, texts | failed)


def visible(html):
    """Return the texts of a page in one line, without its style."""
    body = html.split("</head>", 1)[1]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


def shown(html):
    """Return the keys of the clips that have a card, in order; clips without words are called by their keys."""
    return re.findall(r'alt="Picture of (as_m\d+)_', html)


def test_hostile_text_stays_text(hostile, page_of):
    outline = Outline(page_of(hostile.rename(hostile.with_name(HOSTILE.replace("/", "|")))))
    assert not outline.find("script")
    assert not [a for _, a in outline.tags if any(name.startswith("on") for name in a)]
    for tag in ("p", "span"):
        assert HOSTILE in outline.texts[tag], tag
    for tag in ("h1", "title"):
        assert outline.texts[tag][0] == f"Shard set {HOSTILE.replace('/', '|')}", tag


def test_every_reference_stays_inside_the_file(hostile, page_of):
    outline = Outline(page_of(hostile))
    ids = [a["id"] for _, a in outline.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in outline.tags:
        assert "style" not in attributes
        for name, value in attributes.items():
            if name in URL_ATTRIBUTES:
                assert value.startswith("data:") or value.removeprefix("#") in ids
            if name == "aria-labelledby":
                assert value in ids


def test_policy_matches_the_style_and_allows_nothing_else(make_set, page_of):
    html = page_of(make_set({}))
    style = html.split("<style>", 1)[1].split("</style>", 1)[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = [a["content"] for a in Outline(html).find("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert dict(rule.strip().split(" ", 1) for rule in policy.split(";")) == {
        "default-src": "'none'",
        "img-src": "data:",
        "media-src": "data:",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert "url(" not in style and "@import" not in style and "</" not in style


def test_the_bar_is_made_of_everything_that_was_planned(make_set, page_of):
    failed = [{"error_code": "media.no_audio", "error_detail": "no sound"}] * 2
    html = page_of(make_set({}, {}, {}, *failed, waiting=5))
    bar = html.split('<svg class="whole"', 1)[1].split("</svg>", 1)[0]
    parts = [(a["class"], a["x"], a["width"]) for a in Outline(f"<svg{bar}</svg>").find("rect")]
    assert parts == [
        ("ok", "0.000%", "30.000%"),
        ("media", "30.000%", "20.000%"),
        ("waiting", "50.000%", "50.000%"),
    ]
    assert "3 of 10 planned clips came; 2 failed" in visible(html)


def test_a_reason_is_explained_and_has_at_most_three_examples(make_set, page_of):
    codes = ["local.missing_file"] * 5 + ["transient.network"]
    failed = [{"error_code": code, "error_detail": f"detail {n}"} for n, code in enumerate(codes)]
    text = visible(page_of(make_set({}, *failed)))
    assert "The media folder has no file for the clip. Mend the media folder" in text
    assert "a retry has good chances" in text
    assert [n for n in range(6) if f"detail {n}" in text] == [0, 1, 2, 5]
    assert "3 examples" in text and "an example" in text


@pytest.mark.parametrize(
    ("clips", "waiting", "words"),
    [
        ([], 0, "0 of 0 planned clips came."),
        ([], 4, "0 of 4 planned clips came; 4 belong to shards that are not made yet."),
    ],
)
def test_a_set_without_a_clip_has_a_page_too(make_set, page_of, clips, waiting, words):
    html = page_of(make_set(*clips, waiting=waiting))
    assert words in visible(html)
    outline = Outline(html)
    assert not outline.find("audio") and not outline.find("figure")
    assert "nothing came yet" in html and "no clip to show" in html


def test_a_clip_is_shown_with_all_that_is_known_of_it(make_set, page_of):
    root = make_set({"caption": "A dog barks.", "labels": ["dog", "bark"], "language": "en", "rms_dbfs": -33.25})
    html = page_of(root)
    text = visible(html)
    for words in ("A dog barks.", "dog, bark", "train · 0.1 s · en", "as_m0_000000000", "\u221233.2 dBFS"):
        assert words in text, words
    outline = Outline(html)
    assert {a["alt"] for a in outline.find("img")} == {"Picture of A dog barks."}
    assert {a["aria-label"] for a in outline.find("audio")} == {"Sound of A dog barks."}
    stored = members(0)
    assert {base64.b64decode(a["src"].split(",", 1)[1]) for a in outline.find("audio")} == {stored["flac"]}
    assert {a["src"].split(",", 1)[0] for a in outline.find("audio")} == {"data:audio/flac;base64"}


def test_each_card_has_the_sound_and_picture_of_its_own_clip(make_set, page_of):
    failed = {"error_code": "media.no_audio", "error_detail": "no sound"}
    sheet = page_of(make_set(failed, {}, failed, {})).split('id="sheet"', 1)[1]
    outline = Outline(f"<main>{sheet.split('<ul', 1)[1].split('</ul>', 1)[0].split('>', 1)[1]}</main>")
    for tag, kind in (("audio", "flac"), ("img", "jpg")):
        names = [a.get("alt") or a["aria-label"] for a in outline.find(tag)]
        data = [base64.b64decode(a["src"].split(",", 1)[1]) for a in outline.find(tag)]
        numbers = [int(re.search(r"as_m(\d)", name)[1]) for name in names]
        assert sorted(numbers) == [1, 3] and data == [members(n)[kind] for n in numbers]


def test_the_ends_of_each_measure_are_shown_in_order(make_set, page_of):
    levels = [-20.0, -70.0, -30.0, -70.0, -10.0, -40.0]
    html = page_of(make_set(*({"rms_dbfs": level, "pad_ms": n % 2} for n, level in enumerate(levels))), clips=0)
    part = html.split("The quietest", 1)[1].split("<h3>", 1)[0]
    assert shown(part) == ["as_m1", "as_m3", "as_m5", "as_m2"]
    padded = html.split("The most filled in", 1)[1].split("<h2", 1)[0]
    assert shown(padded) == ["as_m1", "as_m3", "as_m5"]
    assert "The most cut off" not in html


def test_the_sheet_is_drawn_by_the_seed(make_set, page_of):
    root = make_set(*[{}] * 12)

    def drawn(**options):
        return shown(page_of(root, **options).split('id="sheet"', 1)[1])

    assert len(drawn(clips=5)) == 5 and drawn(clips=5) == drawn(clips=5)
    assert drawn(clips=5) != drawn(clips=5, seed=1)
    assert sorted(drawn(clips=99)) == sorted(f"as_m{n}" for n in range(12))
    assert page_of(root, clips=5, seed=3) == page_of(root, clips=5, seed=3)


def test_players_stop_at_the_bound_and_the_page_says_so(make_set, page_of, monkeypatch):
    root = make_set(*[{}] * 6)
    size = len(members(0)["flac"])
    monkeypatch.setattr(report, "MAX_AUDIO_BYTES", 3 * size + size // 2)
    html = page_of(root, clips=6)
    assert len(Outline(html).find("audio")) == 3
    missing = int(re.search(r"(\d+) players on this page were left out", html)[1])
    assert html.count("no room for its player") == missing >= 3


def test_large_pictures_are_made_smaller(make_set, page_of):
    html = page_of(make_set({}, side=384))
    for attributes in Outline(html).find("img"):
        with Image.open(io.BytesIO(base64.b64decode(attributes["src"].split(",", 1)[1]))) as image:
            assert image.size == (256, 256)


def test_a_set_of_wav_sounds_plays_too(make_set, page_of):
    outline = Outline(page_of(make_set({}, sound="wav")))
    assert {a["src"].split(",", 1)[0] for a in outline.find("audio")} == {"data:audio/wav;base64"}


def test_labels_get_the_names_of_their_classes(make_set, page_of):
    root = make_set({"labels": ["/m/dog", "cat"]})
    entry = {"id": "/m/dog", "name": "Dog", "description": "", "citation_uri": "", "positive_examples": []}
    (root / "ontology.json").write_text(json.dumps([entry | {"child_ids": [], "restrictions": []}]))
    text = visible(page_of(root))
    assert "Dog /m/dog 1" in text and "Dog, cat" in text


def test_copies_are_shown_and_those_across_splits_are_pointed_out(make_set, page_of):
    same = {"audio_sha256": "a" * 64, "frame_dhash": 0x1234_5678_9ABC_DEF0}
    html = page_of(make_set(same, same | {"split": "test"}, {}))
    text = visible(html)
    assert "Equal sound, different media" in text and "Nearly equal picture, different media" in text
    assert "across splits: test, train" in text
    row = re.search(r"<th[^>]*><span[^>]*>equal sound</span></th>(.*?)</tr>", html)[1]
    assert re.findall(r">(\d+)</td>", row) == ["1", "2", "1", "0", "0"]


def test_a_damaged_clip_is_said_on_its_card_and_harms_no_other(make_set, page_of):
    root = make_set({}, {}, {})
    (tar,) = (root / "shards" / "train").glob("*.tar")
    data = bytearray(tar.read_bytes())
    data[600] ^= 0xFF  # in the sound of the first clip
    tar.write_bytes(data)
    html = page_of(root, clips=3)
    sheet = html.split('id="sheet"', 1)[1]
    assert sheet.count('class="problem"') == 1 and sheet.count("<audio") == 2
    assert "as_m0" in sheet.split('class="problem"')[0].rsplit('class="title"', 1)[1]
    assert sorted(shown(sheet)) == ["as_m1", "as_m2"]


def test_what_cannot_be_reported_leaves_the_old_page(make_set, tmp_path):
    root, out = make_set({}), tmp_path / "report.html"
    out.write_text("old")
    (sidecar,) = (root / "shards" / "train").glob("*.parquet")
    sidecar.write_bytes(sidecar.read_bytes()[:-1])
    with pytest.raises(ShardError):
        write_report(root, out)
    with pytest.raises(ShardError, match="no shard set"):
        write_report(tmp_path / "nowhere", out)
    with pytest.raises(IngestError, match="does not exist; make it first"):
        write_report(root, tmp_path / "nowhere" / "report.html")
    with pytest.raises(ValueError, match="clips is -1"):
        write_report(root, out, clips=-1)
    assert out.read_text() == "old"
    assert not [path for path in tmp_path.iterdir() if ".tmp-" in path.name]


def test_the_page_is_replaced_as_a_whole(make_set, tmp_path):
    out, other_name = tmp_path / "report.html", tmp_path / "old.html"
    out.write_text("old")
    other_name.hardlink_to(out)
    write_report(make_set({}), out)
    assert other_name.read_text() == "old" and out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_the_facts_of_the_set_are_at_the_end(make_set, page_of):
    text = visible(page_of(make_set({}), seed=7).split("<footer", 1)[1].join(["</head>", ""]))
    assert f"plan_sha256 {PLAN}" in text and "audio.codec flac" in text and "seed of the contact sheet 7" in text
