"""A notebook that runs without a page: nbclient starts a real kernel, and nobody can press a button."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tools.localhub import LocalHub
from tools.processes import run_environment, without_hub_settings

KERNEL_SECONDS = 60

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
    NotebookClient(notebook, timeout=KERNEL_SECONDS).execute()


@pytest.mark.usefixtures("variables")
def test_waiting_for_a_click_fails_soon_and_names_the_call_that_needs_none() -> None:
    show = "from modeldeck import ModelBrowser\nbrowser = ModelBrowser()\nbrowser"
    with pytest.raises(CellExecutionError, match=r"modeldeck\.load") as failure:
        execute([show, "await browser"])
    assert failure.value.ename == "NoFrontEndError"
