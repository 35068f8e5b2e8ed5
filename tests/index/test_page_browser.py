"""The results page in a real browser: nothing fetched, nothing logged, media play, no sideways scrolling."""

import io

import numpy as np
import pytest
import soundfile
from PIL import Image
from selenium.webdriver.support.wait import WebDriverWait

from unibrivl.index.page import Card, Page, Question, Table, write_page

from ..browser import HOSTILE, assert_policy_stops_a_request, assert_quiet_and_fits, load_everything

DURATION_S = 1.5


def encode_picture(file_format, color):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(buffer, file_format)
    return buffer.getvalue()


def encode_sound(file_format):
    times_T = np.arange(int(16000 * DURATION_S)) / 16000
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * np.sin(2 * np.pi * 440 * times_T), 16000, format=file_format)
    return buffer.getvalue()


def make_card(i, title):
    return Card(
        title=title,
        subtitle="label " * 40,
        key=f"clips/{'k' * 200}-{i}",
        image=encode_picture("PNG" if i % 2 else "JPEG", (40 * i, 90, 200)),
        audio=encode_sound("WAV" if i % 2 else "FLAC"),
        score=0.9 - i / 10,
        rank=i,
        is_true=i == 2,
    )


def make_question(asked, found, title):
    return Question(
        heading=title,
        direction=f"{asked} to {found}",
        query_modality=asked,
        answer_modality=found,
        query=make_card(0, title),
        answers=tuple(make_card(i, title) for i in range(1, 6)),
        true_rank=2.0,
        gallery=195,
    )


def make_page():
    columns = ("direction", "R@1", "R@5", "R@10", "median rank", "MRR", "R@10 by chance", "R@10 shuffled")
    row = ("sound to picture", "4.1 % ± 1.4", "15.9 % ± 2.6", "24.6 % ± 3.1", "41", "0.113", "5.1 %", "4.6 %")
    return Page(
        title="Retrieval " + HOSTILE,
        paragraphs=("One paragraph. " + "w" * 300,),
        tables=(Table(caption="Recall", columns=columns, rows=(row, row), note="Chance is 10 of 195."),),
        questions=(
            make_question("audio", "image", "A dog barks."),
            make_question("image", "audio", HOSTILE + "\u202e" + "x" * 10_000),
        ),
        facts=(("index", "sha256:" + "0" * 64),),
    )


@pytest.fixture(scope="module")
def page_url(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "results.html"
    write_page(make_page(), path)
    return path.as_uri()


def set_width(driver, width_px):
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": width_px < 500},
    )


@pytest.mark.parametrize("width_px", [1280, 390])
def test_page_loads_alone_quietly_and_fits(driver, page_url, width_px):
    set_width(driver, width_px)
    driver.get("about:blank")
    for log in ("browser", "performance"):
        driver.get_log(log)
    driver.get(page_url)
    load_everything(driver)

    assert driver.execute_script("return document.images.length") == 12
    assert_quiet_and_fits(driver, page_url, width_px)


def test_players_know_how_long_they_are(driver, page_url):
    set_width(driver, 1280)
    driver.get(page_url)
    WebDriverWait(driver, 20).until(
        lambda d: d.execute_script(
            "return Array.from(document.querySelectorAll('audio')).every(a => a.readyState >= 1)"
        )
    )
    durations_s = driver.execute_script("return Array.from(document.querySelectorAll('audio')).map(a => a.duration)")
    # One FLAC block or one container time unit of slack.
    assert durations_s == pytest.approx([DURATION_S] * 12, abs=0.01)


def test_what_was_asked_for_is_the_larger_side(driver, page_url):
    set_width(driver, 1280)
    driver.get(page_url)
    script = """
        const shown = (selector) => Array.from(document.querySelectorAll(selector)).map(e => e.clientWidth);
        return {picture: shown('.answers.image img'), thumb: shown('.answers.audio img'),
                player: shown('.answers.audio audio'), small: shown('.answers.image audio'),
                open: Array.from(document.querySelectorAll('details')).filter(d => d.open).length};
    """
    sizes_px = driver.execute_script(script)
    assert min(sizes_px["picture"]) >= 100 and max(sizes_px["thumb"]) <= 64
    assert min(sizes_px["player"]) > max(sizes_px["small"])
    assert sizes_px["open"] == 0


def test_policy_stops_a_request_that_got_in_anyway(driver, page_url):
    driver.get(page_url)
    assert_policy_stops_a_request(driver)
