"""``make demo`` as its user sees it: an address that shows the quickstart, and nothing left after it has ended."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser, expect

from tests.waiting import PATIENCE_SECONDS
from tools.environment import ROOT
from tools.processes import RUN_ID, run_environment, started_by


@contextlib.contextmanager
def demo() -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Run the demo in a home of its own, without a display: the process, JupyterLab's address and the run's id."""
    variables = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY", "HUB")}
    with (
        tempfile.TemporaryDirectory(prefix="modeldeck-") as folder,
        run_environment({**variables, "MODELDECK_RUNTIME_DIR": folder}) as environment,
    ):
        command = [sys.executable, "-m", "tools.demo", "--home", os.path.join(folder, "home")]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            line = next(line for line in process.stdout if line.startswith("JupyterLab"))
            address = re.search(r"http://\S+", line)
            assert address
            yield process, address[0], environment[RUN_ID]
        finally:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_quickstart_shows_models_and_a_signal_ends_everything(browser: Browser, number: signal.Signals) -> None:
    with demo() as (process, address, run_id):
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_SECONDS * 1000)
        page.goto(address)
        page.get_by_role("heading", name="modeldeck in one minute").wait_for()
        # JupyterLab drops a cell that is run before its kernel is there.
        page.get_by_role("button", name=re.compile(r"\| Idle$")).wait_for()
        page.locator(".jp-CodeCell").first.click()
        page.keyboard.press("Shift+Enter")
        expect(page.get_by_role("searchbox", name="Search models")).to_be_visible()
        expect(page.get_by_text("SmolLM2-135M-Instruct-GGUF").first).to_be_visible()
        page.close()
        assert len(started_by(run_id)) >= 3  # the demo, JupyterLab, a kernel
        process.send_signal(number)
        assert process.wait(PATIENCE_SECONDS) == 0
        assert started_by(run_id) == []


def test_a_terminal_that_is_closed_ends_everything() -> None:
    with demo() as (process, address, run_id):
        server, token = address.split("lab/tree/")[0], address.split("token=")[1]
        urlopen(Request(f"{server}api/kernels", b"{}", {"Authorization": f"token {token}"})).close()
        assert len(started_by(run_id)) >= 3
        process.send_signal(signal.SIGHUP)
        assert process.wait(PATIENCE_SECONDS) == 0
        assert started_by(run_id) == []
