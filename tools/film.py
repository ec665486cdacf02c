"""The animated picture of the README: a model from the search to its answer. ``make shots`` makes it.

It is filmed in Notebook 7, with the local hub at the speed of the demo and the real model. Runs inside ``.venv``.
"""

import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tools.chromium import find_chromium
from tools.demo import BYTES_PER_SECOND
from tools.environment import ROOT, say
from tools.jupyter import jupyter_server
from tools.localhub.demo import demo_hub
from tools.localhub.faults import Throttle
from tools.processes import run_environment, without_hub_settings

PATH = ROOT / "docs" / "images" / "first-model.webp"
REPO_ID = "modeldeck-demo/SmolLM2-135M-Instruct-GGUF"
CELLS = (
    "from modeldeck import ModelBrowser\n\nbrowser = ModelBrowser()\nbrowser",
    "llm = await browser\n"
    'messages = [{"role": "user", "content": "What is gravity?"}]\n'
    "answer = llm.create_chat_completion(messages=messages, max_tokens=60, temperature=0)\n"
    'print(answer["choices"][0]["message"]["content"])',
)
WIDTH_PIXELS, HEIGHT_PIXELS = 880, 680
FRAME_SECONDS = 0.2
LONGEST_SECONDS = 120.0
PAUSE_SECONDS = 1.5


class Camera:
    """Takes frames of a page. Frames that look the same become one that is shown longer."""

    def __init__(self, page: Page) -> None:
        self.frames: list[Image.Image] = []
        self.seconds: list[float] = []
        self._page = page
        self._last = b""

    def take(self, seconds: float = FRAME_SECONDS) -> None:
        data = self._page.screenshot()
        if data == self._last:
            self.seconds[-1] += seconds
            return
        self._last = data
        self.frames.append(Image.open(io.BytesIO(data)).convert("RGB"))
        self.seconds.append(seconds)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LONGEST_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError("The page did not come to the next scene.")
            began = time.monotonic()
            self.take()
            self._page.wait_for_timeout(max(0.0, FRAME_SECONDS - (time.monotonic() - began)) * 1000)
        self.take(PAUSE_SECONDS)

    def save(self, path: Path) -> None:
        milliseconds = [round(seconds * 1000) for seconds in self.seconds]
        first, *rest = self.frames
        first.save(path, save_all=True, append_images=rest, duration=milliseconds, loop=0, quality=55, method=4)


def write_notebook(path: Path) -> None:
    empty: dict[str, object] = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    cells = [{**empty, "id": f"cell-{number}", "source": source} for number, source in enumerate(CELLS)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": cells}
    path.write_text(json.dumps(content), encoding="utf-8")


def film(page: Page, camera: Camera) -> None:
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Control+Enter")
    search = page.get_by_role("searchbox", name="Search models")
    search.wait_for()
    camera.take(PAUSE_SECONDS)
    search.click()
    for letter in "smollm2":
        page.keyboard.type(letter)
        camera.take(0.12)
    get = page.get_by_role("button", name=f"of {REPO_ID}").filter(has_text="Get")
    camera.until(get.is_visible)
    get.click()
    unload = page.get_by_role("button", name=f"of {REPO_ID}").filter(has_text="Unload")
    camera.until(lambda: unload.count() > 0)
    page.locator(".jp-Notebook .jp-Cell").nth(1).click()
    page.keyboard.press("Control+Enter")
    answer = page.locator(".jp-Notebook .jp-Cell").nth(1).locator(".jp-OutputArea-output")
    camera.until(lambda: answer.count() > 0)
    answer.last.scroll_into_view_if_needed()
    camera.take(2 * PAUSE_SECONDS)


def main() -> int:
    with (
        tempfile.TemporaryDirectory() as folder,
        demo_hub() as hub,
        run_environment(
            {
                **without_hub_settings(os.environ),
                "HF_ENDPOINT": hub.endpoint,
                "HF_HOME": f"{folder}/huggingface",
                "MODELDECK_STATE_DIR": f"{folder}/state",
            }
        ) as environment,
        sync_playwright() as playwright,
    ):
        hub.faults.add(Throttle(3 * BYTES_PER_SECOND, is_shared=True), origin="cdn")
        home = Path(folder, "home")
        home.mkdir()
        write_notebook(home / "first-model.ipynb")
        with jupyter_server(root=home, home=home, environment=environment) as server:
            browser = playwright.chromium.launch(
                executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": WIDTH_PIXELS, "height": HEIGHT_PIXELS})
            page.set_default_timeout(LONGEST_SECONDS * 1000)
            page.goto(server.page("first-model.ipynb", application="notebooks"))
            page.locator(".jp-Notebook .jp-Cell").nth(1).wait_for()
            page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
            camera = Camera(page)
            film(page, camera)
            camera.save(PATH)
            browser.close()
    say(f"{PATH.relative_to(ROOT)}, {PATH.stat().st_size // 1024} KiB, {sum(camera.seconds):.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
