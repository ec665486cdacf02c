"""One Chromium and one Jupyter server for all browser tests; a page and a kernel of its own for each notebook."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.busy import slow_down
from tests.browser.harness import Notebooks
from tests.waiting import PATIENCE_SECONDS
from tools.chromium import HOW_TO_INSTALL, find_chromium
from tools.jupyter import JupyterServer, jupyter_server
from tools.localhub import LocalHub, demo
from tools.processes import run_environment, without_hub_settings

CHROMIUM_ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
]
JS = Path(__file__).parents[2] / "js"

expect.set_options(timeout=PATIENCE_SECONDS * 1000)  # five seconds are too few on a busy machine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


# Playwright's own loop stands in the way of any other asyncio loop on this thread: it ends with this package's tests.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    executable = find_chromium()
    if executable is None:
        pytest.fail(HOW_TO_INSTALL)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def harness() -> Iterator[str]:
    """The address of the harness's page."""
    command = ["node", "build.mjs", "--harness"]
    with subprocess.Popen(
        command, cwd=JS, env={**os.environ, "PORT": "0"}, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.send_signal(signal.SIGTERM)


@pytest.fixture(scope="package")
def start_jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., JupyterServer]]:
    """Start one more Jupyter server, with these settings of JupyterLab, from the environment of an interpreter."""
    with contextlib.ExitStack() as stack:

        def start(*, settings: Mapping[str, object] | None = None, python: str = sys.executable) -> JupyterServer:
            folder = tmp_path_factory.mktemp("jupyter")
            root, home = folder / "notebooks", folder / "home"
            root.mkdir()
            home.mkdir()
            user = {
                "HOME": str(home),
                **{f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA", "STATE")},
                # Not below pytest's folder: the path of a socket must be short.
                "MODELDECK_RUNTIME_DIR": stack.enter_context(tempfile.TemporaryDirectory(prefix="modeldeck-")),
            }
            environment = stack.enter_context(run_environment({**without_hub_settings(os.environ), **user}))
            return stack.enter_context(
                jupyter_server(
                    root=root,
                    home=home,
                    environment=environment,
                    settings=settings,
                    python=python,
                    arguments=(
                        "--ServerApp.port=0",
                        "--LabApp.expose_app_in_browser=True",
                        "--JupyterNotebookApp.expose_app_in_browser=True",
                    ),
                )
            )

        yield start


@pytest.fixture(scope="package")
def jupyter(start_jupyter: Callable[..., JupyterServer]) -> JupyterServer:
    return start_jupyter()


@pytest.fixture(scope="package")
def slow_hub() -> Iterator[LocalHub]:
    """The demo's hub, so slow that a download is still there when a test has done with it."""
    with demo.demo_hub() as hub:
        slow_down(hub)
        yield hub


@pytest.fixture
def kernel_environment(tmp_path: Path) -> dict[str, str]:
    """The variables of the test's kernels; a test module overrides it to name a hub."""
    return {"HF_HOME": str(tmp_path / "huggingface")}


@pytest.fixture
def notebooks(
    browser: Browser, jupyter: JupyterServer, kernel_environment: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[Notebooks]:
    name = re.sub(r"\W+", "-", request.node.name).strip("-").lower()
    notebooks = Notebooks(browser, jupyter, name, kernel_environment)
    yield notebooks
    if request.node.stash.get(HAS_FAILED, False):
        for notebook in notebooks.opened:
            notebook.screenshot(f"failed-{name}")
            request.node.add_report_section("teardown", "console", "\n".join(notebook.console_errors))
    notebooks.close()


HAS_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call":
        item.stash[HAS_FAILED] = report.failed
    return report
