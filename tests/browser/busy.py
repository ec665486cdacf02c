"""A widget beside a busy cell: what a click on it does, and how soon."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from playwright.sync_api import Browser

from tests.browser.deck import Deck
from tests.browser.harness import LAB, NOTEBOOK_7, Notebook, Notebooks
from tests.waiting import PATIENCE_SECONDS
from tools.jupyter import JupyterServer
from tools.localhub import LocalHub, RequestRecord
from tools.localhub.faults import Throttle
from tools.older import older_variables

BIG = ("Q4_1", "modeldeck-demo/SmolLM2-135M-Instruct-GGUF")
"""A download that takes long when the hub is slow: label and repository."""

TINY = ("Q8_0", "modeldeck-demo/tiny-chat-GGUF")
"""One that is soon there and loaded."""

SLOW_BYTES_PER_SECOND = 2e6
CLICK_PACE_MS = 500
"""Nobody clicks faster; the page is told of four changes in a second at most."""
NEWEST = "7.4.0"

SHOW = "from modeldeck import ModelBrowser\nbrowser = ModelBrowser()\nbrowser"

# ipykernel 7.4 sends a comm's messages to where its last publisher runs; here that is the busy cell.
_BEGIN = "browser.send({})\nprint('began', flush=True)\n"

BUSY = {
    "sleep": f"import time\n{_BEGIN}time.sleep(7200)",
    "loop": f"{_BEGIN}while True:\n    pass",
    # ipykernel notices an interrupt only when its loop wakes up.
    "await": f"import asyncio\n{_BEGIN}while True:\n    await asyncio.sleep(0.5)",
}
"""Cells that run until they are interrupted."""

# The cards look at the headers of their files over the same slow link. Once llama.cpp has judged them, whatever is open
# at the hub is a download's.
_WAIT_FOR_FITS = """
import time
def fits():
    return [each["fit"] for repo in browser._repos.values() for each in repo["variants"] if each["fit"]]
while any(fit["method"] != "native" for fit in fits()):
    time.sleep(0.05)
"""

# Resolves with the milliseconds between the next click in the row and the row's new state being on the page.
_WATCH = """(row, state) => {
  let clickedAt;
  row.addEventListener("click", () => { clickedAt = performance.now(); }, { capture: true, once: true });
  const seen = new Promise((resolve) => {
    const look = () => {
      if (clickedAt !== undefined && row.dataset.state === state) {
        observer.disconnect();
        resolve({ latency: performance.now() - clickedAt, at: performance.timeOrigin + clickedAt });
      }
    };
    const observer = new MutationObserver(look);
    observer.observe(row, { attributes: true, attributeFilter: ["data-state"] });
  });
  return { seen };
}"""


@dataclass(frozen=True, slots=True)
class Front:
    """A page and a kernel that are to work together."""

    name: str
    ipykernel: str
    application: str = LAB
    has_subshells: bool = True

    def __str__(self) -> str:
        return f"{self.name}-{self.ipykernel}"


def fronts(ipykernel: str) -> tuple[Front, ...]:
    return (
        Front("lab", ipykernel),
        Front("lab-one-shell", ipykernel, has_subshells=False),
        Front("notebook", ipykernel, application=NOTEBOOK_7),
    )


ALL_FRONTS = tuple(front for version in (NEWEST, "7.3.0", "6.31.0") for front in fronts(version))

ONE_SHELL = {"@jupyterlab/apputils-extension/kernels-settings": {"commsOverSubshells": "disabled"}}
"""JupyterLab's setting that no comm gets a subshell of its own."""


@dataclass
class Scene:
    """One widget in one notebook, with one hub for it alone."""

    front: Front
    notebook: Notebook
    hub: LocalHub
    widget_cell: int = 0
    latencies_ms: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def deck(self) -> Deck:
        return Deck(self.notebook, self.widget_cell)

    def show_widget(self, source: str = SHOW) -> Deck:
        """A new widget at the notebook's end, with the files of both repositories open."""
        self.widget_cell = self.notebook.append(source)
        self.notebook.run(self.widget_cell)
        deck = self.deck
        for label, repo_id in (BIG, TINY):
            deck.open(repo_id)
            deck.row(label, repo_id).wait_for()
        self.notebook.execute(_WAIT_FOR_FITS)
        return deck

    def begin(self, source: str) -> int:
        """Run a cell that says ``began``, up to there."""
        cell = self.notebook.append(source)
        self.notebook.start(cell)
        self.notebook.cell(cell).get_by_text("began", exact=True).wait_for()
        return cell

    def end(self, cell: int) -> None:
        """Interrupt a running cell."""
        assert not self.notebook.is_finished(cell), "the cell was to run until now"
        self.notebook.interrupt_kernel()
        with contextlib.suppress(AssertionError):
            self.notebook.wait(cell)

    def click(self, action: str, *, state: str) -> None:
        """Click at the big download, and note how long the new state of its row, and the hub's part of it, took."""
        self.notebook.page.wait_for_timeout(CLICK_PACE_MS)
        deck = self.deck
        button = deck.button(action, *BIG)
        watch = deck.row(*BIG).evaluate_handle(_WATCH, state)
        button.click()
        at_hub = self._wait_for_hub(state)
        seen = watch.evaluate("watch => watch.seen")
        self.latencies_ms[action] = (seen["latency"], at_hub - seen["at"])

    def _wait_for_hub(self, state: str) -> float:
        """When, in milliseconds since 1970, the hub saw that a download began or ended."""

        def is_as_asked(records: tuple[RequestRecord, ...]) -> bool:
            has_open = any(record.origin == "cdn" and not record.is_finished for record in records)
            return has_open == (state == "downloading")

        self.hub.requests.wait_until(is_as_asked)
        return time.time() * 1000

    def report(self, kind: str) -> None:
        """Keep the latencies where `MODELDECK_LATENCIES` says, one line of JSON for each cell."""
        if path := os.environ.get("MODELDECK_LATENCIES"):
            with Path(path).open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"front": str(self.front), "kind": kind, "ms": self.latencies_ms}) + "\n")


def slow_down(hub: LocalHub, bytes_per_second: float = SLOW_BYTES_PER_SECOND) -> None:
    hub.faults.clear()
    hub.faults.add(Throttle(bytes_per_second, is_shared=True), origin="cdn")


@contextlib.contextmanager
def scene(browser: Browser, server: JupyterServer, hub: LocalHub, front: Front) -> Iterator[Scene]:
    """An open notebook with a widget of the hub, in a cache of its own."""
    with tempfile.TemporaryDirectory(prefix="modeldeck-cache-") as folder:
        variables = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": f"{folder}/hub", "HF_HOME": folder}
        if front.ipykernel != NEWEST:
            variables |= older_variables(f"ipykernel-{front.ipykernel}")
        notebooks = Notebooks(browser, server, f"{front}-{Path(folder).name}", variables)
        try:
            notebook = notebooks.open([], application=front.application)
            yield Scene(front, notebook, hub)
        finally:
            notebooks.close()
            _stop_engine(server, variables)


def _stop_engine(server: JupyterServer, variables: Mapping[str, str]) -> None:
    """A download outlives its kernel: the engine would make the folders anew that are being removed."""
    environment = {**psutil.Process(server.process.pid).environ(), **variables}
    command = [sys.executable, "-m", "modeldeck", "engine", "stop"]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=PATIENCE_SECONDS)
