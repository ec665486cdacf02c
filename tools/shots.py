"""``make shots``: takes the pictures of the widget for the README and the documentation. Runs inside ``.venv``.

The pictures show the real page with states that the product's own code made (``tools/scenes.py``), in a light and in a
dark notebook. The social card is what other sites show of a link to the repository.
"""

import contextlib
import os
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tools.chromium import find_chromium
from tools.environment import JAVASCRIPT, ROOT, say

FOLDER = ROOT / "docs" / "images"
SCENES = {"variants": "variants", "downloading": "download", "chat": "loaded"}
"""The scenes of the harness, and the names of their pictures."""
THEMES = {"lab-light": "light", "lab-dark": "dark"}
WIDTH_PIXELS = 860
SCALE = 1.5
CARD = """
<body style="margin: 0; width: 1280px; height: 640px; overflow: hidden; background: #f6f8fb; font-family: sans-serif">
<div style="position: absolute; left: 64px; top: 150px; width: 400px">
  <h1 style="font-size: 60px; margin: 0 0 24px">modeldeck</h1>
  <p style="font-size: 28px; line-height: 1.4; color: #444">Find GGUF models, see which fit, download them verified, and
  use them in the next cell.</p>
  <code style="font-size: 24px">pip install modeldeck</code>
</div>
<img src="data:image/png;base64,{picture}" width="860" style="position: absolute; left: 500px; top: 56px;
  border-radius: 8px; box-shadow: 0 8px 32px #0003">
"""
"""The social card: 1280 by 640 pixels, as GitHub wants it. The picture continues beyond its edge."""


@contextlib.contextmanager
def harness() -> Iterator[str]:
    """Serve the page of the harness and yield its address."""
    command = ["node", "build.mjs", "--harness"]
    variables = {**os.environ, "PORT": "0"}
    with subprocess.Popen(command, cwd=JAVASCRIPT, env=variables, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.send_signal(signal.SIGTERM)


def take(folder: Path) -> list[Path]:
    """Take all pictures into a folder, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    with harness() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH_PIXELS + 24, "height": 900}, device_scale_factor=SCALE)
        for scene, name in SCENES.items():
            for theme, brightness in THEMES.items():
                page.goto(f"{address}?scene={scene}&theme={theme}&width={WIDTH_PIXELS}")
                widget = page.locator(".modeldeck").first
                widget.wait_for()
                path = folder / f"{name}-{brightness}.png"
                widget.screenshot(path=path, animations="disabled")
                shrink(path)
                taken.append(path)
        page = browser.new_page(viewport={"width": 1280, "height": 640})
        page.set_content(CARD.format(picture=b64encode((folder / "variants-light.png").read_bytes()).decode()))
        taken.append(folder / "social-card.png")
        page.screenshot(path=taken[-1])
        shrink(taken[-1])
        browser.close()
    return taken


def shrink(path: Path) -> None:
    """Reduce a picture to 256 colours, which is a third of its size and looks the same."""
    with Image.open(path) as picture:
        reduced = picture.convert("RGB").quantize(256)
    reduced.save(path, optimize=True)


def main() -> int:
    for path in take(FOLDER):
        say(f"{path.relative_to(ROOT)}, {path.stat().st_size // 1024} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
