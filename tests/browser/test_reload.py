"""What a page shows that comes back, and one whose kernel has gone."""

import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.busy import BIG, NEWEST, SHOW, Front, Scene, scene
from tests.browser.deck import Deck
from tests.browser.harness import LAB, NOTEBOOK_7
from tests.waiting import AT_ONCE_SECONDS
from tools.jupyter import JupyterServer
from tools.localhub import LocalHub

IS_LOST = re.compile(r"Run the cell again")


@pytest.fixture(scope="module", params=[LAB, pytest.param(NOTEBOOK_7, marks=pytest.mark.matrix)])
def opened(
    request: pytest.FixtureRequest, browser: Browser, jupyter: JupyterServer, slow_hub: LocalHub
) -> Iterator[Scene]:
    with scene(browser, jupyter, slow_hub, Front("reload", NEWEST, application=request.param)) as opened:
        yield opened


@pytest.fixture
def downloading(opened: Scene) -> Scene:
    """A new widget with a download under way."""
    opened.show_widget()
    opened.click("Download", state="downloading")
    return opened


def expect_present_state(deck: Deck) -> None:
    """The widget is back: it must show the download."""
    returned = time.monotonic()
    deck.expect_state(*BIG, "downloading")
    assert time.monotonic() - returned < AT_ONCE_SECONDS


def expect_progress(deck: Deck) -> None:
    """The bar moves."""
    shown = str(deck.percent(BIG[1]))
    expect(deck.progress_bar(BIG[1])).not_to_have_attribute("aria-valuenow", shown)


def test_second_view_second_tab_reload_and_reopening_show_the_present_state(downloading: Scene) -> None:
    notebook, first_cell = downloading.notebook, downloading.widget_cell
    second_cell = notebook.append("browser")
    notebook.run(second_cell)
    expect_present_state(Deck(notebook, second_cell))
    notebook.save()

    tab = notebook.open_again()
    expect_present_state(Deck(tab, first_cell))
    Deck(tab, second_cell).press("Pause", *BIG)
    for deck in (Deck(notebook, first_cell), Deck(notebook, second_cell), Deck(tab, first_cell)):
        deck.expect_state(*BIG, "paused")
    tab.page.close()
    Deck(notebook, second_cell).press("Resume", *BIG)

    notebook.reload()
    expect_present_state(Deck(notebook, first_cell))
    expect_progress(Deck(notebook, first_cell))
    reopened = notebook.open_again()
    notebook.page.close()
    expect_present_state(Deck(reopened, second_cell))
    Deck(reopened, second_cell).press("Cancel", *BIG)
    Deck(reopened, first_cell).expect_state(*BIG, "available")
    downloading.notebook = reopened


def test_after_a_restart_the_old_view_says_so_and_a_new_one_goes_on(downloading: Scene) -> None:
    old = downloading.deck
    downloading.notebook.restart_kernel()
    expect(old.root.get_by_role("alert").filter(has_text=IS_LOST)).to_be_visible()
    expect(old.row(*BIG)).to_contain_text(re.compile(r"\d+ %"))
    expect(old.button("Pause", *BIG)).to_be_disabled()
    sent = downloading.hub.requests.bytes_sent
    downloading.hub.requests.wait_until(lambda records: sum(one.bytes_sent for one in records) > sent)

    downloading.widget_cell = downloading.notebook.append(SHOW)
    downloading.notebook.run(downloading.widget_cell)
    new = downloading.deck
    new.press("Cancel", *BIG)
    expect(new.button("Cancel", *BIG)).to_have_count(0)


def test_after_the_kernel_has_died_the_last_state_can_be_read(downloading: Scene) -> None:
    deck = downloading.deck
    downloading.notebook.start(downloading.notebook.append("import os\nos._exit(1)"))
    expect(deck.root.get_by_role("alert").filter(has_text=IS_LOST)).to_be_visible()
    expect(deck.row(*BIG)).to_contain_text(re.compile(r"\d+ %"))
    expect(deck.button("Pause", *BIG)).to_be_disabled()
    expect(deck.search_box).to_be_disabled()
