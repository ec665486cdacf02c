"""marimo and Voilà in a real Chromium, with as much of `Notebook` as the tests of hosts need."""

import contextlib
import os
import secrets
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page

from tests.browser.harness import VIEWPORT, write_kernel, write_notebook
from tests.waiting import PATIENCE_SECONDS
from tools.hosts import hosts_python
from tools.jupyter import JupyterServer
from tools.processes import run_environment, without_hub_settings

POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class AppPage:
    """A page that shows cells. ``cells`` is a CSS selector for their outputs, or for the widgets in them."""

    page: Page
    cells: str

    def widget(self, index: int) -> Locator:
        return self.page.locator(self.cells).nth(index)

    def close(self) -> None:
        self.page.context.close()


def new_page(browser: Browser) -> Page:
    page = browser.new_context(viewport=VIEWPORT).new_page()
    page.set_default_timeout(PATIENCE_SECONDS * 1000)
    return page


@contextlib.contextmanager
def voila_app(
    browser: Browser, server: JupyterServer, notebook: list[str], name: str, variables: Mapping[str, str]
) -> Iterator[AppPage]:
    """Open a notebook as a Voilà app. Its kernel ends with its server."""
    write_kernel(server, name, python=hosts_python(), environment=variables)
    write_notebook(server.root / f"{name}.ipynb", notebook, kernel=name)
    page = new_page(browser)
    page.goto(server.page(f"{name}.ipynb", application="voila/render"))
    app = AppPage(page, ".jp-Cell")
    try:
        yield app
    finally:
        app.close()


@contextlib.contextmanager
def marimo_notebook(
    browser: Browser, notebook: Path, folder: Path, variables: Mapping[str, str], *, command: str = "edit"
) -> Iterator[AppPage]:
    """Open a notebook in a marimo of its own, with all of its cells run. It is not changed, because marimo saves it.

    ``command`` is ``edit`` or ``run``.
    """
    copy = folder / notebook.name
    copy.write_bytes(notebook.read_bytes())
    home = folder / "home"
    settings = home / "CONFIG" / "marimo" / "marimo.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text("[runtime]\nauto_instantiate = true\n")
    user = {"HOME": str(home), **{f"XDG_{kind}_HOME": str(home / kind) for kind in ("CACHE", "CONFIG", "STATE")}}
    port, token = _free_port(), secrets.token_hex(8)
    address = f"http://127.0.0.1:{port}/"
    options = ("--headless", "--host", "127.0.0.1", "--port", str(port), "--token", "--token-password", token)
    if command == "edit":
        options = (*options, "--skip-update-check")
    log = folder / "marimo.log"
    with (
        run_environment({**without_hub_settings(os.environ), **user, **variables}) as environment,
        log.open("wb") as output,
    ):
        process = subprocess.Popen(
            [hosts_python(), "-m", "marimo", command, *options, str(copy)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_for(address + "health", process, log)
            page = new_page(browser)
            page.goto(f"{address}?access_token={token}")
            app = AppPage(page, "marimo-anywidget")
            yield app
            app.close()
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=PATIENCE_SECONDS):
            return
        time.sleep(POLL_SECONDS)
    raise AssertionError("marimo did not start. Its log says:\n" + log.read_text(encoding="utf-8", errors="replace"))
