"""``make demo``: the local hub and JupyterLab on the quickstart, until Ctrl-C. Runs inside ``.venv``."""

import contextlib
import os
import shutil
import signal
import sys
import webbrowser
from types import FrameType

from tools.environment import ROOT
from tools.jupyter import jupyter_server
from tools.localhub.demo import demo_hub
from tools.processes import run_environment, without_hub_settings

NOTEBOOK = "01-quickstart.ipynb"
HOME = ROOT / ".cache" / "demo"
NOTEBOOKS = HOME / "notebooks"


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt_once)
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        if os.environ.get("HUB"):
            variables = dict(os.environ)
            print("The widget browses the Hugging Face Hub.", flush=True)
        else:
            endpoint = stack.enter_context(demo_hub()).endpoint
            variables = {
                **without_hub_settings(os.environ),
                "HF_ENDPOINT": endpoint,
                "HF_HOME": str(HOME / "huggingface"),
            }
            print(f"The local hub answers at {endpoint}", flush=True)
        # The demo does not touch the user's own cache and list of downloads.
        variables |= {"HF_HUB_CACHE": str(HOME / "huggingface" / "hub"), "MODELDECK_STATE_DIR": str(HOME / "state")}
        refresh_notebooks()
        environment = stack.enter_context(run_environment(variables))
        server = stack.enter_context(jupyter_server(root=NOTEBOOKS, home=HOME, environment=environment))
        address = server.page(NOTEBOOK)
        print(f"JupyterLab answers at  {address}\nModels and logs are in {HOME}\nCtrl-C stops everything.", flush=True)
        if has_display():
            webbrowser.open(address)
        server.process.wait()
    return 0


def refresh_notebooks() -> None:
    """Copy the notebooks, so that a demo does not change the checkout. A copy stays until its original is newer."""
    NOTEBOOKS.mkdir(parents=True, exist_ok=True)
    for original in (ROOT / "notebooks").glob("*.ipynb"):
        copy = NOTEBOOKS / original.name
        if not copy.exists() or copy.stat().st_mtime < original.stat().st_mtime:
            shutil.copyfile(original, copy)


def has_display() -> bool:
    """Return whether a browser window can be opened. A text browser in the terminal does not count."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """End the demo. A second Ctrl-C must not interrupt the clean-up."""
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
