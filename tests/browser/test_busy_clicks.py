"""Clicks while a cell runs, in every front end with every kind of ipykernel.

``pytest -m matrix tests/browser/test_busy_clicks.py`` runs all combinations; the default run takes the ones that differ
most in how a click gets through.
"""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser

from modeldeck.localhub import LocalHub, demo
from tests.browser.busy import ALL_FRONTS, BUSY, LABEL, NEWEST, ONE_SHELL, REPO_ID, Front, Scene, scene, slow_down
from tests.browser.deck import TIMEOUT_MS
from tools.jupyter import JupyterServer

# 7.4 routes comms by their last publisher; 6.31 knows no subshells, so there only the control channel is left.
TELLING = {f"lab-{NEWEST}", "notebook-6.31.0"}

GENEROUS_MS = 10_000
"""A click that waits for the cell waits for ever; this leaves room for a slow machine."""


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with demo.demo_hub() as hub:
        slow_down(hub)
        yield hub


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
    hub: LocalHub,
) -> Iterator[Scene]:
    front: Front = request.param
    with scene(browser, jupyter if front.has_subshells else one_shell(), hub, front) as opened:
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
