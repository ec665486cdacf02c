"""How often the widget is told of progress, and what it shows after C code has kept Python from running."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.browser.busy import BIG, NEWEST, Front, Scene, scene, slow_down
from tests.waiting import AT_ONCE_SECONDS
from tools.jupyter import JupyterServer
from tools.localhub import LocalHub

UPDATES_PER_SECOND = 4
HOLD_SECONDS = 3
HOLD_BYTES_PER_SECOND = 8e6

OTHERS = [("F16", "modeldeck-demo/tiny-chat-GGUF"), ("F16", "modeldeck-demo/tiny-split-GGUF")]

# Counts what arrives for the widget, on the page's own connection to the kernel.
_COUNT_UPDATES = """() => {
  const times = (window.modeldeckUpdates = []);
  const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
  kernel.iopubMessage.connect((_, message) => {
    if (message.header.msg_type === "comm_msg" && message.content.data?.state?._downloads) {
      times.push(performance.now());
    }
  });
}"""

# Notes when the bar moves, in seconds since 1970, and to which percentage.
_WATCH_BAR = """bar => {
  const seen = (window.modeldeckBar = []);
  new MutationObserver(() => seen.push([Date.now() / 1000, Number(bar.getAttribute("aria-valuenow"))]))
    .observe(bar, { attributes: true, attributeFilter: ["aria-valuenow"] });
}"""


@pytest.fixture(scope="module")
def opened(browser: Browser, jupyter: JupyterServer, slow_hub: LocalHub) -> Iterator[Scene]:
    with scene(browser, jupyter, slow_hub, Front("rates", NEWEST)) as opened:
        opened.show_widget()
        yield opened


def evaluate(opened: Scene, expression: str) -> Any:
    return opened.notebook.page.evaluate(expression)


def test_several_downloads_make_no_more_than_four_updates_a_second(opened: Scene) -> None:
    slow_down(opened.hub, 3e4)
    opened.deck.open(OTHERS[1][1])
    for label, repo_id in OTHERS:
        opened.deck.press("Download", label, repo_id)
        opened.deck.expect_state(label, repo_id, "downloading")
    opened.click("Download", state="downloading")
    evaluate(opened, _COUNT_UPDATES)
    opened.notebook.page.wait_for_function("() => window.modeldeckUpdates.length > 3 * 4")
    times = evaluate(opened, "() => window.modeldeckUpdates")
    seconds = (times[-1] - times[0]) / 1000
    assert (len(times) - 1) / seconds <= UPDATES_PER_SECOND * 1.05
    for label, repo_id in [*OTHERS, BIG]:
        opened.deck.press("Cancel", label, repo_id)
        opened.deck.expect_state(label, repo_id, "available")
    slow_down(opened.hub)


def test_after_c_code_held_the_interpreter_the_widget_is_right_again(opened: Scene) -> None:
    slow_down(opened.hub, HOLD_BYTES_PER_SECOND)
    opened.click("Download", state="downloading")
    bar = opened.deck.progress_bar(BIG[1])
    bar.evaluate(_WATCH_BAR)
    cell = opened.notebook.append(
        "import ctypes, time\n"
        "print('began', flush=True); time.sleep(0.5)\n"
        f"began = time.time(); ctypes.PyDLL(None).sleep({HOLD_SECONDS}); print(began, time.time())"
    )
    opened.notebook.start(cell)
    opened.notebook.cell(cell).get_by_text("began", exact=True).wait_for()
    sent = opened.hub.requests.bytes_sent
    began, ended = (float(word) for word in opened.notebook.wait(cell).split()[1:])
    assert ended - began >= HOLD_SECONDS
    assert opened.hub.requests.bytes_sent - sent > 0.5 * HOLD_SECONDS * HOLD_BYTES_PER_SECOND, "the engine went on"

    opened.notebook.page.wait_for_function(f"() => window.modeldeckBar.some(([at]) => at > {ended})")
    moves = evaluate(opened, "() => window.modeldeckBar")
    at = next(at for at, _ in moves if at > ended)
    assert at - ended < AT_ONCE_SECONDS
    opened.latencies_ms["held"] = ((at - ended) * 1000, 0.0)
    opened.report("held")
    opened.click("Cancel", state="available")
    slow_down(opened.hub)
