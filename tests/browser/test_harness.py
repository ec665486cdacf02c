"""The harness itself, on a widget of a few lines."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.harness import LAB, NOTEBOOK_7, CellError, Notebooks
from tools.jupyter import jupyter_server
from tools.processes import RUN_ID, run_environment, started_by

COUNTER = '''
import anywidget, traitlets

class Counter(anywidget.AnyWidget):
    _esm = """
    export default { render({ model, el }) {
      const root = el.appendChild(document.createElement("div")).attachShadow({ mode: "open" });
      const button = root.appendChild(document.createElement("button"));
      const show = () => { button.textContent = "Pressed " + model.get("count"); };
      button.onclick = () => model.send({ kind: "press" });
      model.on("change:count", show);
      show();
    } };
    """
    count = traitlets.Int(0).tag(sync=True)

    def __init__(self):
        super().__init__()
        self.on_msg(self._press)

    def _press(self, widget, content, buffers):
        self.count += 1

counter = Counter()
counter
'''


@pytest.mark.parametrize("application", [LAB, NOTEBOOK_7], ids=["lab", "notebook-7"])
def test_a_click_reaches_python_and_its_answer_the_page(notebooks: Notebooks, application: str) -> None:
    notebook = notebooks.open([COUNTER, "counter.count"], application=application)
    notebook.run(0)
    button = notebook.widget(0).get_by_role("button", name="Pressed")
    expect(button).to_have_text("Pressed 0")
    button.click()
    expect(button).to_have_text("Pressed 1")
    assert notebook.run(1) == "1"
    notebook.screenshot("harness-" + application.replace("/", "-"))


def test_a_reloaded_page_shows_the_same_state(notebooks: Notebooks) -> None:
    notebook = notebooks.open([COUNTER])
    notebook.run(0)
    notebook.widget(0).get_by_role("button", name="Pressed 0").click()
    expect(notebook.widget(0).get_by_role("button", name="Pressed 1")).to_be_visible()
    notebook.save()
    notebook.reload()
    expect(notebook.widget(0).get_by_role("button", name="Pressed 1")).to_be_visible()


def test_cells_give_their_text_or_their_error(notebooks: Notebooks) -> None:
    notebook = notebooks.open(["print('one'); 2", "1 / 0", "import time\nprint('begun', flush=True)\ntime.sleep(600)"])
    assert notebook.run(0) == "one\n2"
    with pytest.raises(CellError, match="ZeroDivisionError"):
        notebook.run(1)
    notebook.start(2)
    expect(notebook.widget(2)).to_contain_text("begun")  # a kernel that is interrupted before its cell runs all of it
    assert not notebook.is_finished(2)
    notebook.interrupt_kernel()
    with pytest.raises(CellError, match="KeyboardInterrupt"):
        notebook.wait(2)
    assert notebook.execute("6 * 7") == "42"


def test_a_restarted_kernel_has_forgotten(notebooks: Notebooks) -> None:
    notebook = notebooks.open(["x = 1", "x"])
    notebook.run_all()
    kernel_id = notebook.kernel_id
    notebook.restart_kernel()
    assert notebook.kernel_id == kernel_id
    with pytest.raises(CellError, match="NameError"):
        notebook.run(1)


def test_a_kernel_gets_its_environment_and_nothing_of_the_user(notebooks: Notebooks, tmp_path: Path) -> None:
    notebook = notebooks.open(["import os"], environment={"HF_ENDPOINT": "http://127.0.0.1:1"})
    notebook.run(0)
    assert notebook.execute("print(os.environ['HF_ENDPOINT'])") == "http://127.0.0.1:1\n"
    assert notebook.execute("print(os.environ['HF_HOME'])") == f"{tmp_path / 'huggingface'}\n"
    assert notebook.execute("print(os.path.expanduser('~'))") != f"{Path.home()}\n"


def test_the_theme_can_be_changed(notebooks: Notebooks) -> None:
    notebook = notebooks.open([COUNTER])
    notebook.set_theme("JupyterLab Dark")
    expect(notebook.page.locator("body")).to_have_attribute("data-jp-theme-light", "false")
    notebook.set_theme("JupyterLab Light")
    expect(notebook.page.locator("body")).to_have_attribute("data-jp-theme-light", "true")


def test_nothing_is_left_of_a_server_and_its_kernels(tmp_path: Path) -> None:
    with run_environment(os.environ) as environment:
        run_id = environment[RUN_ID]
        with jupyter_server(root=tmp_path, home=tmp_path, environment=environment) as server:
            server.request("POST", "api/kernels", {"name": "python3"})
            assert len(started_by(run_id)) >= 2
        assert server.process.returncode == 0
    assert started_by(run_id) == []
