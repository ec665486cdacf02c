"""A notebook that runs without a page: nbclient starts a real kernel, and nobody can press a button."""

import os
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub
from tools.processes import run_environment, without_hub_settings

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def variables(demo_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernel inherits this process's environment."""
    user = {
        "HF_ENDPOINT": demo_hub.endpoint,
        "HF_HOME": str(tmp_path),
        "MODELDECK_RUNTIME_DIR": str(tmp_path / "run"),
        "MODELDECK_STATE_DIR": str(tmp_path / "state"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    with run_environment({**without_hub_settings(os.environ), **user}) as environment:
        for name in set(os.environ) - set(environment):
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield


def execute(cells: Sequence[str]) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    NotebookClient(notebook, timeout=PATIENCE_SECONDS).execute()


@pytest.mark.usefixtures("variables")
def test_waiting_for_a_click_fails_soon_and_names_the_call_that_needs_none() -> None:
    with pytest.raises(CellExecutionError, match=r"modeldeck\.load") as failure:
        execute(["from modeldeck.widget import handover\nhandover.HELLO_TIMEOUT_SECONDS = 0.5", SHOW, "await browser"])
    assert failure.value.ename == "NoFrontEndError"


SHOW = "from modeldeck import ModelBrowser\nbrowser = ModelBrowser()\nbrowser"
PRESS = """
import asyncio, uuid
def press(browser, method, **params):
    browser._bridge.post({"kind": "modeldeck-request", "id": uuid.uuid4().hex, "method": method, "params": params})
async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)
"""
TINY = "modeldeck-demo/tiny-chat-GGUF"
LOAD = f"""
import modeldeck
modeldeck.download("{TINY}:F16")
press(browser, "act_on_variant", repo_id="{TINY}", variant_id="tiny-chat-F16.gguf", action="load")
await until(lambda: browser.llm)
"""


@pytest.mark.usefixtures("variables")
def test_observers_are_called_on_the_kernels_thread_and_the_traits_are_read_only() -> None:
    observe = """
    import threading
    seen = []
    for name in ("llm", "downloads", "error"):
        browser.observe(lambda change: seen.append((change.name, change.new, threading.current_thread())), name)
    press(browser, "open_repo", repo_id="no/such")
    import time; time.sleep(1)
    assert not seen, "not in the middle of a cell"
    """
    check = """
    await until(lambda: seen)
    assert [(name, thread) for name, _, thread in seen] == [("error", threading.main_thread())]
    assert seen[0][1] is browser.error and browser.error.code == "repo_not_found"
    import pytest, traitlets
    with pytest.raises(traitlets.TraitError):
        browser.llm = 1
    with pytest.raises(traitlets.TraitError):
        browser.loaded = {}
    """
    execute([SHOW, PRESS, textwrap.dedent(observe), textwrap.dedent(check)])


@pytest.mark.usefixtures("variables")
def test_the_options_of_every_widget_are_taken_and_a_page_without_widgets_says_what_to_do() -> None:
    check = """
    shown = browser._repr_mimebundle_()[0]
    assert "application/vnd.jupyter.widget-view+json" in shown
    assert shown["text/plain"].startswith(f"{browser!r}\\nThis page cannot show the widget.")
    assert "pip install anywidget" in shown["text/plain"]
    browser = ModelBrowser(layout={"height": "300px"})
    assert browser.layout.height == "300px"
    import ipywidgets, modeldeck, pytest
    with pytest.raises(TypeError, match="'layuot'"):
        ModelBrowser(layuot={})
    assert ModelBrowser(locale="pt-BR")._view["locale"] == "pt-BR"
    with pytest.raises(modeldeck.InvalidRequestError, match="no locale 'pt_PT'. Use one of: en, pt-BR."):
        ModelBrowser(locale="pt_PT")
    assert ModelBrowser(None)._search == ModelBrowser()._search
    for wrong in ({"query": 123}, {"revision": None}, {"page_size": "20"}, {"page_size": 2.5}, {"limits": {}}):
        with pytest.raises(modeldeck.InvalidRequestError, match=f"^{next(iter(wrong))} must be "):
            ModelBrowser(**wrong)
    ipywidgets.VBox([browser, ModelBrowser()])
    """
    execute([SHOW, textwrap.dedent(check)])


@pytest.mark.usefixtures("variables")
def test_whatever_the_user_has_named_the_widget_is_made() -> None:
    name = """
    import weakref
    class Model: ...
    gone = weakref.proxy(Model())
    globals()[3] = "not a name"
    """
    execute([textwrap.dedent(name), SHOW])


@pytest.mark.llama
@pytest.mark.usefixtures("variables")
def test_a_cell_that_is_run_again_shows_the_loaded_model_and_can_unload_it() -> None:
    check = """
    await until(lambda: browser._load["state"] == "ready")
    assert browser.llm is llm
    assert (browser.loaded["repo_id"], browser.loaded["label"]) == ("modeldeck-demo/tiny-chat-GGUF", "F16")
    about = {name: browser.loaded[name] for name in ("repo_id", "variant_id")}
    press(browser, "act_on_variant", **about, action="unload")
    await until(lambda: browser.llm is None)
    await until(lambda: browser.loaded is None)
    await until(lambda: not llm.is_loaded)
    """
    execute([SHOW, PRESS, LOAD, "llm = browser.llm", SHOW, textwrap.dedent(check)])


@pytest.mark.llama
@pytest.mark.usefixtures("variables")
def test_a_widget_with_another_name_keeps_its_model() -> None:
    check = """
    press(browser, "hello")
    await asyncio.sleep(0.2)
    assert browser.llm is None and kept.llm is not None
    """
    execute([SHOW, PRESS, LOAD, "kept = browser", SHOW, textwrap.dedent(check)])
