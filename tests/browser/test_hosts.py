"""What a user does, in every notebook that has automatic tests: search, cancel, download, load, use in another cell.

``make hosts`` installs the hosts in an environment of their own and runs these tests.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.busy import BIG, TINY
from tests.browser.deck import Deck
from tests.browser.harness import CLASSIC, LAB, NOTEBOOK_7, Notebooks
from tests.browser.hosts import marimo_notebook, voila_app
from tools.hosts import hosts_python
from tools.jupyter import JupyterServer
from tools.localhub import LocalHub

pytestmark = pytest.mark.hosts

QUICKSTART = Path(__file__).parents[2] / "notebooks" / "05-marimo.py"
SHOW = 'from modeldeck import ModelBrowser\nbrowser = ModelBrowser("smollm2")\nbrowser'
USE = """
llm = await browser
print(llm.create_chat_completion(
    messages=[{"role": "user", "content": "Hello?"}], max_tokens=16, temperature=0.0
)["choices"][0]["message"]["content"])
"""
USE_WHEN_LOADED = """
import ipywidgets
answer = ipywidgets.Label("No model yet.")
def use(change):
    if change.new is None:
        answer.value = "No model any more."
    else:
        completion = change.new.create_chat_completion(
            messages=[{"role": "user", "content": "Hello?"}], max_tokens=16, temperature=0.0
        )
        answer.value = completion["choices"][0]["message"]["content"]
