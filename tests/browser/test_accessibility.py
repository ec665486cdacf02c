"""What axe finds in the scenes of the harness, in the themes of every front end."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.conftest import JS

AXE = JS / "node_modules" / "axe-core" / "axe.min.js"
# The page around the widget is the host's: its landmarks and headings are not the widget's business.
_RUN_AXE = """() => axe.run("#output", {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]})"""
THEMES = ["lab-light", "lab-dark", "vscode-dark", "vscode-hc", "plain"]
LARGE_SCENES = {"many", "busy"}
"""More of the same, to measure frames with."""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 900, "height": 900})
    yield page
    page.close()


def names(page: Page, harness: str, kind: str) -> list[str]:
    page.goto(harness)
    found: list[str] = page.evaluate(f"() => window.harness.{kind}")
    return found


def violations(page: Page, address: str) -> list[dict[str, Any]]:
    page.goto(address)
    page.locator(".modeldeck").wait_for()
    page.add_script_tag(path=AXE)
    result = page.evaluate(_RUN_AXE)
    assert result["passes"], "axe has looked at nothing"
    return [
        {"rule": violation["id"], "where": [node["target"] for node in violation["nodes"]]}
        for violation in result["violations"]
    ]


@pytest.mark.parametrize("theme", THEMES)
def test_scenes_are_accessible(page: Page, harness: str, theme: str) -> None:
    assert names(page, harness, "themes") == THEMES
    found = {
        scene: problems
        for scene in names(page, harness, "scenes")
        if scene not in LARGE_SCENES and (problems := violations(page, f"{harness}?scene={scene}&theme={theme}"))
    }
    assert not found


_SELECTED_TABS = """() => {
  const tabs = [...document.querySelector(".modeldeck").shadowRoot.querySelectorAll("[role=tab]")];
  return tabs.map((tab) => [tab.ariaSelected, getComputedStyle(tab).borderBottomColor]);
}"""


@pytest.fixture
def forced_page(browser: Browser, scheme: Literal["light", "dark"]) -> Iterator[Page]:
    """A page with the colours of a contrast theme of the system."""
    page = browser.new_page(viewport={"width": 900, "height": 900}, forced_colors="active", color_scheme=scheme)
    yield page
    page.close()


# In dark, axe takes the page's own colours for those that are shown.
@pytest.mark.parametrize("scheme", ["light"])
def test_scenes_are_accessible_with_forced_colours(forced_page: Page, harness: str) -> None:
    found = {
        scene: problems
        for scene in names(forced_page, harness, "scenes")
        if scene not in LARGE_SCENES and (problems := violations(forced_page, f"{harness}?scene={scene}&theme=plain"))
    }
    assert not found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_vanishes_with_forced_colours(forced_page: Page, harness: str) -> None:
    forced_page.goto(f"{harness}?scene=downloading&theme=plain")
    forced_page.locator(".modeldeck").wait_for()
    colours = forced_page.evaluate(_SELECTED_TABS)
    assert [selected for selected, _ in colours] == ["true", "false", "false"]
    assert len({colour for _, colour in colours}) == 2, "the open tab looks like the others"
    background = "getComputedStyle(document.querySelector('.modeldeck').shadowRoot.querySelector('%s')).backgroundColor"
    fill, deck = (forced_page.evaluate(background % selector) for selector in (".row .fill", ".deck"))
    assert fill != deck, "the bar of a download cannot be seen"


_CUT_OFF = """() => {
  const root = document.querySelector(".modeldeck").shadowRoot;
  const deck = root.querySelector(".deck").getBoundingClientRect();
  return [...root.querySelectorAll(".deck *")]
    .filter((element) => !element.closest(".hidden") && element.checkVisibility())
    .map((element) => [element, element.getBoundingClientRect()])
    .filter(([, box]) => box.width > 0 && (box.right > deck.right + 1 || box.left < deck.left - 1))
    .map(([element]) => `${element.tagName.toLowerCase()}.${element.className} ${element.textContent.slice(0, 40)}`);
}"""


_PLACES = """code => [0, code.firstChild.data.indexOf("(")].map((at) => {
  const range = document.createRange();
  range.setStart(code.firstChild, at);
  range.setEnd(code.firstChild, at + 1);
  return range.getBoundingClientRect().left;
})"""


def test_code_reads_from_left_to_right_on_a_page_from_right_to_left(page: Page, harness: str) -> None:
    page.goto(f"{harness}?scene=chat")
    page.evaluate("() => { document.documentElement.dir = 'rtl'; }")
    name, bracket = page.locator("pre").evaluate(_PLACES)
    assert name < bracket


SIZES = [(320, 13), (320, 26), (860, 26)]
"""Widths of the output and sizes of its text, in pixels."""


@pytest.mark.parametrize("locale", ["en", "pt-BR"])
def test_nothing_is_cut_off_in_a_narrow_place_or_with_large_text(page: Page, harness: str, locale: str) -> None:
    found = {}
    for scene in names(page, harness, "scenes"):
        if scene in LARGE_SCENES:
            continue
        page.goto(f"{harness}?scene={scene}&locale={locale}")
        page.locator(".modeldeck").wait_for()
        for width, font_size in SIZES:
            page.evaluate(
                """([width, size]) => {
                  document.getElementById("output").style.width = `${width}px`;
                  document.documentElement.style.setProperty("--jp-ui-font-size1", `${size}px`);
                }""",
                [width, font_size],
            )
            if cut_off := page.evaluate(_CUT_OFF):
                found[scene, width, font_size] = cut_off
    assert not found
