"""A real Jupyter server that is separate from the user's: with its own settings, data, runtime files and notebooks."""

import contextlib
import json
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

START_SECONDS = 120.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.05

# No questions to the user, and no requests to other machines.
SETTINGS: Mapping[str, object] = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


class JupyterStartError(Exception):
    """The server ended, or did not answer in time. The message contains its log."""


@dataclass(frozen=True, slots=True)
class JupyterServer:
    """A running server. ``address`` ends with a slash."""

    address: str
    token: str
    root: Path
    home: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> Path:
        return self.home / "jupyter.log"

    def page(self, notebook: str, *, application: str = "lab/tree") -> str:
        """Return the address that opens a notebook below the root. It contains the token."""
        return f"{self.address}{application}/{quote(notebook)}?token={self.token}"

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Call the REST API of the server, for example ``request("GET", "api/kernels")``."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.address + path, data, {"Authorization": f"token {self.token}"}, method=method
        )
        with urllib.request.urlopen(request, timeout=START_SECONDS) as answer:
            content = answer.read()
        return json.loads(content) if content else None


@contextlib.contextmanager
def jupyter_server(
    *,
    root: Path,
    home: Path,
    environment: Mapping[str, str],
    settings: Mapping[str, object] | None = None,
    arguments: tuple[str, ...] = (),
    python: str = sys.executable,
) -> Iterator[JupyterServer]:
    """Run a Jupyter server over the folder ``root``; kernels inherit ``environment``.

    Parameters
    ----------
    home
        The folder for the server's settings, data, runtime files and log.
    settings
        JupyterLab settings, by ``@PACKAGE/EXTENSION/PLUGIN``.
    arguments
        More arguments for ``jupyter lab``.
    python
        The interpreter of the environment that JupyterLab is in.
    """
    token = secrets.token_hex(24)
    runtime = home / "runtime"
    user_settings = home / "config" / "lab" / "user-settings"
    for name, values in {**SETTINGS, **(settings or {})}.items():
        setting = user_settings / f"{name}.jupyterlab-settings"
        setting.parent.mkdir(parents=True, exist_ok=True)
        setting.write_text(json.dumps(values), encoding="utf-8")
    log = home / "jupyter.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(python, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"),
                "--LanguageServerManager.autodetect=False",
                f"--ServerApp.root_dir={root}",
                *arguments,
            ],
            env={
                **environment,
                "JUPYTER_TOKEN": token,
                "JUPYTER_CONFIG_DIR": str(home / "config"),
                "JUPYTER_DATA_DIR": str(home / "data"),
                "JUPYTER_RUNTIME_DIR": str(runtime),
                "JUPYTERLAB_SETTINGS_DIR": str(user_settings),
                "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
                "IPYTHONDIR": str(home / "ipython"),
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        address = _wait_for_address(process, runtime, log)
        yield JupyterServer(address=address, token=token, root=root, home=home, process=process)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_address(process: subprocess.Popen[bytes], runtime: Path, log: Path) -> str:
    """Return the address from the file that the server writes, as soon as it answers there."""
    note = runtime / f"jpserver-{process.pid}.json"
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError, urllib.error.URLError):
            address: str = json.loads(note.read_text(encoding="utf-8"))["url"]
            with urllib.request.urlopen(f"{address}api", timeout=START_SECONDS):
                return address
        time.sleep(POLL_SECONDS)
    raise JupyterStartError(
        f"JupyterLab did not start (exit status {process.poll()}). Its log, {log}, says:\n"
        + log.read_text(encoding="utf-8", errors="replace")
    )
