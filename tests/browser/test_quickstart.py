"""The quickstart notebook, done by a user in a real browser, on a real model."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from modeldeck.engine.retry import RetryPolicy
from tests.browser.deck import Deck
from tests.browser.harness import NOTEBOOK_7, Notebooks
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub
from tools.localhub.faults import Throttle

QUICKSTART = Path(__file__).parents[2] / "notebooks" / "01-quickstart.ipynb"
WIDGET_CELL, AWAIT_CELL, CHAT_CELL = 1, 3, 4
REAL = "modeldeck-demo/SmolLM2-135M-Instruct-GGUF"
TINY = "modeldeck-demo/tiny-chat-GGUF"
GATED = "modeldeck-demo/tiny-gated-GGUF"
POLICY = RetryPolicy()
LONGEST_WAITS_SECONDS = sum(
    min(POLICY.cap_seconds, POLICY.base_seconds * 2**failure) for failure in range(POLICY.max_attempts - 1)
)
"""A download waits at random, up to so long in all, before it gives up."""
SHOW_WIDGET = 'from modeldeck import ModelBrowser\nbrowser = ModelBrowser("{query}")\nbrowser'

SHOW_NOTICES = """
import time
while browser._view["hardware"] is None or browser._view["engine"]["mode"] is None:
    time.sleep(0.1)

def add_notices(change=None):
    # Again after the widget has looked at the machine again, which says nothing of the kind here.
    view = browser._view
    browser._view = {
        **view,
        "hardware": {**view["hardware"], "notice": "The installed llama-cpp-python cannot use this GPU. " * 3},
        "llama": {
            **view["llama"],
            "is_available": False,
            "message": "Loading a model needs llama-cpp-python, in either of two ways. " * 3,
        },
    }

