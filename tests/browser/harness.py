"""A notebook open in a real JupyterLab, Notebook 7 or nbclassic, in a real Chromium, driven as its user would."""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, ViewportSize

from tests.waiting import PATIENCE_SECONDS
from tools.jupyter import JupyterServer

LAB = "lab/tree"
NOTEBOOK_7 = "notebooks"
CLASSIC = "nbclassic/notebooks"
VIEWPORT: ViewportSize = {"width": 1280, "height": 960}

_LOST = "Error displaying widget: model not found"
_ARE_WIDGETS_THERE = """() => [...document.querySelectorAll(".jp-OutputArea-output")]
  .every(output => !output.textContent.includes("Loading widget..."))"""

_SET_SOURCE = """([index, source]) =>
  window.jupyterapp.shell.currentWidget.content.widgets[index].model.sharedModel.setSource(source)"""


@dataclass(frozen=True, slots=True)
class _Application:
    """How a notebook is driven from its page: JavaScript functions of its path or of the index of a cell."""

    cell: str
    """The CSS selector of a cell."""
    output: str
    is_ready: str
    start: str
    is_finished: str
    outputs: str
    append: str


_NEW = _Application(
    cell=".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-Cell",
    output=".jp-OutputArea",
    is_ready="""path => {
      const panel = window.jupyterapp?.shell.currentWidget;
      const kernel = panel?.sessionContext?.session?.kernel;
      return panel?.context?.path === path && panel.context.isReady && panel.sessionContext.isReady
        && kernel?.connectionStatus === "connected" && kernel.status === "idle";
    }""",
    start="""index => {
      const notebook = window.jupyterapp.shell.currentWidget.content;
      notebook.deselectAll();
      notebook.activeCellIndex = index;
      const runs = (window.modeldeckRuns ??= {});
      runs[index] = "running";
      window.jupyterapp.commands.execute("notebook:run-cell").finally(() => { runs[index] = "finished"; });
    }""",
    is_finished='index => window.modeldeckRuns?.[index] === "finished"',
    outputs="index => window.jupyterapp.shell.currentWidget.content.widgets[index].model.outputs.toJSON()",
    append="""source => {
      const cells = window.jupyterapp.shell.currentWidget.content.model.sharedModel;
      cells.insertCell(cells.cells.length, {cell_type: "code", source});
      return cells.cells.length - 1;
    }""",
)

_OLD = _Application(
    cell="#notebook-container > .cell",
    output=".output_wrapper",
    is_ready="""path => {
      const notebook = window.Jupyter?.notebook;
      return notebook?.notebook_path === path && notebook._fully_loaded && notebook.kernel?.is_connected()
        && notebook.kernel.info_reply.protocol_version !== undefined;
    }""",
    start="index => window.Jupyter.notebook.get_cell(index).execute()",
    is_finished='index => window.Jupyter.notebook.get_cell(index).input_prompt_number !== "*"',
    outputs="index => window.Jupyter.notebook.get_cell(index).output_area.toJSON()",
    append="""source => {
      const notebook = window.Jupyter.notebook;
      notebook.insert_cell_at_bottom("code").set_text(source);
      return notebook.get_cells().length - 1;
    }""",
)


class CellError(AssertionError):
    """A cell raised; the message is its traceback."""


