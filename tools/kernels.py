"""Older ipykernels for the browser tests: each in a folder of its own, put in front of a kernel's path."""

import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".cache" / "kernels"

# What each needs besides the packages of the test environment, which has the newest ipykernel.
PACKAGES = {
    "6.31.0": ("ipykernel==6.31.0", "nest-asyncio==1.6.0"),
    "7.3.0": ("ipykernel==7.3.0",),
}


def kernel_variables(version: str) -> dict[str, str]:
    """The environment that makes a kernel run with one of `PACKAGES`.

    Raises
    ------
    FileNotFoundError
        When it is not installed.
    """
    folder = FOLDER / version
    if not folder.is_dir():
        raise FileNotFoundError(f"ipykernel {version} is not installed for the tests: `make setup` does it.")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}
