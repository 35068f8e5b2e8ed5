"""Makes docs/search-page.png: `python tests/index/picture.py INDEX docs/search-page.png`, INDEX of `make demo`.

The question is one item less another: those named after the two paths (of the stamps,
`gen_xHlhWQOVfdY_000000000/image gen_gtdsvnqpSlQ_000000000/image`: a tiger without the kitten), or the first two that
the page offers. The page is shown as it comes.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

WIDTH_PX, HEIGHT_PX = 1280, 1010
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
READY = (
    "return document.body.dataset.ready === 'yes' && !document.querySelector('[aria-busy]') "
    "&& [...document.images].slice(0, 14).every((image) => image.complete)"
)


def main(index: str, out: str, *items: str) -> None:
    words = [sys.executable, "-m", "unibrivl", "serve", index, "--port", "0", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            told = ""
            while not told.endswith("}\n"):
                told += server.stdout.readline()
            take(json.loads(told)["url"], Path(out), items)
        finally:
            server.terminate()


def take(url: str, out: Path, items: tuple[str, ...]) -> None:
    with urllib.request.urlopen(f"{url}/v1/index") as answer:
        examples = [example["item_id"] for example in json.load(answer)["examples"]]
    asked = items or tuple(examples[:2])
    address = f"{url}/?" + urlencode([("item", item) for item in asked] + [("w", "1,-0.4")] * (len(asked) == 2))
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={WIDTH_PX},{HEIGHT_PX}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(executable_path=shutil.which("chromedriver")))
        try:
            size = {"width": WIDTH_PX, "height": HEIGHT_PX, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            driver.get(address)
            WebDriverWait(driver, 60).until(lambda d: d.execute_script(READY))
            time.sleep(0.5)  # players draw themselves late
            driver.save_screenshot(str(out))
        finally:
            driver.quit()
    with Image.open(out) as picture:  # 256 colours: a third of the bytes
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
