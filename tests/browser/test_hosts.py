"""What the widget promises about a busy kernel, on every host that carries its messages in another way.

JupyterLab sends them to a subshell of the kernel unless its settings say otherwise, Notebook 7 always does. The control
channel carries them a second time. Each promise rests on private attributes of ipykernel somewhere, so it is kept here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import expect

from modeldeck.localhub import LocalHub, Throttle
from tests.browser.deck import TIMEOUT_MS, Deck
from tests.browser.harness import LAB, NOTEBOOK_7, Notebook, Notebooks
from tools.jupyter import JupyterServer

REPO = "modeldeck-demo/SmolLM2-135M-Instruct-GGUF"
LABEL = "Q4_1"
SHOW_WIDGET = 'from modeldeck import ModelBrowser\nbrowser = ModelBrowser("smollm2")\nbrowser'
SLEEP = "import time\ntime.sleep(600)"
LOOP = "while True:\n    pass"
DRAW = """\
import pathlib, time
import matplotlib.pyplot as plt
figure, axes = plt.subplots()
axes.plot([1, 2])
pathlib.Path({begun!r}).touch()
while not pathlib.Path({end!r}).exists():
    time.sleep(0.05)
print(plt.gcf() is figure)
"""


@dataclass(frozen=True)
class Host:
    application: str
    settings: Mapping[str, object] = field(default_factory=dict)


HOSTS = {
    "lab": Host(LAB),
    "lab-without-subshells": Host(
        LAB, {"@jupyterlab/apputils-extension/kernels-settings": {"commsOverSubshells": "disabled"}}
    ),
    "notebook-7": Host(NOTEBOOK_7),
}


@pytest.fixture(scope="module", params=HOSTS.values(), ids=HOSTS)
def host(request: pytest.FixtureRequest) -> Host:
    host: Host = request.param
    return host


@pytest.fixture(scope="module")
def jupyter(host: Host, jupyter: JupyterServer, start_jupyter: Callable[..., JupyterServer]) -> JupyterServer:
    return start_jupyter(settings=host.settings) if host.settings else jupyter


@pytest.fixture
def kernel_environment(demo_hub: LocalHub, tmp_path: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": demo_hub.endpoint, "HF_HUB_CACHE": str(tmp_path / "hub-cache"), "HF_HOME": str(tmp_path)}


def start_download(notebook: Notebook) -> Deck:
    notebook.run(0)
    deck = Deck(notebook, 0)
    deck.open(REPO)
    deck.press("Download", LABEL, REPO)
    deck.expect_state(LABEL, REPO, "downloading")
    return deck


def cancel_download(deck: Deck) -> None:
    deck.press("Cancel", LABEL, REPO)
    expect(deck.button("Download", LABEL, REPO)).to_be_visible(timeout=TIMEOUT_MS)


@pytest.mark.parametrize("busy", [SLEEP, LOOP], ids=["sleep", "loop"])
def test_a_click_is_answered_while_a_cell_runs(notebooks: Notebooks, demo_hub: LocalHub, host: Host, busy: str) -> None:
    demo_hub.faults.add(Throttle(1e6, is_shared=True), origin="cdn")
    notebook = notebooks.open([SHOW_WIDGET, busy], application=host.application)
    deck = start_download(notebook)
    notebook.start(1)
    cancel_download(deck)
    assert not notebook.is_finished(1)
    notebook.interrupt_kernel()


def test_a_click_leaves_a_half_drawn_figure_alone(
    notebooks: Notebooks, demo_hub: LocalHub, host: Host, tmp_path: Path
) -> None:
    demo_hub.faults.add(Throttle(1e6, is_shared=True), origin="cdn")
    begun, end = tmp_path / "begun", tmp_path / "end"
    draw = DRAW.format(begun=str(begun), end=str(end))
    notebook = notebooks.open([SHOW_WIDGET, draw], application=host.application)
    deck = start_download(notebook)
    notebook.start(1)
    notebook.wait_for(begun.exists)
    cancel_download(deck)
    assert not notebook.is_finished(1)
    end.touch()
    assert notebook.wait(1).startswith("True\n")
    assert sum("image/png" in output.get("data", {}) for output in notebook.outputs(1)) == 1


def test_a_cell_that_awaits_the_browser_lets_the_click_through(notebooks: Notebooks, host: Host) -> None:
    notebook = notebooks.open([SHOW_WIDGET, "llm = await browser\ntype(llm).__name__"], application=host.application)
    deck = start_download(notebook)
    notebook.start(1)
    deck.press("Load", LABEL, REPO)
    assert notebook.wait(1) == "'Llama'"
