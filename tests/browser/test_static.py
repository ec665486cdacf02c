"""A widget on a page without a kernel: an exported notebook."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbconvert.exporters import HTMLExporter, SlidesExporter
from playwright.sync_api import Browser, Route, expect

from tools.html_manager import local_copy
from tools.localhub import LocalHub
from tools.processes import run_environment, without_hub_settings

READY = "modeldeck-demo/tiny-chat-GGUF"
CELL = f"""
import time
import modeldeck

browser = modeldeck.ModelBrowser()
display(browser)
modeldeck.download("{READY}:Q8_0")
while browser._search["state"] != "done" or not browser._library["models"]:
    time.sleep(0.1)
"""
"""One cell: nbconvert drops what a widget publishes on behalf of an earlier cell."""


@pytest.fixture(scope="module")
def executed(slow_hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    """The notebook, run without a page and saved with the state of its widgets."""
    folder = tmp_path_factory.mktemp("executed")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    nbformat.write(notebook, folder / "notebook.ipynb")
    user = {
        "HF_ENDPOINT": slow_hub.endpoint,
        "HF_HOME": str(folder),
        "IPYTHONDIR": str(folder / "ipython"),
        **{f"MODELDECK_{kind}_DIR": str(folder / kind.lower()) for kind in ("RUNTIME", "STATE")},
    }
    with run_environment({**without_hub_settings(os.environ), **user}) as environment:
        command = [sys.executable, "-m", "nbconvert", "--execute", "--inplace", "--to", "notebook", "notebook.ipynb"]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return nbformat.read(folder / "notebook.ipynb", as_version=4)


def answer(route: Route) -> None:
    """The page's scripts come from this machine; all else is not there."""
    if "anywidget" in route.request.url:
        path: Path | None = Path(sys.prefix, "share", "jupyter", "nbextensions", "anywidget", "index.js")
    else:
        path = local_copy(route.request.url)
    if path is None:
        route.abort()
    else:
        route.fulfill(path=path, content_type="text/javascript")


@pytest.mark.parametrize(
    ("exporter", "theme"),
    [
        (HTMLExporter(template_name="lab"), "light"),
        (HTMLExporter(template_name="lab", theme="dark"), "dark"),
        (HTMLExporter(template_name="classic"), "light"),
        (SlidesExporter(), "light"),
    ],
    ids=["lab", "lab-dark", "classic", "slides"],
)
def test_an_exported_notebook_shows_the_last_state_and_its_buttons_are_off(
    browser: Browser, executed: nbformat.NotebookNode, tmp_path: Path, exporter: HTMLExporter, theme: str
) -> None:
    exported = tmp_path / "notebook.html"
    exported.write_text(exporter.from_notebook_node(executed)[0], encoding="utf-8")
    # The page has its own background, whatever the system prefers.
    page = browser.new_page(color_scheme="light" if theme == "dark" else "dark")
    page.route(lambda address: address.startswith("https:"), answer)
    page.goto(exported.as_uri())
    expect(page.get_by_role("note")).to_contain_text("buttons are disabled")
    expect(page.locator(".modeldeck")).to_have_attribute("data-theme", theme)
    expect(page.get_by_role("heading", name=READY)).to_be_visible()
    expect(page.get_by_role("searchbox", name="Search models")).to_be_disabled()
    buttons = page.get_by_role("button", name="Show files of").all()
    assert buttons
    assert all(button.is_disabled() for button in buttons)
    page.get_by_role("tab", name="Library").click()
    expect(page.get_by_role("list", name="Library")).to_contain_text("Q8_0")
    page.close()
