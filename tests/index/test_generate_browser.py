"""The page of a generation in a real browser: pictures, player and curve show, nothing is fetched."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from unibrivl.index.generate import generate
from unibrivl.index.prompts import PromptConfig
from unibrivl.model.embed import Encoder

from ..browser import HOSTILE, assert_policy_stops_a_request, assert_quiet_and_fits, load_everything
from .generating import make_config


@pytest.mark.parametrize("width_px", [1280, 390])
def test_the_page_shows_and_fits(
    driver: Any, index: Path, beep: Path, tiny: Path, tmp_path: Path, one_encoder: Encoder, width_px: int
) -> None:
    sound = Path(shutil.copy(beep, tmp_path / f"<b>{'beep' * 30}.wav"))
    prompts = PromptConfig(given=(HOSTILE, "x" * 200))
    generate(make_config(index, sound, tiny, tmp_path / "out", n=3, prompts=prompts))
    size = {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": width_px < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    url = (tmp_path / "out/index.html").as_uri()
    driver.get("about:blank")
    for log in ("browser", "performance"):
        driver.get_log(log)
    driver.get(url)
    load_everything(driver)
    assert_quiet_and_fits(driver, url, width_px)
    assert driver.execute_script("return document.querySelectorAll('ol.large > li').length") == 2
    shown = driver.execute_script(
        "const line = document.querySelector('polyline').getBoundingClientRect();"
        "return [line.width, line.height, document.querySelector('audio').readyState]"
    )
    assert shown[0] > 100 and shown[1] > 50 and shown[2] >= 1
    assert_policy_stops_a_request(driver)
