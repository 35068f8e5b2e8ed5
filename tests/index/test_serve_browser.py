"""The search page in a real browser, with the real server behind it: a person's ways through it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from unibrivl.index.build import IndexConfig, build_index
from unibrivl.index.engine import open_engine
from unibrivl.index.guard import GuardConfig
from unibrivl.index.serve_config import ServeConfig
from unibrivl.model.train import train

from ..browser import HOSTILE
from ..model.test_clip import clip_folder  # noqa: F401
from .serving import Client, serving
from .test_serve import picture_file, some_item, sound_file

WIDTHS = (1280, 390)
MOST = 2_000_000
QUIET = "return document.body.dataset.ready === 'yes' && !document.querySelector('[aria-busy]')"


@pytest.fixture(scope="module")
def client(index: Path) -> Iterator[Client]:
    config = ServeConfig(index=index, port=0, record_s=1.0, guard=GuardConfig(max_body_bytes=MOST))
    with serving(config, open_engine(index)) as client:
        yield client


@pytest.fixture
def page(driver: Any, client: Client) -> "Page":
    return Page(driver, client.url).open("/")


class Page:
    """The page as a person sees it."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver, self.url = driver, url

    def open(self, address: str, *, width_px: int = 1280, dark: bool = False) -> "Page":
        size = {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": width_px < 500}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get("about:blank")
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.driver.get(self.url + address)
        return self.settle()

    def settle(self) -> "Page":
        self.wait(lambda: self.run(QUIET))
        return self

    def wait(self, is_true: Callable[[], Any]) -> None:
        WebDriverWait(self.driver, 20, poll_frequency=0.05).until(lambda _: is_true())

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def titles(self, kind: str = "image") -> list[str]:
        return [element.text for element in self.all(f".cards.{kind} .title")]

    def wait_for_answers(self, count: int, kind: str = "image") -> list[str]:
        self.wait(lambda: self.run(QUIET) and len(self.all(f".cards.{kind} .score")) == count)
        return self.titles(kind)

    def choose(self, target: str) -> None:
        self.one(f"input[name=to][value={target}] + span").click()
        self.settle()

    def drop(self, name: str, media_type: str, data: bytes) -> None:
        """Drop a file on the page, as a hand would."""
        self.run(
            """
            const held = new DataTransfer();
            held.items.add(new File([Uint8Array.from(arguments[2])], arguments[0], { type: arguments[1] }));
            for (const kind of ["dragenter", "dragover", "drop"])
              document.body.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: held }));
            """,
            name, media_type, list(data),
        )  # fmt: skip

    def quiet(self) -> None:
        """Check that nothing was logged, nothing fetched from elsewhere, nothing of strangers run, all fits."""
        assert self.run("return typeof window.owned") == "undefined"
        assert [e for e in self.driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")] == []
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert urls and [u for u in urls if not u.startswith((f"{self.url}/", "data:", f"blob:{self.url}/"))] == []
        scroll_px, client_px = self.run("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
        assert scroll_px <= client_px


def upload(page: Page, tmp_path: Path, name: str, data: bytes, kind: str = "sound") -> None:
    (tmp_path / name).write_bytes(data)
    page.one(f"#{kind}-file").send_keys(str(tmp_path / name))


def test_a_sound_is_uploaded_and_pictures_come(page: Page, tmp_path: Path) -> None:
    upload(page, tmp_path, "my bark.wav", sound_file())
    assert len(page.wait_for_answers(24)) == 24
    assert "24 pictures in " in page.one("#summary").text
    assert page.one(".part .name").text == "my bark.wav"
    page.wait(lambda: page.all(".part .peaks"))
    assert page.run("return document.querySelector('.cards img').naturalWidth") == 64
    page.quiet()


def test_a_result_is_played_and_only_one_at_a_time(page: Page, tmp_path: Path) -> None:
    upload(page, tmp_path, "a.wav", sound_file())
    page.wait_for_answers(24)
    players = "Array.from(document.querySelectorAll('.cards audio'))"
    for number in (0, 1):
        page.run(f"{players}[{number}].loop = true; return {players}[{number}].play()")
        page.wait(lambda n=number: page.run(f"return {players}[{n}].currentTime > 0.1"))
        assert page.run(f"return {players}.filter(a => !a.paused).length") == 1
    page.quiet()


def test_a_sound_is_recorded_from_the_microphone(page: Page) -> None:
    page.one("#record").click()
    page.wait(lambda: page.one("#record").get_attribute("aria-pressed") == "true")
    assert page.one("#record-label").text.startswith("Stop")
    page.wait_for_answers(24)
    assert page.one(".part .name").text == "Your recording"
    assert page.one("#record").get_attribute("aria-pressed") == "false"
    assert page.one("#record-label").text == "Record a sound"
    page.quiet()


def test_a_recording_is_stopped_by_hand(page: Page) -> None:
    page.run("navigator.mediaDevices.getUserMedia({ audio: true })")
    page.one("#record").click()
    page.wait(lambda: "Stop" in page.one("#record-label").text)
    page.one("#record").click()
    page.wait_for_answers(24)
    page.quiet()


def test_a_picture_is_dropped(page: Page) -> None:
    page.drop("red.png", "image/png", picture_file())
    page.wait_for_answers(24)
    assert page.one(".part img").get_attribute("src").startswith("blob:")
    page.choose("audio")
    page.wait_for_answers(24, "audio")
    assert not page.all(".cards.image")
    page.quiet()


def test_more_like_this_and_the_way_back(page: Page) -> None:
    (title, *_) = page.titles()
    page.one(".card .more").click()
    similar = page.wait_for_answers(23)  # 24 clips, and what was asked with is no answer
    assert title not in similar and page.one(".part .name").text == title
    page.all(".card .more")[0].click()
    page.wait(lambda: page.one(".part .name").text == similar[0])
    page.driver.back()
    page.wait(lambda: page.one(".part .name").text == title)
    assert page.wait_for_answers(23) == similar
    page.driver.back()
    page.wait(lambda: page.one("#lists h2").text == "Or begin with one of these")
    page.quiet()


def test_parts_are_combined_weighed_and_taken_away(page: Page) -> None:
    page.one(".card .more").click()
    alone = page.wait_for_answers(23)
    page.all(".card .add")[5].click()
    page.wait(lambda: len(page.all(".part")) == 2)
    both = page.wait_for_answers(22)
    assert both != [title for title in alone if title != alone[5]]
    page.all(".part .minus span")[1].click()
    page.wait(lambda: "w=1%2C-1" in page.driver.current_url)
    without = page.wait_for_answers(23)  # what is taken away may still be found, far down
    assert without.index(alone[5]) > 5
    slider = page.all(".part .weight input")[0]
    slider.send_keys(Keys.ARROW_RIGHT)
    page.wait(lambda: "w=1.1%2C-1" in page.driver.current_url)
    page.all(".part .remove")[1].click()
    page.wait(lambda: len(page.all(".part")) == 1)
    assert page.wait_for_answers(23) == alone
    page.quiet()


def test_an_address_can_be_shared(page: Page) -> None:
    page.one(".card .more").click()
    page.wait_for_answers(23)
    page.all(".card .add")[3].click()
    page.wait(lambda: len(page.all(".part")) == 2)
    page.all(".part .minus span")[1].click()
    page.choose("both")
    pictures, sounds = page.wait_for_answers(23), page.titles("audio")
    address = page.driver.current_url.removeprefix(page.url)
    page.open("/")
    page.open(address)
    assert (page.titles(), page.titles("audio")) == (pictures, sounds)
    assert page.all(".part .minus input")[1].is_selected()
    page.one("#share").click()
    page.wait(lambda: page.one("#shared").is_displayed())
    page.quiet()


def test_answers_are_filtered(page: Page, client: Client) -> None:
    page.one(".card .more").click()
    page.wait_for_answers(23)
    page.one("#show-filters").click()
    page.one("#add-filter").click()
    page.one(".condition .column").send_keys("part")
    page.one(".condition .value").send_keys("test", Keys.TAB)
    page.wait(lambda: len(page.all(".cards.image .score")) in (5, 6))
    assert "where=split%3Dtest" in page.driver.current_url and page.one("#filter-count").text == "1"
    page.open(page.driver.current_url.removeprefix(page.url))
    assert len(page.titles()) in (5, 6) and page.one("#filter-count").text == "1"
    page.quiet()


@pytest.mark.parametrize(
    ("name", "media_type", "data", "told"),
    [
        ("notes.txt", "text/plain", b"hello", "notes.txt is neither a sound nor a picture"),
        ("torn.wav", "audio/wav", b"RIFF\x00\x00\x00\x00WAVE", "torn.wav: not a readable sound file"),
        ("torn.png", "image/png", b"\x89PNG\r\n\x1a\n0000", "torn.png: not a readable picture"),
        ("empty.wav", "audio/wav", b"", "empty.wav is empty"),
        ("large.wav", "audio/wav", bytes(MOST + 1), "large.wav is too large"),
    ],
    ids=["text", "sound", "picture", "empty", "large"],
)
def test_what_cannot_be_searched_with_is_told_kindly(
    page: Page, name: str, media_type: str, data: bytes, told: str
) -> None:
    page.drop(name, media_type, data[:1000]) if len(data) <= MOST else page.run(
        """
        const held = new DataTransfer();
        held.items.add(new File([new Uint8Array(arguments[0])], arguments[1], { type: "audio/wav" }));
        document.body.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: held }));
        """, len(data), name,
    )  # fmt: skip
    page.wait(lambda: page.one("#notice").is_displayed())
    assert page.one("#notice").get_attribute("role") == "alert" and told in page.one("#notice .message").text
    assert page.one("#notice .advice").text and not page.one("#again").is_displayed()
    page.one("#dismiss").click()
    assert not page.one("#notice").is_displayed()
    refused = [e for e in page.driver.get_log("browser") if e["level"] == "SEVERE"]
    assert all("422" in entry["message"] for entry in refused)  # the browser notes a refused request by itself


def test_a_server_that_has_gone_is_told_and_tried_again(driver: Any, index: Path) -> None:
    engine = open_engine(index)
    with serving(ServeConfig(index=index, port=0), engine) as client:
        page = Page(driver, client.url).open("/")
        port = client.address[1]
    page.one(".card .more").click()
    page.wait(lambda: "does not answer" in page.one("#notice").text)
    with serving(ServeConfig(index=index, port=port), engine):
        page.one("#again").click()
        page.wait_for_answers(23)
        assert not page.one("#notice").is_displayed()
    driver.get_log("browser")


def test_the_keyboard_is_enough(page: Page) -> None:
    page.run("document.querySelector('.card').focus()")
    active = "return [...document.querySelectorAll('.card')].indexOf(document.activeElement)"
    for key, place in ((Keys.ARROW_RIGHT, 1), (Keys.ARROW_DOWN, 7), (Keys.ARROW_LEFT, 6), (Keys.ARROW_UP, 0)):
        page.driver.switch_to.active_element.send_keys(key)
        assert page.run(active) == place
    page.driver.switch_to.active_element.send_keys("p")
    page.wait(lambda: page.run("return document.querySelector('.card audio').currentTime > 0"))
    title = page.titles()[0]
    page.driver.switch_to.active_element.send_keys("m")
    page.wait_for_answers(23)
    assert page.one(".part .name").text == title
    page.quiet()


def test_everything_can_be_reached_by_tab_and_has_a_name(page: Page) -> None:
    page.one(".card .more").click()
    page.wait_for_answers(23)
    page.one("#show-filters").click()
    page.one("#add-filter").click()
    nameless = page.run(
        """
        const name = (e) => e.getAttribute("aria-label") || (e.labels?.length && e.labels[0].textContent.trim())
          || e.textContent.trim() || e.title;
        return [...document.querySelectorAll("button, input, select, a, audio, summary")]
          .filter((e) => e.checkVisibility() && !name(e)).map((e) => e.outerHTML.slice(0, 200));
        """
    )
    assert nameless == []
    assert page.run("return [...document.images].every((image) => image.hasAttribute('alt'))")
    assert page.run("return document.documentElement.lang") == "en"
    assert page.run("return document.querySelectorAll('h1').length") == 1
    page.run("document.querySelector('.skip').focus()")
    reached = []
    for _ in range(13):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(page.run("const e = document.activeElement; return e.id || e.name || e.className"))
    assert {"record", "add-sound", "add-picture", "remove", "to", "show-filters", "add-filter"} <= set(reached)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width_px", WIDTHS)
def test_it_fits_and_is_readable_everywhere(driver: Any, client: Client, width_px: int, dark: bool) -> None:
    items = [quote(some_item(client, n)["item_id"]) for n in (0, 1)]
    for address in ("/", f"/?item={items[0]}&item={items[1]}&w=1,-0.5&to=both&where=labels%3Dblock", "/docs"):
        page = Page(driver, client.url)
        if address == "/docs":
            driver.get(client.url + address)
        else:
            page.open(address, width_px=width_px, dark=dark)
            page.one("#show-filters").click()
        page.quiet()
        assert dim_texts(page) == []
        if address != "/docs":
            assert small_targets(page) == []


def dim_texts(page: Page) -> list[Any]:
    """Return texts whose contrast with what lies behind them is under 4.5, which WCAG AA asks for."""
    return page.run(
        """
        const rgb = (text) => (text.match(/[0-9.]+/g) ?? []).map(Number);
        const light = (c) => c.slice(0, 3).map((x) => (x /= 255) <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
          .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
        const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
          if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        const found = [];
        for (let node; (node = walker.nextNode());) {
          const e = node.parentElement;
          if (!node.textContent.trim() || !e.checkVisibility() || e.closest(".hidden, .skip, template")) continue;
          const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
          const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          if (contrast < 4.5) found.push([node.textContent.trim().slice(0, 40), contrast]);
        }
        return found;
        """
    )


def small_targets(page: Page) -> list[Any]:
    """Return buttons and fields smaller than 24 pixels, which WCAG 2.2 asks for."""
    return page.run(
        """
        return [...document.querySelectorAll("button, select, label > span, input[type=search]")]
          .filter((e) => e.checkVisibility() && !e.closest(".hidden") && !e.classList.contains("hidden"))
          .map((e) => [e.outerHTML.slice(0, 80), e.getBoundingClientRect().width, e.getBoundingClientRect().height])
          .filter(([, width, height]) => Math.min(width, height) < 24);
        """
    )


def test_captions_of_strangers_are_only_text(driver: Any, index: Path) -> None:
    engine = open_engine(index)
    for segment in engine.snapshot.segments:
        place = segment.rows.schema.get_field_index("caption")
        captions = pa.array([HOSTILE + "\u202e" + "x" * 3000] * len(segment.rows))
        object.__setattr__(segment, "rows", segment.rows.set_column(place, "caption", captions))
    with serving(ServeConfig(index=index, port=0), engine) as client:
        for width_px in WIDTHS:
            page = Page(driver, client.url).open(
                f"/?item={quote(some_item(client)['item_id'])}&to=both", width_px=width_px
            )
            assert page.titles()[0].startswith("<script>")
            page.quiet()
        page.drop(f"{HOSTILE}.png", "image/png", picture_file())
        page.wait(lambda: len(page.all(".part")) == 2)
        page.settle().quiet()
        page.open(f"/?item={quote(HOSTILE)}&where={quote(HOSTILE)}&w={quote(HOSTILE)}")
        page.wait(lambda: page.one("#notice").is_displayed())
        assert page.run("return typeof window.owned") == "undefined"


def test_a_token_is_asked_for_once(driver: Any, index: Path) -> None:
    config = ServeConfig(index=index, port=0, guard=GuardConfig(token="open sesame, please"))
    with serving(config, open_engine(index)) as client:
        driver.get(client.url)
        page = Page(driver, client.url)
        page.wait(lambda: page.one("#sign-in").is_displayed())
        page.one("#token").send_keys("wrong", Keys.ENTER)
        page.wait(lambda: page.one("#wrong-token").is_displayed())
        page.one("#token").clear()
        page.one("#token").send_keys("open sesame, please", Keys.ENTER)
        page.wait(lambda: page.all(".card") and not page.one("#sign-in").is_displayed())
        page.wait(lambda: page.run("return document.querySelector('.cards img').naturalWidth") == 64)
        page.open("/")
        assert page.all(".card")
    driver.delete_all_cookies()


@pytest.fixture(scope="module")
def reading(run_config: Any, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """Return an index whose run reads text: a tiny image tower of the CLIP family."""
    root = tmp_path_factory.mktemp("reading")
    config = replace(run_config, out=root / "run", image_tower=f"clip:{clip_folder}", epochs=1)
    train(config)
    build_index(IndexConfig(run=config.out, shards=config.shards, out=root / "index"))
    return root / "index"


def test_words_are_asked_with_and_without(driver: Any, reading: Path) -> None:
    with serving(ServeConfig(index=reading, port=0), open_engine(reading)) as client:
        page = Page(driver, client.url).open("/")
        page.one("#text").send_keys("a dog", Keys.ENTER)
        dog = page.wait_for_answers(24)
        expected = client.search({"text": "a dog"}, to="image", k=24).json["results"]["image"]
        assert dog == [found["caption"] for found in expected]
        assert "text=a+dog" in driver.current_url and not page.all(".part")
        page.one("#text").send_keys(' -"zebra bee"', Keys.ENTER)
        page.wait(lambda: len(page.all(".part")) == 2)
        page.settle()
        assert [part.text for part in page.all(".part .name")] == ["a dog", "zebra bee"]
        assert page.all(".part .minus input")[1].is_selected() and page.titles() != dog
        without = page.titles()
        page.open(driver.current_url.removeprefix(page.url))
        assert page.one("#text").get_attribute("value") == 'a dog -"zebra bee"' and page.titles() == without
        page.all(".part .remove")[1].click()
        page.wait(lambda: not page.all(".part"))
        page.settle()
        assert page.one("#text").get_attribute("value") == "a dog" and page.titles() == dog
        page.drop("red.png", "image/png", picture_file())
        page.wait(lambda: len(page.all(".part")) == 2)
        page.settle().quiet()