browser.observe(use, "llm")
answer
"""
ANSWER = "Hello from a tiny test model."


@pytest.fixture(scope="module")
def server(start_jupyter: Callable[..., JupyterServer]) -> JupyterServer:
    return start_jupyter(python=hosts_python())


@pytest.fixture
def variables(slow_hub: LocalHub, tmp_path: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": slow_hub.endpoint,
        "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
        "HF_HOME": str(tmp_path),
        "MODELDECK_STATE_DIR": str(tmp_path / "state"),
    }


@pytest.fixture
def notebooks(
    browser: Browser, server: JupyterServer, variables: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[Notebooks]:
    notebooks = Notebooks(browser, server, re.sub(r"\W+", "-", request.node.name).strip("-"), variables)
    yield notebooks
    notebooks.close()


def search_cancel_download_and_load(deck: Deck) -> None:
    deck.search_box.fill("tiny-chat")
    expect(deck.card(TINY[1])).to_be_visible()
    expect(deck.card(BIG[1])).to_have_count(0)
    deck.search_box.fill("smollm2")
    deck.open(BIG[1])
    deck.press("Download", *BIG)
    deck.expect_state(*BIG, "downloading")
    deck.press("Cancel", *BIG)
    expect(deck.button("Download", *BIG)).to_be_visible()
    deck.search_box.fill("tiny-chat")
    deck.open(TINY[1])
    deck.press("Download", *TINY)
    deck.expect_state(*TINY, "downloaded")
    deck.press("Load", *TINY)
    deck.expect_state(*TINY, "loaded")


@pytest.mark.parametrize("application", [LAB, NOTEBOOK_7, CLASSIC])
def test_the_user_script_in_jupyter(notebooks: Notebooks, application: str) -> None:
    notebook = notebooks.open([SHOW], application=application, python=hosts_python())
    notebook.run(0)
    deck = Deck(notebook, 0)
    search_cancel_download_and_load(deck)
    assert ANSWER in notebook.execute(USE)
    deck.press("Unload", *TINY)
    deck.expect_state(*TINY, "downloaded")
    assert notebook.execute("print(browser.llm, browser.loaded)").split() == ["None", "None"]


def test_clicks_in_nbclassic_wait_for_the_running_cell(notebooks: Notebooks) -> None:
    notebook = notebooks.open([SHOW, "import time\ntime.sleep(600)"], application=CLASSIC, python=hosts_python())
    notebook.run(0)
    deck = Deck(notebook, 0)
    deck.open(BIG[1])
    expect(deck.button("Download", *BIG)).to_be_enabled()
    notebook.start(1)
    deck.press("Download", *BIG)
    expect(deck.row(*BIG)).to_contain_text("Waiting for the running cell to finish")
    assert not notebook.is_finished(1)
    notebook.interrupt_kernel()
    deck.expect_state(*BIG, "downloading")
    deck.press("Cancel", *BIG)
    expect(deck.button("Download", *BIG)).to_be_visible()


def test_the_theme_is_that_of_the_page_and_not_of_a_dark_system(notebooks: Notebooks) -> None:
    notebook = notebooks.open([SHOW], application=CLASSIC, python=hosts_python())
    notebook.page.emulate_media(color_scheme="dark")
    notebook.run(0)
    deck = Deck(notebook, 0)
    host = deck.root.locator(".modeldeck")
    expect(host).to_have_attribute("data-theme", "light")
    pill = deck.root.locator(".pill").first
    assert pill.evaluate("pill => getComputedStyle(pill).colorScheme") == "light"
    # A light page that turns dark, as with a theme of nbclassic.
    notebook.page.add_style_tag(content="body, #notebook, #notebook-container, .cell { background: #111 !important }")
    notebook.page.evaluate("() => document.body.classList.add('dark')")
    expect(host).to_have_attribute("data-theme", "dark")


def test_the_user_script_in_voila(browser: Browser, server: JupyterServer, variables: dict[str, str]) -> None:
    with voila_app(browser, server, [SHOW, USE_WHEN_LOADED], "voila-script", variables) as app:
        deck = Deck(app, 0)
        expect(app.page.get_by_text("No model yet.")).to_be_visible()
        search_cancel_download_and_load(deck)
        expect(app.page.get_by_text(ANSWER)).to_be_visible()
        deck.press("Unload", *TINY)
        expect(app.page.get_by_text("No model any more.")).to_be_visible()


def test_a_cell_that_waits_in_voila_ends_at_once_and_says_why(
    browser: Browser, server: JupyterServer, variables: dict[str, str]
) -> None:
    wait = "try:\n    await browser\nexcept Exception as error:\n    print(f'{type(error).__name__}: {error}')"
    with voila_app(browser, server, [SHOW, wait], "voila-wait", variables) as app:
        expect(app.widget(1)).to_contain_text("NoFrontEndError: Voilà shows its page when all cells have run")
        expect(app.widget(1)).to_contain_text("browser.observe(")


def test_a_cell_that_waits_in_marimo_ends_at_once_and_says_why(
    browser: Browser, variables: dict[str, str], tmp_path: Path
) -> None:
    notebook = tmp_path / "wait.py"
    notebook.write_text(
        "import marimo\n\napp = marimo.App()\n\n\n"
        "@app.cell\nasync def _():\n"
        "    import marimo as mo\n    from modeldeck import ModelBrowser, NoFrontEndError\n"
        "    try:\n        await ModelBrowser()\n    except NoFrontEndError as error:\n        answer = str(error)\n"
        "    mo.md(answer)\n    return\n",
        encoding="utf-8",
    )
    (tmp_path / "marimo").mkdir()
    with marimo_notebook(browser, notebook, tmp_path / "marimo", variables) as opened:
        expect(opened.page.get_by_text("marimo delivers clicks when no cell runs")).to_be_visible()


@pytest.mark.parametrize("command", ["edit", "run"])
def test_the_user_script_in_marimo(browser: Browser, variables: dict[str, str], tmp_path: Path, command: str) -> None:
    with marimo_notebook(browser, QUICKSTART, tmp_path, variables, command=command) as notebook:
        deck = Deck(notebook, 0)
        expect(notebook.page.get_by_text("Press Load in the widget.")).to_be_visible()
        search_cancel_download_and_load(deck)
        expect(notebook.page.get_by_text(ANSWER)).to_be_visible()
        deck.press("Unload", *TINY)
        expect(notebook.page.get_by_text(ANSWER)).to_have_count(0)


def test_the_widget_scrolls_itself_in_marimo_and_its_search_box_stays_in_sight(
    browser: Browser, variables: dict[str, str], tmp_path: Path
) -> None:
    with marimo_notebook(browser, QUICKSTART, tmp_path, variables) as notebook:
        deck = Deck(notebook, 0)
        deck.search_box.fill("")
        expect(deck.card(TINY[1])).to_be_visible()
        for repo_id in (BIG[1], TINY[1]):
            deck.open(repo_id)
            expect(deck.root.get_by_role("list", name=f"Files of {repo_id}")).to_be_visible()
        area = notebook.page.locator("[data-cell-id] .output-area").filter(has=deck.root)
        overflow = area.evaluate("area => area.scrollHeight - area.clientHeight")
        body = deck.root.locator(".body")
        body_overflow = body.evaluate("body => body.scrollHeight - body.clientHeight")
        assert body_overflow > 0, "the test needs more results than there is room for"
        assert overflow == 0
        body.hover()
        notebook.page.mouse.wheel(0, 10_000)
        notebook.page.wait_for_function("body => body.scrollTop > 0", arg=body.element_handle())
        expect(deck.search_box).to_be_in_viewport(ratio=1)