class Notebook:
    """One open notebook. Cells are counted from zero and contain all kinds of cells.

    The cells are run through the application's own commands; the widget is driven by real clicks and keys, through
    ``widget`` and ``page``. Playwright's locators look into open shadow roots.
    """

    def __init__(self, page: Page, server: JupyterServer, path: str, *, application: str = LAB) -> None:
        self.page = page
        self.path = path
        self.console_errors: list[str] = []
        self._server = server
        self._application = application
        self._scripts = _OLD if application == CLASSIC else _NEW
        page.set_default_timeout(PATIENCE_SECONDS * 1000)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.console_errors.append(str(error)))
        # In the default workspace, JupyterLab brings back the notebooks of earlier tests, and starts a kernel for each.
        workspace = re.sub(r"\W", "-", path)
        page.goto(
            server.page(path, application=f"lab/workspaces/{workspace}/tree" if application == LAB else application)
        )
        self._wait_until_ready()

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.console_errors.append(message.text)

    def _wait_until_ready(self) -> None:
        self.page.wait_for_function(self._scripts.is_ready, arg=self.path)

    def cell(self, index: int) -> Locator:
        return self.page.locator(self._scripts.cell).nth(index)

    def widget(self, index: int) -> Locator:
        """The output area of a cell, in which its widget is."""
        return self.cell(index).locator(self._scripts.output).first

    def append(self, source: str) -> int:
        """Add a code cell at the end, and say its index."""
        index: int = self.page.evaluate(self._scripts.append, source)
        return index

    def set_source(self, index: int, source: str) -> None:
        self.page.evaluate(_SET_SOURCE, [index, source])

    def start(self, index: int) -> None:
        """Run a cell and do not wait for it."""
        self.page.evaluate(self._scripts.start, index)

    def is_finished(self, index: int) -> bool:
        return bool(self.page.evaluate(self._scripts.is_finished, index))

    def wait(self, index: int, *, timeout_seconds: float = PATIENCE_SECONDS) -> str:
        """Wait for a started cell, and return its text or raise `CellError`."""
        self.page.wait_for_function(self._scripts.is_finished, arg=index, timeout=timeout_seconds * 1000)
        outputs = self.outputs(index)
        for output in outputs:
            if output["output_type"] == "error":
                raise CellError(f"{output['ename']}: {output['evalue']}\n" + "\n".join(output["traceback"]))
        return "".join(_text_of(output) for output in outputs)

    def run(self, index: int, *, timeout_seconds: float = PATIENCE_SECONDS) -> str:
        """Run a cell to its end, and return its text: what it printed and the text form of its values."""
        self.start(index)
        return self.wait(index, timeout_seconds=timeout_seconds)

    def execute(self, source: str, *, timeout_seconds: float = PATIENCE_SECONDS) -> str:
        """Run code in a new cell at the end."""
        return self.run(self.append(source), timeout_seconds=timeout_seconds)

    def run_all(self, *, timeout_seconds: float = PATIENCE_SECONDS) -> None:
        """Run every code cell in its order, each to its end."""
        cells = self.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.widgets.map(c => c.model.type)")
        for index, kind in enumerate(cells):
            if kind == "code":
                self.run(index, timeout_seconds=timeout_seconds)

    def outputs(self, index: int) -> list[dict[str, Any]]:
        """The outputs of a cell in the notebook format."""
        outputs: list[dict[str, Any]] = self.page.evaluate(self._scripts.outputs, index)
        return outputs

    def command(self, name: str, arguments: Mapping[str, object] | None = None) -> None:
        """Run a command of the application to its end, for example ``docmanager:save``."""
        self.page.evaluate(
            "([name, args]) => window.jupyterapp.commands.execute(name, args).then(() => undefined)",
            [name, dict(arguments or {})],
        )

    def save(self) -> None:
        self.command("docmanager:save")

    def reload(self) -> None:
        """Load the page again, as after F5, and wait until the notebook is back with its widgets.

        ipywidgets 8.1.9 looks for a widget every 0.1 s for 2 s, and does not look once more at the end. A kernel that
        answers in the last 0.1 s leaves the text `_LOST` for good, and its user loads the page once more.
        """
        for _ in range(3):
            self.reload_without_waiting()
            self._wait_until_ready()
            self.page.wait_for_function(_ARE_WIDGETS_THERE)
            if self.page.get_by_text(_LOST).count() == 0:
                return
        raise AssertionError(f"Three times in a row: {_LOST}")

    def open_again(self) -> "Notebook":
        """The same notebook, with the same kernel, in one more tab."""
        return Notebook(self.page.context.new_page(), self._server, self.path, application=self._application)

    def reload_without_waiting(self) -> None:
        """For a reload while a cell runs: the kernel is busy, so the notebook never becomes ready."""
        self.page.reload(wait_until="load")

    @property
    def kernel_id(self) -> str:
        session = next(one for one in self._server.request("GET", "api/sessions") if one["path"] == self.path)
        kernel_id: str = session["kernel"]["id"]
        return kernel_id

    def interrupt_kernel(self) -> None:
        self._server.request("POST", f"api/kernels/{self.kernel_id}/interrupt")

    def restart_kernel(self) -> None:
        """Restart the kernel as its menu does, confirmation included."""
        self.page.evaluate("() => void window.jupyterapp.commands.execute('kernelmenu:restart')")
        self.page.get_by_role("button", name="Confirm Kernel Restart").click()
        self.page.locator(".jp-Dialog").wait_for(state="detached")
        self._wait_until_ready()

    def set_theme(self, theme: str) -> None:
        """``JupyterLab Light``, ``JupyterLab Dark`` or ``JupyterLab Dark High Contrast``."""
        self.command("apputils:change-theme", {"theme": theme})
        is_light = "false" if "Dark" in theme else "true"
        self.page.locator(f"body[data-jp-theme-light={is_light}]").wait_for(state="attached")

    def screenshot(self, name: str, target: Locator | None = None) -> None:
        """Keep a picture of the page, or of one part of it, in the folder ``MODELDECK_SHOTS`` when that is set."""
        if folder := os.environ.get("MODELDECK_SHOTS"):
            path = Path(folder) / f"{name}.png"
            (target or self.page).screenshot(path=path)

    def shut_down(self) -> None:
        """End the notebook's kernel and close its pages."""
        for session in self._server.request("GET", "api/sessions"):
            if session["path"] == self.path:
                self._server.request("DELETE", f"api/sessions/{session['id']}")
        self.page.context.close()


