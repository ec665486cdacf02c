"""Hosts that are tested in an environment of their own, with modeldeck and llama-cpp-python: nbclassic, marimo, Voilà.

JupyterLab and Notebook 7 are in it too, as in the environment of a user who has several.
"""

import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".cache" / "hosts"

PACKAGES = ("marimo", "nbclassic", "notebook", "voila")
"""Their versions are in ``constraints.txt`` and ``constraints-hosts.txt``."""


def hosts_python() -> str:
    """Return the interpreter of the environment.

    Raises
    ------
    FileNotFoundError
        If it is not set up.
    """
    python = python_of(FOLDER)
    if not python.exists():
        raise FileNotFoundError("The hosts are not installed for the tests. Run `make hosts`.")
    return str(python)


def python_of(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
