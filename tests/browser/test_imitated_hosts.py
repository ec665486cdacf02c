"""The widget in imitations of VS Code, Colab and nteract, as far as their code and documents say what they do."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

LONG = "many"
"""The scene with more results than there is room for."""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 900, "height": 900})
    yield page
    page.close()


def search_box(page: Page) -> Locator:
    return page.get_by_role("searchbox", name="Search models")


# --- VS Code: its page sees the widget's own element and nothing inside the shadow root -------------------------------

VSCODE = """() => {
  const heard = (window.heard = { keys: [], wheels: 0 });
  // A key that is not typed into a text field is a command of the notebook: d d deletes a cell.
  window.addEventListener("keydown", (event) => {
    if (!event.target.matches("input, textarea, [contenteditable]")) {
      heard.keys.push(event.key);
    }
  });
  // The wheel scrolls the notebook, unless something under the pointer scrolls.
  window.addEventListener("wheel", (event) => {
    for (let node = event.target; node instanceof Element; node = node.parentNode) {
      const { scrollTop, scrollHeight, clientHeight } = node;
      const canScroll = event.deltaY < 0 ? scrollTop > 0 : scrollTop + clientHeight < scrollHeight;
      if (canScroll && /auto|scroll/.test(getComputedStyle(node).overflowY)) {
        return;
      }
    }
    heard.wheels += 1;
  });
}"""


@pytest.fixture
def vscode(page: Page, harness: str) -> Page:
    page.goto(f"{harness}?scene={LONG}&theme=vscode-dark")
    page.locator(".modeldeck").wait_for()
    page.evaluate(VSCODE)
    return page


def test_typed_keys_are_no_commands_of_vscode_after_a_click_on_a_button(vscode: Page) -> None:
    vscode.get_by_role("button", name="Filters").click()
    search_box(vscode).click()
    vscode.keyboard.type("dd")
    vscode.keyboard.press("Escape")
    vscode.keyboard.press("Enter")
    expect(search_box(vscode)).to_have_value("")
    vscode.keyboard.type("dd")
    expect(search_box(vscode)).to_have_value("dd")
    author = vscode.get_by_role("textbox", name="Author")
    author.click()
    vscode.keyboard.type("dd")
    expect(author).to_have_value("dd")
    vscode.get_by_role("combobox", name="Sort by").focus()
    vscode.keyboard.type("dd")
    vscode.get_by_role("button", name="Filters").focus()
    vscode.keyboard.press("Enter")
    expect(author).to_have_count(0)
    assert vscode.evaluate("() => heard.keys") == []
    vscode.keyboard.press("Control+s")
    assert "s" in vscode.evaluate("() => heard.keys"), "the host's own shortcuts reach it"


def test_the_wheel_on_the_results_does_not_scroll_the_notebook_of_vscode(vscode: Page) -> None:
    body = vscode.locator(".body")
    body.hover()
    vscode.mouse.wheel(0, 300)
    vscode.wait_for_function("body => body.scrollTop > 0", arg=body.element_handle())
    assert vscode.evaluate("() => heard.wheels") == 0
    search_box(vscode).hover()
    vscode.mouse.wheel(0, 300)
    vscode.wait_for_function("() => heard.wheels === 1")


# --- Colab and nteract: an output is a frame that is as high as its content -------------------------------------------

FRAME = """async address => {
  document.body.innerHTML = "<iframe style='width: 100%; height: 150px; border: 0'></iframe>";
  const frame = document.querySelector("iframe");
  frame.src = address;
  await new Promise((resolve) => frame.addEventListener("load", resolve, { once: true }));
  const fit = () => { frame.style.height = `${frame.contentDocument.documentElement.offsetHeight}px`; };
  new frame.contentWindow.ResizeObserver(fit).observe(frame.contentDocument.documentElement);
}"""

HEIGHTS = """async () => {
  const frame = document.querySelector("iframe");
  const deck = frame.contentDocument.querySelector(".modeldeck").shadowRoot.querySelector(".deck");
  const found = [];
  for (let count = 0; count < 20; count += 1) {
    await new Promise(requestAnimationFrame);
    found.push([deck.offsetHeight, frame.offsetHeight]);
  }
  return found.slice(-2);
}"""


@pytest.mark.parametrize("height", [300, 900])
def test_a_frame_that_fits_its_content_does_not_shrink_the_widget(page: Page, harness: str, height: int) -> None:
    page.set_viewport_size({"width": 900, "height": height})
    page.goto(harness)
    page.evaluate(FRAME, f"{harness}?scene={LONG}")
    page.frame_locator("iframe").locator(".modeldeck").wait_for()
    before, after = page.evaluate(HEIGHTS)
    assert before == after
    assert after[0] == 576
    assert 576 < after[1] < 640


@pytest.mark.parametrize("layout", ["height: 200px", "height: 300px", "height: 2000px", "max-height: 250px"])
def test_the_deck_is_as_high_as_its_layout_says(page: Page, harness: str, layout: str) -> None:
    page.goto(f"{harness}?scene={LONG}")
    page.locator(".deck").wait_for()
    page.locator("#output").evaluate("(output, layout) => { output.style.cssText = layout; }", layout)
    found, asked = page.locator(".deck").evaluate(
        "deck => [deck, document.querySelector('#output')].map((element) => element.clientHeight)"
    )
    assert asked - 10 < found < asked


@pytest.mark.parametrize("size", ["10px", "24px"])
def test_the_root_font_of_the_host_changes_no_size(page: Page, harness: str, size: str) -> None:
    page.goto(f"{harness}?scene={LONG}")
    deck = page.locator(".deck")
    boxes = """deck => [deck, ...deck.querySelectorAll(".button, [type=search], .card")].map(
      (element) => [element.offsetWidth, element.offsetHeight])"""
    deck.wait_for()
    before = deck.evaluate(boxes)
    page.evaluate("size => { document.documentElement.style.fontSize = size; }", size)
    assert deck.evaluate(boxes) == before


# --- Colab: what a thread publishes while no cell runs is shown with the kernel's next answer -------------------------

# The model is stopped between Python and the page: what Python writes waits for the page's next request.
HOLD_BACK = """() => {
  const { model } = window.harness;
  const { write, onRequest } = model;
  const waiting = [];
  model.write = (state) => waiting.push(state);
  model.onRequest = (request) => {
    onRequest(request);
    for (const state of waiting.splice(0)) {
      write.call(model, state);
    }
  };
}"""


@pytest.mark.parametrize("is_colab", [True, False])
def test_what_a_thread_publishes_shows_in_colab_without_a_click(page: Page, harness: str, is_colab: bool) -> None:
    page.clock.install()
    if is_colab:
        page.add_init_script("window.google = { colab: {} };")
    page.goto(f"{harness}?scene=variants")
    expect(search_box(page)).to_be_visible()
    page.evaluate(HOLD_BACK)
    expect(page.locator(".card")).not_to_have_count(0)
    page.evaluate("() => window.harness.model.write({ search: { ...window.harness.traits.search, models: [] } })")
    page.clock.run_for(10_000)
    if is_colab:
        expect(page.locator(".card")).to_have_count(0)
    else:
        expect(page.locator(".card")).not_to_have_count(0)


def test_a_kernel_that_runs_a_cell_is_not_called_missing(page: Page, harness: str) -> None:
    page.clock.install()
    page.add_init_script("window.harnessIsBusy = true;")
    page.goto(f"{harness}?scene=variants")
    expect(search_box(page)).to_be_visible()
    page.clock.run_for(60_000)
    expect(page.get_by_role("note")).to_contain_text("The kernel has not answered yet; it may be running a cell.")
    expect(search_box(page)).to_be_enabled()
    page.evaluate("() => { window.harnessIsBusy = false; }")
    page.clock.run_for(60_000)
    expect(page.get_by_role("note")).to_have_count(0)