def _text_of(output: Mapping[str, Any]) -> str:
    match output["output_type"]:
        case "stream":
            return str(output["text"])
        case "execute_result" | "display_data":
            return str(output["data"].get("text/plain", ""))
        case _:
            return ""


class Notebooks:
    """Opens notebooks for one test, each with a page and a kernel of its own, and closes them."""

    def __init__(self, browser: Browser, server: JupyterServer, name: str, environment: Mapping[str, str]) -> None:
        self.opened: list[Notebook] = []
        self._browser = browser
        self._server = server
        self._name = name
        self._environment = environment

    def open(
        self,
        notebook: Path | Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        python: str = sys.executable,
        application: str = LAB,
    ) -> Notebook:
        """Open a copy of a notebook file, or a new notebook of code cells.

        Parameters
        ----------
        environment
            Variables for the kernel, besides the test's own.
        python
            The kernel's interpreter.
        application
            `LAB`, `NOTEBOOK_7` or `CLASSIC`.
        """
        name = f"{self._name}-{len(self.opened)}"
        write_kernel(self._server, name, python=python, environment={**self._environment, **(environment or {})})
        write_notebook(self._server.root / f"{name}.ipynb", notebook, kernel=name)
        page = self._browser.new_context(viewport=VIEWPORT).new_page()
        opened = Notebook(page, self._server, f"{name}.ipynb", application=application)
        self.opened.append(opened)
        return opened

    def close(self) -> None:
        for notebook in self.opened:
            notebook.shut_down()


def write_notebook(path: Path, notebook: Path | Sequence[str], *, kernel: str) -> None:
    if isinstance(notebook, Path):
        content = nbformat.read(notebook, as_version=4)
    else:
        content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in notebook])
    content.metadata["kernelspec"] = {"name": kernel, "display_name": kernel, "language": "python"}
    nbformat.write(content, path)


def write_kernel(server: JupyterServer, name: str, *, python: str, environment: Mapping[str, str]) -> None:
    folder = server.home / "data" / "kernels" / name
    folder.mkdir(parents=True)
    specification = {
        "argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": name,
        "language": "python",
        "env": dict(environment),
    }
    (folder / "kernel.json").write_text(json.dumps(specification), encoding="utf-8")
