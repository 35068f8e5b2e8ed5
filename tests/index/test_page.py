"""The results page without a browser: escaping, references, marks, refusals, policy."""

import base64
import dataclasses
import hashlib
import io
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unibrivl.index.page import Card, Page, Question, Table, render, write_page

URL_ATTRIBUTES = {"src", "srcset", "href", "action", "formaction", "poster", "data", "background", "cite", "ping"}
HOSTILE = "<script>alert(1)</script>\"'><img src=https://evil.example/x onerror=alert(1)> \u202emarks & </style>"


def encode_picture(file_format="JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 40, 40)).save(buffer, file_format)
    return buffer.getvalue()


def encode_sound(file_format="FLAC"):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(1600, dtype=np.float32), 16000, format=file_format)
    return buffer.getvalue()


PICTURE = encode_picture()
SOUND = encode_sound()


def make_card(**changes):
    card = Card(
        title="A dog barks.",
        subtitle="dog, English, 0.0 to 1.5 s",
        key="clips/dog-1",
        image=PICTURE,
        audio=SOUND,
        score=None,
        rank=None,
        is_true=None,
    )
    return dataclasses.replace(card, **changes)


def make_question(**changes):
    question = Question(
        heading="A dog barks.",
        direction="sound to picture",
        query_modality="audio",
        answer_modality="image",
        query=make_card(),
        answers=tuple(make_card(rank=i, score=0.9 - i / 10, is_true=i == 2) for i in range(1, 6)),
        true_rank=2.0,
        gallery=195,
    )
    return dataclasses.replace(question, **changes)


def make_page(*questions, **changes):
    page = Page(
        title="Retrieval of held-out clips",
        paragraphs=("What this page shows.",),
        tables=(Table(caption="Recall", columns=("direction", "R@1"), rows=(("a to b", "4 %"),), note="Chance: 1 %."),),
        questions=questions or (make_question(),),
        facts=(("index", "sha256:4be1"), ("seed", "0")),
    )
    return dataclasses.replace(page, **changes)


class Outline(HTMLParser):
    """Tags with attributes and their open ancestors, and the text under each tag name."""

    VOID = frozenset({"meta", "link", "img", "rect"})

    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.texts = {}
        self.policy = ""
        self._open = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes, tuple(self._open)))
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), tuple(self._open)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open:
            self.texts[self._open[-1]] = self.texts.get(self._open[-1], "") + data

    def find(self, tag):
        return [(attributes, ancestors) for name, attributes, ancestors in self.tags if name == tag]


def hostile_page():
    card = make_card(title=HOSTILE, subtitle=HOSTILE, key=HOSTILE, is_true=False, rank=1, score=0.1)
    return Page(
        title=HOSTILE,
        paragraphs=(HOSTILE,),
        tables=(Table(caption=HOSTILE, columns=(HOSTILE, HOSTILE), rows=((HOSTILE, HOSTILE),), note=HOSTILE),),
        questions=(make_question(heading=HOSTILE, direction=HOSTILE, query=card, answers=(card,)),),
        facts=((HOSTILE, HOSTILE),),
    )


def test_hostile_text_stays_text():
    outline = Outline(render(hostile_page()))
    assert not outline.find("script")
    assert not [a for _, a, _ in outline.tags if any(name.startswith("on") for name in a)]
    for tag in ("h1", "h2", "caption", "th", "td", "dt", "dd", "title"):
        assert HOSTILE in outline.texts[tag]


@settings(max_examples=40, deadline=None)
@given(st.text())
def test_no_text_changes_the_markup(text):
    plain = Outline(render(make_page(title="plain", facts=(("name", "plain"),))))
    outline = Outline(render(make_page(title=text, facts=(("name", text),))))
    assert [tag for tag, _, _ in outline.tags] == [tag for tag, _, _ in plain.tags]
    assert outline.texts.get("dd", "") == text


