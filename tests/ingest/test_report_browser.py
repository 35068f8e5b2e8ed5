"""The report in a real browser: nothing fetched, nothing logged, sounds play, keyboard, dark, no sideways scrolling."""

import io
import json

import numpy as np
import pytest
import soundfile
from PIL import Image
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from unibrivl.ingest.report import write_report
from unibrivl.shards import ShardWriter, make_key
from unibrivl.shards.catalog import write_dataset

from ..browser import HOSTILE, assert_policy_stops_a_request, assert_quiet_and_fits, load_everything

ENDLESS = "w" * 3000
SECONDS = 1.5
CLIPS = 8
WORDS = {"caption": f"{HOSTILE} {ENDLESS}", "labels": [HOSTILE, ENDLESS], "language": "fr", "license": ENDLESS}
MEASURES = {"num_samples": 24000, "duration_ms": 1500, "pad_ms": 0, "frame_is_key": True, "decode_errors": 0}
MEASURES |= {"src_video_codec": "h264", "src_audio_codec": "aac", "src_width": 640, "src_height": 360, "src_fps": 25.0}
MEASURES |= {"silent_ratio": 0.1, "clip_ratio": 0.001, "frame_luma_std": 40.0, "flags": [ENDLESS], "peak_dbfs": -3.0}
MEASURES |= {"audio_fp": 0x1234_5678_9ABC_DEF0, "frame_dhash": 0x1234_5678_9ABC_DEF0}


def members(number, key):
    times_T = np.arange(int(16000 * SECONDS)) / 16000
    sound, picture = io.BytesIO(), io.BytesIO()
    soundfile.write(sound, 0.1 * np.sin(2 * np.pi * (300 + 40 * number) * times_T), 16000, format="FLAC")
    Image.new("RGB", (64, 64), (30 * number, 90, 200)).save(picture, "JPEG")
    return {"flac": sound.getvalue(), "jpg": picture.getvalue(), "json": json.dumps({"key": key}).encode()}


def write_set(root):
    (root / "shards" / "train").mkdir(parents=True)
    write_dataset(root, {"plan_sha256": "0" * 64, "note": ENDLESS})
    rows = []
    with ShardWriter(root / "shards" / "train", "as-train-000000") as writer:
        for number in range(CLIPS + 2):
            key = make_key("as", f"{'k' * 60}{number}", 0)
            row = {"key": key, "corpus": "as", "media_id": f"m{number}", "split": ("train", "test")[number % 2]} | WORDS
            if number >= CLIPS:
                failed = {"status": "failed", "error_code": ("media.no_audio", "x." + ENDLESS)[number % 2]}
                rows.append(row | failed | {"error_detail": HOSTILE + ENDLESS, "source": ENDLESS})
            else:
                levels = {"rms_dbfs": -20.0 - number, "frame_luma_mean": 20.0 * number}
                rows.append(row | MEASURES | levels | {"status": "ok"} | writer.add(key, members(number, key)))
        writer.commit(split="train", plan_sha256="0" * 64, rows=rows)


@pytest.fixture(scope="module")
def page_url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    root = folder / (HOSTILE.replace("/", "|") + ENDLESS)[:250]
    write_set(root)
    write_report(root, folder / "report.html")
    return (folder / "report.html").as_uri()


@pytest.fixture
def open_page(driver, page_url):
    """Return a function that opens the page at a width, in light or dark colours."""

    def load(width_px, scheme="light"):
        size = {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": width_px < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        driver.get(page_url)

    return load


@pytest.mark.parametrize("width_px", [1280, 800, 390])
def test_page_loads_alone_quietly_and_fits(driver, open_page, page_url, width_px):
    driver.get("about:blank")
    for log in ("browser", "performance"):
        driver.get_log(log)
    open_page(width_px)
    load_everything(driver)
    assert driver.execute_script("return document.images.length") > CLIPS
    assert_quiet_and_fits(driver, page_url, width_px)


def test_players_know_how_long_they_are_and_play(driver, open_page):
    open_page(1280)
    ready = "return Array.from(document.querySelectorAll('audio')).every(a => a.readyState >= 1)"
    WebDriverWait(driver, 20).until(lambda d: d.execute_script(ready))
    durations_s = driver.execute_script("return Array.from(document.querySelectorAll('audio')).map(a => a.duration)")
    assert len(durations_s) >= CLIPS
    assert durations_s == pytest.approx([SECONDS] * len(durations_s), abs=0.01)
    driver.execute_script("const a = document.querySelector('#sheet audio'); a.muted = true; a.play()")
    WebDriverWait(driver, 20).until(lambda d: d.execute_script("return document.querySelector('#sheet audio').ended"))


def test_everything_that_can_be_used_is_reached_by_the_keyboard_and_seen(driver, open_page):
    open_page(1280)
    kinds, hidden = [], 0
    for _ in range(driver.execute_script("return document.querySelectorAll('a, summary, audio').length")):
        driver.switch_to.active_element.send_keys(Keys.TAB)
        kind, outline = driver.execute_script(
            "const e = document.activeElement; return [e.localName, getComputedStyle(e).outlineStyle]"
        )
        kinds.append(kind)
        hidden += outline == "none" and kind != "audio"  # the parts of a player have the browser's own outline
    assert kinds[0] == "a" and kinds.count("a") == 7 and "summary" in kinds and "audio" in kinds
    assert hidden == 0


def test_endless_texts_make_no_endless_page(driver, open_page):
    open_page(1280)
    assert driver.execute_script("return document.documentElement.scrollHeight") < 10_000


def test_links_lead_to_the_parts_of_the_page(driver, open_page):
    open_page(390)
    driver.execute_script("document.querySelector('nav a[href=\"#sheet\"]').click()")
    WebDriverWait(driver, 20).until(lambda d: d.execute_script("return scrollY") > 0)
    top = "return document.querySelector('#sheet').getBoundingClientRect().top"
    assert -5 <= driver.execute_script(top) < 900


def contrast(driver, selector):
    """Return the contrast of a text with the page or the card behind it (WCAG 2)."""
    colours = driver.execute_script(
        """
        const e = document.querySelector(arguments[0]);
        let back = e;
        while (getComputedStyle(back).backgroundColor === 'rgba(0, 0, 0, 0)') back = back.parentElement;
        return [getComputedStyle(e).color, getComputedStyle(back).backgroundColor];
        """,
        selector,
    )
    rgb = np.array([[int(part) for part in c.strip("rgb()").split(",")] for c in colours]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_in_both_colour_schemes(driver, open_page, scheme):
    open_page(1280, scheme)
    dark = driver.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 25)"
    assert dark == (scheme == "dark")
    for selector in ("h1", ".aside", ".advice", "nav a", ".axis", ".card .subtitle", ".why", ".warning", "footer dd"):
        assert contrast(driver, selector) >= 4.5, selector


def test_policy_stops_a_request_that_got_in_anyway(driver, open_page):
    open_page(1280)
    assert_policy_stops_a_request(driver)
