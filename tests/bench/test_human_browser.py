"""The page of a human test in a real browser, with the real server behind it; a browser's answers are no person's."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from unibrivl.bench.human import ANSWERS, Study
from unibrivl.bench.human_answers import Session, Shown, read_answers
from unibrivl.bench.human_report import measure
from unibrivl.bench.human_table import heading, human_page, rows
from unibrivl.index.page import render

from ..browser import HOSTILE
from .human_folder import make_study
from .test_human_serve import running

Choose = Callable[[Shown], str]
KEYS = {"left": "1", "right": "2", "neither": "3"}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(
        tmp_path, raters=3, per_class=1, classes=2, catches=1, title=HOSTILE, consent=f"{HOSTILE}\n\nSecond paragraph."
    )


class Rater:
    """A program that goes through the page as a person would."""

    def __init__(self, driver: Any, url: str, study: Study) -> None:
        self.driver, self.url, self.study = driver, url, study

    def open(self, *, width_px: int = 1280, dark: bool = False) -> "Rater":
        size = {"width": width_px, "height": 844, "deviceScaleFactor": 1, "mobile": width_px < 500}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(self.url)
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        return self.reload()

    def reload(self) -> "Rater":
        self.driver.refresh()
        self.wait(lambda: self.run("return document.body.dataset.ready"))
        return self

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def one(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def wait(self, is_true: Callable[[], Any]) -> None:
        WebDriverWait(self.driver, 20, poll_frequency=0.02).until(lambda _: is_true())

    @property
    def session(self) -> Session:
        return list(read_answers(self.study).sessions.values())[-1]

    def begin(self) -> "Rater":
        self.one("#agree").click()
        self.one("#consent-form .primary").click()
        return self.wait_for_trial()

    def wait_for_trial(self) -> "Rater":
        def is_next() -> bool:
            begun = list(read_answers(self.study).sessions.values())
            shown = begun[-1].next if begun else None
            return shown is not None and self.run("return document.body.dataset.trial") == shown.trial.trial

        self.wait(is_next)
        return self

    def hear(self) -> None:
        self.one("#play").click()
        self.wait(lambda: self.run("return !document.getElementById('choices').disabled"))

    def hear_again(self) -> None:
        self.type("p")
        self.wait(lambda: self.one("#play-label").text == "Playing")
        self.wait(lambda: self.one("#play-label").text == "Play again")

    def answer(self, choose: Choose, *, keys: bool = False) -> None:
        shown = self.session.next
        assert shown is not None
        side = choose(shown)
        if keys:
            self.type("p")
            self.wait(lambda: self.run("return !document.getElementById('choices').disabled"))
            self.type(KEYS[side])
            self.type(Keys.ENTER)
        else:
            self.hear()
            self.one(f".choice:has(input[value={side}])").click()
            self.one("#next").click()
        count = len(self.session.plan)
        self.wait(lambda: shown.trial.trial in self.session.answers)
        if len(self.session.answers) < count:
            self.wait_for_trial()

    def type(self, key: str) -> None:
        self.driver.switch_to.active_element.send_keys(key)

    def answer_all(self, choose: Choose, **options: Any) -> "Rater":
        while not self.session.is_finished:
            self.answer(choose, **options)
        self.wait(lambda: self.one("#end").is_displayed())
        assert self.one("#end-title").text == "Thank you"
        return self

    def another(self) -> "Rater":
        self.one("#another").click()
        self.wait(lambda: self.one("#welcome").is_displayed())
        return self

    def quiet(self) -> None:
        """Check that nothing was logged, nothing fetched from elsewhere, nothing of strangers run, all fits."""
        assert self.run("return typeof window.owned") == "undefined"
        assert [e for e in self.driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")] == []
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert urls and [u for u in urls if not u.startswith(f"{self.url}/")] == []
        scroll_px, client_px = self.run("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
        assert scroll_px <= client_px


@pytest.fixture
def clean(driver: Any) -> Iterator[Any]:
    yield driver
    driver.get("about:blank")


def mostly(shown: Shown) -> str:
    """Choose the own picture, but of rain nothing, and always the photo."""
    if shown.trial.category == "rain" and not shown.trial.is_catch:
        return "neither"
    return shown.picture_side


def test_three_sessions_through_the_page_survive_a_killed_server(clean: Any, study: Study) -> None:
    path = study.root / ANSWERS
    with running(study) as server:
        rater = Rater(clean, server.url, study).open().begin()
        assert rater.one("#simulated").is_displayed()
        rater.answer_all(mostly)
        rater.quiet()
        rater.another().begin().answer(mostly, keys=True)
        rater.hear()
        rater.one(".choice:has(input[value=neither])").click()
        server.kill()
        kept = path.read_bytes()
        rater.one("#next").click()  # nobody is there
        rater.wait(lambda: rater.one("#notice").is_displayed())
        assert rater.one("#message").text == "The server does not answer."
    with path.open("ab") as f:
        f.write(b'{"kind":"answer","stu')  # as a server leaves it that is killed while it writes
    port = int(server.url.rpartition(":")[2])
    with running(study, port=port) as again:
        assert again.told["half_lines"] == 1
        rater.wait(lambda: len(rater.session.answers) == 2)  # the page said it again by itself
        rater.wait(lambda: not rater.one("#notice").is_displayed())
        rater.wait_for_trial().reload().wait_for_trial()  # goes on where it was
        rater.answer_all(mostly, keys=True).another()
        rater.open(width_px=390, dark=True).begin().answer_all(mostly)
        rater.quiet()
    assert path.read_bytes().startswith(kept)
    _check_simulated(study)


def _check_simulated(study: Study) -> None:
    answers = read_answers(study)
    assert len(answers.finished) == 3 and answers.torn == 1
    assert all(session.is_simulated for session in answers.sessions.values())
    records = [json.loads(line) for line in (study.root / ANSWERS).read_bytes().splitlines() if line.endswith(b"}")]
    assert all(record["simulated"] is True for record in records if record["kind"] != "void")
    assert all(answer.time_ms >= 180 for session in answers.finished for answer in session.answers.values())
    result = measure(study, answers)
    assert (result["status"], heading(result)) == ("simulated", "Simulated raters: not Table 5, not people")
    metrics = result["metrics"]
    assert (metrics["picture"], metrics["foil"], metrics["neither"]) == (3, 0, 3)
    assert rows(result)[0][0] == "ours (simulated)" and "No person gave these answers" in render(human_page(result))


def test_nothing_can_be_answered_before_the_sound_was_heard(clean: Any, study: Study) -> None:
    with running(study) as server:
        rater = Rater(clean, server.url, study).open()
        paragraphs = clean.find_elements(By.CSS_SELECTOR, "#consent-text p")
        assert [p.text for p in paragraphs][1] == "Second paragraph." and paragraphs[0].text.startswith("<script>")
        rater.one("#consent-form .primary").click()
        assert not read_answers(study).sessions  # without consent nothing begins
        rater.begin()
        for key in ("1", "3", Keys.ENTER):
            rater.type(key)
        assert not rater.run("return new FormData(document.getElementById('answer-form')).get('side')")
        assert rater.one("#hint").text == "Play the sound to its end first."
        assert not rater.one("#next").is_enabled() and not rater.session.answers
        rater.hear()
        rater.hear_again()
        assert not rater.one("#next").is_enabled()
        rater.type("2")
        rater.type("3")
        rater.type("1")
        rater.type(Keys.ENTER)
        rater.wait(lambda: rater.session.answers)
        (answer,) = rater.session.answers.values()
        shown = rater.session.plan[0]
        assert answer.choice == shown.choice("left") and answer.replays == 1 and answer.time_ms >= 400
        rater.quiet()


def test_a_rater_withdraws(clean: Any, study: Study) -> None:
    with running(study) as server:
        rater = Rater(clean, server.url, study).open(width_px=390).begin()
        rater.answer(mostly)
        rater.one("#withdraw").click()
        rater.one("#sure button[value=no]").click()
        assert rater.one("#trial").is_displayed() and not rater.session.is_withdrawn
        rater.one("#withdraw").click()
        rater.one("#withdraw-yes").click()
        rater.wait(lambda: rater.one("#end").is_displayed())
        assert rater.one("#end-title").text == "You have withdrawn" and rater.session.is_withdrawn
        assert not rater.reload().one("#withdraw").is_displayed()
        assert rater.one("#end-title").text == "You have withdrawn"
        rater.quiet()
    assert measure(study, read_answers(study))["coverage"]["left_out"]["withdrawn"] == 1