def test_a_long_caption_is_cut_only_in_the_text_for_screen_readers():
    caption = "x" * 10_000
    html = render(make_page(make_question(query=make_card(title=caption, image=None), answers=())))
    assert caption in html
    (attributes, _), *_ = Outline(html).find("audio")
    assert len(attributes["aria-label"]) < 200


@pytest.mark.parametrize("page", [make_page(), hostile_page()], ids=["plain", "hostile"])
def test_every_reference_stays_inside_the_file(page):
    for _, attributes, _ in Outline(render(page)).tags:
        for name, value in attributes.items():
            if name in URL_ATTRIBUTES:
                assert value.startswith("data:")
            elif HOSTILE[:8] not in (value or ""):
                assert not any(mark in (value or "") for mark in ("http:", "https:", "//"))
            assert name != "style"


def test_style_fetches_nothing():
    (style,) = [text for tag, text in Outline(render(make_page())).texts.items() if tag == "style"]
    assert "url(" not in style and "@import" not in style and "</" not in style


def test_policy_matches_the_style_and_allows_nothing_else():
    html = render(make_page())
    style = html.split("<style>", 1)[1].split("</style>", 1)[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in Outline(html).policy.split(";"))
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "media-src": "data:",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_every_picture_and_player_has_a_name():
    outline = Outline(render(make_page()))
    assert len(outline.find("img")) == 6 and len(outline.find("audio")) == 6
    assert all(attributes["alt"] == "Picture of A dog barks." for attributes, _ in outline.find("img"))
    assert all(attributes["aria-label"] == "Sound of A dog barks." for attributes, _ in outline.find("audio"))


@pytest.mark.parametrize(
    ("asked", "found", "hidden", "label"),
    [("audio", "image", "img", "show its picture"), ("image", "audio", "audio", "show its sound")],
)
def test_the_other_side_of_the_query_is_folded_away(asked, found, hidden, label):
    outline = Outline(render(make_page(make_question(query_modality=asked, answer_modality=found))))
    folded = [attributes for attributes, ancestors in outline.find(hidden) if "details" in ancestors]
    assert len(folded) == 1
    assert outline.find("details")[0][0] == {}
    assert outline.texts["summary"] == label
    shown = "audio" if hidden == "img" else "img"
    assert not any("details" in ancestors for _, ancestors in outline.find(shown))


def test_marks_are_words_and_unknown_has_none():
    marks = []
    for is_true in (True, False, None):
        question = make_question(answers=(make_card(is_true=is_true, rank=1),), true_rank=None)
        html = render(make_page(question))
        marks.append(("✓ true answer" in html, "another clip" in html))
    assert marks == [(True, False), (False, True), (False, False)]


@pytest.mark.parametrize(
    ("true_rank", "gallery", "shows_it", "words"),
    [
        (2.0, 195, True, "✓ true answer at rank 2 of 195"),
        (7.0, 195, False, "✗ not shown: true answer at rank 7 of 195"),
        (1200.5, 12000, False, "true answer at rank 1,200.5 of 12,000"),
        (7.0, None, False, "true answer at rank 7<"),
    ],
)
def test_place_of_the_true_answer(true_rank, gallery, shows_it, words):
    question = make_question(answers=(make_card(is_true=shows_it),), true_rank=true_rank, gallery=gallery)
    assert words in render(make_page(question))


def test_place_is_not_mentioned_where_unknown():
    assert "at rank" not in render(make_page(make_question(true_rank=None)))


@pytest.mark.parametrize(
    ("score", "number", "width"),
    [(0.625, "0.625", "62.5%"), (-0.2, "-0.200", "0.0%"), (1.0000001, "1.000", "100.0%")],
)
def test_score_is_a_number_and_a_bar(score, number, width):
    html = render(make_page(make_question(answers=(make_card(score=score),))))
    assert f"</span> {number}</p>" in html
    assert Outline(html).find("rect")[1][0]["width"] == width


