"""What tests of pages in a real browser share; `conftest.py` starts it."""

import json
from typing import Any

from selenium.webdriver.support.wait import WebDriverWait

HOSTILE = '<script>window.owned = 1</script>"><img src="https://127.0.0.1:9/x" onerror="window.owned = 1">'


def load_everything(driver: Any) -> None:
    """Open what is folded and bring every lazy picture into view."""
    driver.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    for i in range(driver.execute_script("return document.images.length")):
        driver.execute_script("document.images[arguments[0]].scrollIntoView()", i)
        WebDriverWait(driver, 20).until(
            lambda d, i=i: d.execute_script("return document.images[arguments[0]].naturalWidth > 0", i)
        )


def assert_quiet_and_fits(driver: Any, page_url: str, width_px: int) -> None:
    """Check that a loaded page ran nothing of strangers', scrolls down only, logged nothing and asked for nothing."""
    assert driver.execute_script("return typeof window.owned") == "undefined"
    assert driver.execute_script("return getComputedStyle(document.body).maxWidth") == "1200px"
    assert driver.execute_script("return innerWidth") == width_px
    scroll_px, client_px = driver.execute_script(
        "const e = document.documentElement; return [e.scrollWidth, e.clientWidth]"
    )
    assert scroll_px <= client_px <= width_px
    assert [e for e in driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")] == []
    urls = _requested(driver)
    assert page_url in urls
    assert [url[:80] for url in urls if url != page_url and not url.startswith("data:")] == []


def _requested(driver: Any) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def assert_policy_stops_a_request(driver: Any) -> None:
    """Check that a request is refused that got into the loaded page anyway."""
    blocked = driver.execute_async_script(
        """
        const done = arguments[0];
        document.addEventListener('securitypolicyviolation', e => done(e.effectiveDirective));
        new Image().src = 'http://127.0.0.1:9/x';
        """
    )
    assert blocked == "img-src"
    driver.get_log("browser")