browser.observe(add_notices, "_view")
add_notices()
"""


@pytest.fixture
def kernel_environment(demo_hub: LocalHub, tmp_path: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": demo_hub.endpoint, "HF_HUB_CACHE": str(tmp_path / "hub-cache"), "HF_HOME": str(tmp_path)}


@pytest.fixture
def slow(demo_hub: LocalHub) -> Callable[[float], None]:
    """Limit the speed of all downloads together."""

    def limit(bytes_per_second: float) -> None:
        demo_hub.faults.clear()
        demo_hub.faults.add(Throttle(bytes_per_second, is_shared=True), origin="cdn")

    return limit


def test_download_pause_resume_load_and_chat(notebooks: Notebooks, slow: Callable[[float], None]) -> None:
    slow(12e6)
    notebook = notebooks.open(QUICKSTART)
    notebook.run(WIDGET_CELL)
    deck = Deck(notebook, WIDGET_CELL)
    expect(deck.root).to_contain_text("127.0.0.1")
    deck.open(REAL)
    expect(deck.row("Q4_1", REAL)).to_contain_text("98.4 MB")
    deck.press("Download", "Q4_1", REAL)

    bar = deck.progress_bar(REAL)
    expect(bar).to_have_attribute("aria-valuetext", re.compile(r"MB/s"))
    notebook.screenshot("downloading", deck.root)
    deck.press("Pause", "Q4_1", REAL)
    deck.expect_state("Q4_1", REAL, "paused")
    at_pause = deck.percent(REAL)
    assert 0 <= at_pause < 100
    deck.press("Resume", "Q4_1", REAL)
    expect(deck.button("Load", "Q4_1", REAL)).to_be_enabled()
    deck.expect_toast("verified")
    deck.expect_state("Q4_1", REAL, "downloaded")

    # The cell waits first, and the click comes while it runs.
    notebook.start(AWAIT_CELL)
    assert not notebook.is_finished(AWAIT_CELL)
    deck.press("Load", "Q4_1", REAL)
    notebook.wait(AWAIT_CELL)
    deck.expect_state("Q4_1", REAL, "loaded")
    assert "Gravity is" in notebook.run(CHAT_CELL)
    assert "Gravity is" in notebook.execute(
        "print(browser.llm.create_chat_completion("
        "messages=[{'role': 'user', 'content': 'What is gravity?'}], max_tokens=48, temperature=0.0"
        ")['choices'][0]['message']['content'])"
    )
    deck.press("Unload", "Q4_1", REAL)
    deck.expect_state("Q4_1", REAL, "downloaded")
    assert "None" in notebook.execute("print(browser.llm)")


def test_typing_searches_and_reloading_shows_the_same(notebooks: Notebooks, slow: Callable[[float], None]) -> None:
    slow(4e6)
    notebook = notebooks.open([SHOW_WIDGET.format(query="smollm2")])
    notebook.run(0)
    deck = Deck(notebook, 0)
    expect(deck.card(REAL)).to_be_visible()
    deck.search_box.fill("tiny-chat")
    expect(deck.card(TINY)).to_be_visible()
    expect(deck.card(REAL)).to_have_count(0)
    deck.search_box.fill("smollm2")
    deck.open(REAL)
    deck.press("Download", "Q4_1", REAL)
    expect(deck.progress_bar(REAL)).to_be_visible()
    notebook.save()
    before = deck.percent(REAL)
    notebook.reload()
    deck = Deck(notebook, 0)
    expect(deck.search_box).to_have_value("smollm2")
    deck.expect_state("Q4_1", REAL, "downloading")
    assert deck.percent(REAL) >= before
    slow(1e9)
    expect(deck.button("Load", "Q4_1", REAL)).to_be_enabled()


def test_progress_goes_on_and_cancel_works_while_a_cell_sleeps(
    notebooks: Notebooks, slow: Callable[[float], None]
) -> None:
    slow(2e6)
    notebook = notebooks.open([SHOW_WIDGET.format(query="smollm2"), "import time\ntime.sleep(30)"])
    notebook.run(0)
    deck = Deck(notebook, 0)
    deck.open(REAL)
    deck.press("Download", "Q4_1", REAL)
    deck.expect_state("Q4_1", REAL, "downloading")
    notebook.start(1)
    first = deck.percent(REAL)
    expect(deck.progress_bar(REAL)).not_to_have_attribute("aria-valuenow", str(first))
    assert deck.percent(REAL) > first
    deck.press("Cancel", "Q4_1", REAL)
    expect(deck.button("Download", "Q4_1", REAL)).to_be_visible()
    assert not notebook.is_finished(1), "the cell still sleeps"
    notebook.interrupt_kernel()


def test_a_failure_stays_on_the_card_and_retry_finishes(
    notebooks: Notebooks, demo_hub: LocalHub, slow: Callable[[float], None]
) -> None:
    slow(8e6)
    notebook = notebooks.open([SHOW_WIDGET.format(query="smollm2")])
    notebook.run(0)
    deck = Deck(notebook, 0)
    deck.open(REAL)
    deck.press("Download", "Q4_1", REAL)
    deck.expect_state("Q4_1", REAL, "downloading")
    demo_hub.stop()
    deck.expect_state("Q4_1", REAL, "failed", timeout_seconds=LONGEST_WAITS_SECONDS + PATIENCE_SECONDS)
    deck.expect_alert(REAL, re.compile("connect|reach", re.IGNORECASE))
    notebook.screenshot("error", deck.root)
    demo_hub.start()
    demo_hub.faults.clear()
    deck.press("Retry", "Q4_1", REAL)
    expect(deck.button("Load", "Q4_1", REAL)).to_be_enabled()


def test_a_gated_repository_says_where_to_ask(notebooks: Notebooks, demo_hub: LocalHub) -> None:
    notebook = notebooks.open([SHOW_WIDGET.format(query="gated")])
    notebook.run(0)
    deck = Deck(notebook, 0)
    deck.open(GATED)
    deck.press("Download", "Q8_0", GATED)
    expect(deck.card(GATED).get_by_role("alert").get_by_role("link").first).to_have_attribute(
        "href", f"{demo_hub.endpoint}/{GATED}"
    )


def test_remove_gives_the_download_button_back(notebooks: Notebooks) -> None:
    notebook = notebooks.open([SHOW_WIDGET.format(query="tiny-chat")])
    notebook.run(0)
    deck = Deck(notebook, 0)
    deck.open(TINY)
    deck.press("Download", "Q8_0", TINY)
    deck.expect_state("Q8_0", TINY, "downloaded")
    deck.press("Remove", "Q8_0", TINY)
    deck.press("Really remove", "Q8_0", TINY)
    expect(deck.button("Download", "Q8_0", TINY)).to_be_visible()


def test_every_button_of_a_narrow_page_shows_something(notebooks: Notebooks) -> None:
    notebook = notebooks.open([SHOW_WIDGET.format(query="tiny")], application=NOTEBOOK_7)
    notebook.page.set_viewport_size({"width": 420, "height": 800})
    notebook.run(0)
    deck = Deck(notebook, 0)
    deck.open(TINY)
    width = deck.root.evaluate("root => root.getBoundingClientRect().width")
    assert 280 < width < 420
    notebook.screenshot("narrow", deck.root)
    for button in deck.root.get_by_role("button").all():
        ink = button.evaluate(
            "button => [...button.querySelectorAll('span')].some(part => part.getBoundingClientRect().width > 0)"
            " || button.innerText.trim() !== ''"
        )
        assert ink, button.get_attribute("aria-label") or button.inner_html()
    deck.root.evaluate("root => root.style.setProperty('--jp-ui-font-size1', '26px')")
    icon = deck.root.locator(".field .icon").bounding_box()
    box = deck.search_box.bounding_box()
    assert icon
    assert box
    before_text = deck.search_box.evaluate("box => parseFloat(getComputedStyle(box).paddingLeft)")
    assert icon["x"] + icon["width"] <= box["x"] + before_text, "in large type the icon stands on the text"


def test_jupyterlabs_shortcuts_work_on_buttons_and_typed_letters_are_none(notebooks: Notebooks) -> None:
    notebook = notebooks.open([SHOW_WIDGET.format(query="tiny-chat"), "1"])
    notebook.run(0)
    deck = Deck(notebook, 0)
    is_dirty = "() => window.jupyterapp.shell.currentWidget.context.model.dirty"
    assert notebook.page.evaluate(is_dirty)
    deck.root.get_by_role("button", name="Filters").click()
    notebook.page.keyboard.press("d")
    notebook.page.keyboard.press("d")
    notebook.page.keyboard.press("Control+s")
    notebook.page.wait_for_function(f"() => !({is_dirty})()")
    deck.root.get_by_role("button", name="Filters").focus()
    notebook.page.keyboard.press("Control+Shift+c")
    expect(notebook.page.locator(".lm-CommandPalette-input")).to_be_visible()
    notebook.page.keyboard.press("Escape")
    deck.search_box.click()
    notebook.page.keyboard.type("dd")
    expect(deck.search_box).to_have_value("tiny-chatdd")
    expect(notebook.cell(1)).to_be_visible()


def test_the_name_on_a_card_can_be_selected(notebooks: Notebooks) -> None:
    notebook = notebooks.open([SHOW_WIDGET.format(query="tiny-chat")])
    notebook.run(0)
    deck = Deck(notebook, 0)
    toggle = deck.root.get_by_role("button", name=f"Show files of {TINY}")
    heading = deck.card(TINY).get_by_role("heading")
    heading.drag_to(heading, source_position={"x": 1, "y": 8}, target_position={"x": 400, "y": 8})
    assert notebook.page.evaluate("() => String(getSelection())") == TINY
    expect(toggle).to_have_attribute("aria-expanded", "false")
    deck.search_box.click()
    heading.click()
    expect(toggle).to_have_attribute("aria-expanded", "true")


def test_a_short_page_with_notices_leaves_room_for_the_results(notebooks: Notebooks) -> None:
    notebook = notebooks.open([SHOW_WIDGET.format(query="tiny-chat"), SHOW_NOTICES], application=NOTEBOOK_7)
    notebook.page.set_viewport_size({"width": 640, "height": 360})
    notebook.run(0)
    deck = Deck(notebook, 0)
    expect(deck.card(TINY)).to_be_visible()
    notebook.run(1)
    notices = deck.root.get_by_role("note")
    expect(notices).to_have_count(2)
    deck.root.evaluate("root => root.scrollIntoView({ block: 'end' })")
    notices.last.hover()
    notebook.page.mouse.wheel(0, 1000)
    expect(deck.root.get_by_role("button", name=f"Show files of {TINY}")).to_be_in_viewport(ratio=1)
    notebook.screenshot("short")