@pytest.mark.parametrize("modality", ["audio", "image"])
def test_missing_media_are_said_or_left_out(modality):
    bare = make_card(image=None, audio=None)
    other = "audio" if modality == "image" else "image"
    question = make_question(query=bare, answers=(bare,), query_modality=other, answer_modality=modality)
    outline = Outline(render(make_page(question)))
    assert not outline.find("img") and not outline.find("audio") and not outline.find("details")
    html = render(make_page(question))
    assert html.count("no picture") == 1 and html.count("no sound") == 1


def test_empty_page():
    outline = Outline(render(Page(title="Empty", paragraphs=(), tables=(), questions=(), facts=())))
    assert not outline.find("table") and not outline.find("section") and not outline.find("footer")
    assert "no answers" in render(make_page(make_question(answers=())))


@pytest.mark.parametrize(
    ("picture", "sound", "types"),
    [
        (encode_picture("JPEG"), encode_sound("FLAC"), ("image/jpeg", "audio/flac")),
        (encode_picture("PNG"), encode_sound("WAV"), ("image/png", "audio/wav")),
    ],
)
def test_media_types_come_from_the_bytes(picture, sound, types):
    question = make_question(query=make_card(image=picture, audio=sound), answers=())
    outline = Outline(render(make_page(question)))
    sources = [a["src"] for tag in ("img", "audio") for a, _ in outline.find(tag)]
    assert [base64.b64decode(s.split(",", 1)[1]) for s in sources] == [picture, sound]
    assert tuple(s.removeprefix("data:").split(";")[0] for s in sources) == types


@pytest.mark.parametrize("data", [b"", b"<svg onload=alert(1)>", b"GIF89a", b"RIFF\0\0\0\0AVI ", SOUND])
def test_unknown_picture_is_refused(data):
    question = make_question(answers=(make_card(image=data, key="clips/odd-7"),))
    with pytest.raises(ValueError, match=r"the picture of 'clips/odd-7' .* expected a JPEG or PNG file"):
        render(make_page(question))


@pytest.mark.parametrize("data", [b"", b"OggS", b"RIFF\0\0\0\0WEBP", PICTURE])
def test_unknown_sound_is_refused(data):
    question = make_question(answers=(make_card(audio=data, key="clips/odd-7"),))
    with pytest.raises(ValueError, match=r"the sound of 'clips/odd-7' .* expected a FLAC or WAV file"):
        render(make_page(question))


def test_values_that_cannot_be_shown_are_refused():
    with pytest.raises(ValueError, match="the score of 'clips/dog-1' is nan"):
        make_card(score=float("nan"))
    with pytest.raises(ValueError, match="unknown modality 'text'"):
        make_question(answer_modality="text")
    with pytest.raises(ValueError, match="unknown modality 'smell'"):
        make_question(query_modality="smell")
    with pytest.raises(ValueError, match="table 'T': a row has 1 cells, expected 2"):
        Table(caption="T", columns=("a", "b"), rows=(("1",),), note="")


def test_a_question_in_words_shows_them_and_no_missing_medium():
    card = make_card(title="a <red> car", image=None, audio=None)
    html = render(make_page(make_question(query=card, query_modality="text")))
    query = html[html.index("<h3>Query</h3>") : html.index("<h3>Answers</h3>")]
    assert "a &lt;red&gt; car" in query and "missing" not in query and "<img" not in query


def test_same_page_same_bytes(tmp_path):
    write_page(make_page(), tmp_path / "a.html")
    write_page(make_page(), tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_refused_page_leaves_the_old_file(tmp_path):
    write_page(make_page(), tmp_path / "a.html")
    before = (tmp_path / "a.html").read_bytes()
    with pytest.raises(ValueError, match="expected a JPEG"):
        write_page(make_page(make_question(answers=(make_card(image=b"?"),))), tmp_path / "a.html")
    assert (tmp_path / "a.html").read_bytes() == before


def test_half_a_surrogate_pair_is_written_as_a_question_mark(tmp_path):
    write_page(make_page(title="half \ud83d pair"), tmp_path / "a.html")
    assert "half ? pair" in (tmp_path / "a.html").read_text(encoding="utf-8")
