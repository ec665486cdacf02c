"""``make demo``: the local hub and JupyterLab on the quickstart, until Ctrl-C. Runs inside ``.venv``."""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from tools import llama_wheel
from tools.environment import ENDING_SIGNALS, ROOT
from tools.jupyter import jupyter_server
from tools.localhub.demo import demo_hub
from tools.localhub.faults import Throttle
from tools.processes import run_environment, without_hub_settings

NOTEBOOK = "01-quickstart.ipynb"
HOME = ROOT / ".cache" / "demo"
"""The home of the demo: models, copies of the notebooks, and JupyterLab's own files. It is kept for the next time."""
BYTES_PER_SECOND = 8_000_000
"""Slow enough that a download, its pause and its resuming can be watched."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description="Run the demo until Ctrl-C.")
    parser.add_argument("--home", type=Path, default=HOME, metavar="FOLDER", help="where the demo keeps its files")
    home: Path = parser.parse_args().home.absolute()
    for number in ENDING_SIGNALS:
        signal.signal(number, _interrupt_once)
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        if os.environ.get("HUB"):
            variables = dict(os.environ)
            print("The widget browses the Hugging Face Hub.", flush=True)
        else:
            hub = stack.enter_context(demo_hub())
            hub.faults.add(Throttle(BYTES_PER_SECOND, is_shared=True), origin="cdn")
            variables = {
                **without_hub_settings(os.environ),
                "HF_ENDPOINT": hub.endpoint,
                "HF_HOME": str(home / "huggingface"),
            }
            speed = f"{BYTES_PER_SECOND / 1e6:.0f} MB/s"
            print(f"The local hub answers at {hub.endpoint}, at {speed} so that a download can be watched.", flush=True)
        # The demo does not touch the user's own cache and list of downloads.
        variables |= {"HF_HUB_CACHE": str(home / "huggingface" / "hub"), "MODELDECK_STATE_DIR": str(home / "state")}
        status = home / "llama-cpp-python.json"
        variables |= {"MODELDECK_LLAMA_STATUS": str(status)}
        notebooks = refresh_notebooks(home)
        environment = stack.enter_context(run_environment(variables))
        bring_llama(status, environment)
        server = stack.enter_context(jupyter_server(root=notebooks, home=home, environment=environment))
        address = server.page(NOTEBOOK)
        print(f"JupyterLab answers at  {address}\nModels and logs are in {home}\nCtrl-C stops everything.", flush=True)
        if has_display():
            webbrowser.open(address)
        server.process.wait()
    return 0


def bring_llama(status: Path, environment: Mapping[str, str]) -> None:
    """Install llama-cpp-python beside the demo, if it is not there."""
    status.unlink(missing_ok=True)
    if llama_wheel.is_installed():
        return
    print("llama-cpp-python is installed meanwhile; all but loading works without it.", flush=True)
    llama_wheel.Status(status).tell("downloading")  # before the first kernel starts
    subprocess.Popen([sys.executable, "-m", "tools.llama_wheel", str(status)], cwd=ROOT, env=environment)


def refresh_notebooks(home: Path) -> Path:
    """Copy the notebooks into the demo's home, so that using them changes no file of the checkout, and return the
    folder. A copy stays until its original is newer."""
    folder = home / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    for original in (ROOT / "notebooks").glob("*.ipynb"):
        copy = folder / original.name
        if not copy.exists() or copy.stat().st_mtime < original.stat().st_mtime:
            shutil.copyfile(original, copy)
    return folder


def has_display() -> bool:
    """Return whether a browser window can be opened. A text browser in the terminal does not count."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """End the demo. A second Ctrl-C must not interrupt the clean-up."""
    for signal_number in ENDING_SIGNALS:
        signal.signal(signal_number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
