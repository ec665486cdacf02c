"""Older versions of packages that modeldeck works with. Each has its own folder, which tests put on the path first."""

import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".cache" / "older"

# What each folder contains, besides the packages of the test environment, which has the newest versions.
PACKAGES = {
    "ipykernel-6.31.0": ("ipykernel==6.31.0", "nest-asyncio==1.6.0"),
    "ipykernel-7.3.0": ("ipykernel==7.3.0",),
    "huggingface_hub-0.36.2": ("huggingface_hub==0.36.2",),
    "huggingface_hub-1.9.2": ("huggingface_hub==1.9.2",),
    "huggingface_hub-1.33.0": ("huggingface_hub==1.33.0",),
}


def older_variables(name: str) -> dict[str, str]:
    """Return the environment that makes an interpreter use one of `PACKAGES`.

    Raises
    ------
    FileNotFoundError
        If it is not installed.
    """
    folder = FOLDER / name
    if not folder.is_dir():
        raise FileNotFoundError(f"{name} is not installed for the tests. Run `make setup`.")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}
