"""Clicks while a cell runs, in every front end with every kind of ipykernel.

``pytest -m matrix tests/browser/test_busy_clicks.py`` runs all combinations; the default run takes the ones that differ
most in how a click gets through.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.busy import ALL_FRONTS, BIG, BUSY, NEWEST, ONE_SHELL, TINY, Front, Scene, scene
from tests.browser.harness import CellError
from tools.jupyter import JupyterServer
from tools.localhub import LocalHub

# 7.4 routes comms by their last publisher; 6.31 knows no subshells, so there only the control channel is left.
TELLING = {f"lab-{NEWEST}", "notebook-6.31.0"}

GENEROUS_MS = 10_000
"""A click that waits for the cell waits for ever; this leaves room for a slow machine."""


@pytest.fixture(scope="module")
def one_shell(start_jupyter: Callable[..., JupyterServer]) -> Callable[[], JupyterServer]:
    """A JupyterLab without subshells for comms, started when it is first asked for."""
    started: list[JupyterServer] = []

    def get() -> JupyterServer:
        if not started:
            started.append(start_jupyter(settings=ONE_SHELL))
        return started[0]

    return get


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(front, id=str(front), marks=() if str(front) in TELLING else pytest.mark.matrix)
        for front in ALL_FRONTS
    ],
)
def busy(
    request: pytest.FixtureRequest,
    browser: Browser,
    jupyter: JupyterServer,
    one_shell: Callable[[], JupyterServer],
    slow_hub: LocalHub,
) -> Iterator[Scene]:
    front: Front = request.param
    with scene(browser, jupyter if front.has_subshells else one_shell(), slow_hub, front) as opened:
        version = opened.notebook.execute("import ipykernel; print(ipykernel.__version__)")
        assert version.strip() == front.ipykernel
        opened.show_widget()
        yield opened


@pytest.mark.parametrize("kind", BUSY)
def test_download_pause_and_cancel_work_beside_a_running_cell(busy: Scene, kind: str) -> None:
    cell = busy.begin(BUSY[kind])
    busy.click("Download", state="downloading")
    busy.click("Pause", state="paused")
    busy.click("Cancel", state="available")
    busy.end(cell)
    busy.report(kind)
    for at_page, at_hub in busy.latencies_ms.values():
        assert at_page < GENEROUS_MS
        assert at_hub < GENEROUS_MS


def draw(busy: Scene, flag: Path) -> tuple[int, str]:
    """Click while a cell has drawn half of a figure. How many figures its output has, and if it is still the cell's."""
    cell = busy.begin(
        "%matplotlib inline\n"
        "import pathlib, time, matplotlib.pyplot as plt\n"
        "figure, axes = plt.subplots()\n"
        "print('began', flush=True)\n"
        f"while not pathlib.Path({str(flag)!r}).exists():\n"
        "    time.sleep(0.05)\n"
        "axes.plot([1, 2])\n"
        "print('the same' if plt.gcf() is figure else 'another')"
    )
    busy.click("Download", state="downloading")
    busy.click("Cancel", state="available")
    flag.touch()
    text = busy.notebook.wait(cell)
    figures = [output for output in busy.notebook.outputs(cell) if "image/png" in output.get("data", {})]
    return len(figures), text.split("\n")[1]


def test_a_click_leaves_the_figure_of_the_running_cell_alone(busy: Scene, tmp_path: Path) -> None:
    assert draw(busy, tmp_path / "flag") == (1, "the same")


@pytest.mark.parametrize("wait", ["await browser", "browser.wait()"])
def test_download_and_load_while_a_cell_waits_for_the_model(busy: Scene, wait: str) -> None:
    deck = busy.deck
    cell = busy.begin(f"print('began', flush=True)\nprint(type({wait}).__name__)")
    deck.press("Download", *TINY)
    deck.expect_state(*TINY, "downloaded")
    assert not busy.notebook.is_finished(cell)
    deck.press("Load", *TINY)
    assert busy.notebook.wait(cell).split() == ["began", "Llama"]
    deck.press("Unload", *TINY)
    deck.press("Remove", *TINY)
    deck.press("Really remove", *TINY)
    deck.expect_state(*TINY, "available")


@pytest.mark.parametrize("pause", ["time.sleep", "await asyncio.sleep"])
def test_a_widget_is_heard_from_in_the_cell_that_shows_it(busy: Scene, pause: str) -> None:
    seconds = busy.notebook.execute(
        "import asyncio, time\n"
        "began = time.monotonic()\n"
        "display(browser := ModelBrowser())\n"
        "while not browser._bridge._load.handover._was_greeted.is_set() and time.monotonic() < began + 300:\n"
        f"    {pause}(0.05)\n"
        "print('', time.monotonic() - began)"
    ).split()[-1]
    busy.latencies_ms["hello"] = (float(seconds) * 1000, 0.0)
    busy.report(pause)
    assert float(seconds) < 300


@pytest.mark.parametrize("wait", ["await browser", "browser.wait()"])
def test_an_interrupt_ends_the_waiting_and_not_the_download(busy: Scene, wait: str) -> None:
    cell = busy.begin(f"print('began', flush=True)\n{wait}")
    busy.click("Download", state="downloading")
    busy.notebook.interrupt_kernel()
    with pytest.raises(CellError, match=r"KeyboardInterrupt|CancelledError"):
        busy.notebook.wait(cell)
    busy.deck.expect_state(*BIG, "downloading")
    busy.click("Cancel", state="available")


# --- what the guards are for ------------------------------------------------------------------------------------------


def without(guard: str, after: str = "") -> str:
    """A widget made as if `modeldeck.widget.comm_patches` lacked one of its guards."""
    return (
        "from modeldeck import ModelBrowser\n"
        "from modeldeck.widget import comm_patches\n"
        f"guard, comm_patches.{guard} = comm_patches.{guard}, lambda comm: None\n"
        "browser = ModelBrowser()\n"
        f"comm_patches.{guard} = guard\n"
        f"{after}\n"
        "browser"
    )


def test_a_click_on_the_comm_alone_waits_for_the_cell_and_says_so(busy: Scene) -> None:
    deck = busy.show_widget(
        without("_keep_subshell_route", "get_ipython().kernel.control_handlers.pop('comm_msg', None)")
    )
    cell = busy.begin(BUSY["sleep"])
    deck.press("Download", *BIG)
    if busy.front.has_subshells and busy.front.ipykernel == "7.3.0":
        deck.expect_state(*BIG, "downloading")
        busy.end(cell)
    else:
        expect(deck.row(*BIG)).to_contain_text("Waiting for the running cell to finish")
        deck.expect_state(*BIG, "available")
        busy.end(cell)
        deck.expect_state(*BIG, "downloading")
        expect(deck.row(*BIG)).not_to_contain_text("Waiting for the running cell to finish")
    deck.press("Cancel", *BIG)
    deck.expect_state(*BIG, "available")


def test_a_comm_that_is_not_quiet_destroys_the_figure(busy: Scene, tmp_path: Path) -> None:
    busy.show_widget(without("_skip_cell_events"))
    assert draw(busy, tmp_path / "flag") != (1, "the same")
