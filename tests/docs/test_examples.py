"""Every code block of the README and of the documentation runs, against the local hub."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_SECONDS
from tools.environment import ROOT
from tools.localhub import LocalHub
from tools.localhub.demo import TOKEN
from tools.localhub.tiny_models import write_chat_model
from tools.processes import run_environment, without_hub_settings

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

pytestmark = pytest.mark.llama


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> Iterator[Block]:
    fence = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for match in fence.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            yield Block(path.relative_to(ROOT).as_posix(), line, match[1].strip(), match[2])


BLOCKS = list(blocks())
PYTHON_PAGES = list(dict.fromkeys(block.page for block in BLOCKS if block.language == "python"))
COMMAND_LINES = [
    (block.page, line)
    for block in BLOCKS
    if block.language == "sh"
    for line in block.text.replace("\\\n", "").splitlines()
    if line.strip()
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables of a user whose Hub has the repositories of the examples."""
    from tools.localhub.demo import add_demo_repos

    folder = tmp_path_factory.mktemp("examples")
    hub = LocalHub(tokens={TOKEN: {"owner/gated"}})
    assert list(add_demo_repos(hub, folder)) == []
    files = {
        f"name-{label}.gguf": write_chat_model(folder / f"name-{label}.gguf", quantization=quantization)
        for label, quantization in (("Q4_K_M", "Q4_0"), ("Q8_0", "Q8_0"))
    }
    hub.add_repo("owner/name", files, pipeline_tag="text-generation", downloads=10)
    hub.add_repo("owner/gated", files, gated="manual")
    with hub:
        variables = {
            **without_hub_settings(os.environ),
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(folder / "hf"),
            "MODELDECK_STATE_DIR": str(folder / "state"),
            "MODELDECK_RUNTIME_DIR": str(folder / "run"),
        }
        with run_environment(variables) as user:
            yield user


def user_folder(environment: dict[str, str]) -> Path:
    """The working directory of the user, where the examples may leave files."""
    return Path(environment["HF_HOME"]).parent


@pytest.fixture(scope="module")
def failures(environment: dict[str, str]) -> dict[str, str | None]:
    """What each page with Python examples fails with."""
    task = {
        "pages": {
            page: [(str(block), block.text) for block in BLOCKS if (block.page, block.language) == (page, "python")]
            for page in PYTHON_PAGES
        },
        "names": {
            "HUB": environment["HF_ENDPOINT"],
            "TOKEN": TOKEN,
            "CACHE": str(Path(environment["HF_HOME"], "hub")),
        },
    }
    result = subprocess.run(
        [sys.executable, Path(__file__).parent / "run_pages.py"],
        input=json.dumps(task),
        env=environment,
        cwd=user_folder(environment),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, str | None] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_the_python_examples_run(page: str, failures: dict[str, str | None]) -> None:
    assert failures[page] is None, failures[page]


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    """Directives of the documentation are tested by its build, and drawings are text."""
    unknown = [
        str(block)
        for block in BLOCKS
        if block.language not in ("python", "sh", "") and not block.language.startswith("{")
    ]
    assert unknown == []


@pytest.mark.parametrize(("page", "line"), COMMAND_LINES)
def test_a_command_line_works(page: str, line: str, environment: dict[str, str]) -> None:
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    if not words:
        return
    program, *arguments = words
    if program == "modeldeck":
        result = subprocess.run(
            [sys.executable, "-m", "modeldeck", *arguments],
            env=environment,
            cwd=user_folder(environment),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert result.returncode == 0, result.stderr
    elif program == "export":
        (assignment,) = arguments
        variable = assignment.partition("=")[0]
        assert f"`{variable}`" in (ROOT / "docs/reference/environment.md").read_text(encoding="utf-8")
    elif program == "pip":
        assert_is_installable(arguments)
    elif program == "make":
        assert re.search(rf"^\.PHONY:.*\b{arguments[0]}\b", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        assert (program, *arguments) == ("hf", "auth", "login")


def assert_is_installable(arguments: list[str]) -> None:
    """The packages are modeldeck with extras that it has, or dependencies of it as it states them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    stated = [requirement for extra in extras.values() for requirement in extra]
    for argument in arguments[1:]:
        if argument.startswith("-"):
            continue
        name, _, extra = argument.rstrip("]").partition("[")
        if name == "modeldeck":
            assert extra in ("", *extras)
        else:
            assert argument in stated or any(requirement.startswith(argument) for requirement in stated)
