"""What the documents name exists: files, functions, commands and variables."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tools.__main__ import COMMANDS
from tools.environment import ROOT

PACKAGE = ROOT / "src" / "modeldeck"
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "js" / "README.md",
]
MAX_COLUMNS = 120
PATH = re.compile(r"(?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:py|ts|tsx|md|toml|txt|ipynb)")
FOLDERS = (ROOT, PACKAGE, ROOT / "js" / "src")
MADE_BY_SETUP = {".venv/bin/python", "js/node_modules"}


def inline_code(document: Path) -> list[str]:
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


def find_file(name: str, document: Path) -> Path | None:
    return next((path for folder in (document.parent, *FOLDERS) if (path := folder / name).exists()), None)


def defined_names(path: Path) -> set[str]:
    """Classes, functions and constants of a module, and the methods and attributes as ``Class.name``."""
    if path.suffix != ".py":
        return set(re.findall(r"(?:function|class|const|type|interface)\s+(\w+)", path.read_text(encoding="utf-8")))
    names = set()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{node.name}.")
            for target in getattr(node, "targets", [getattr(node, "target", None)]):
                if isinstance(target, ast.Name):
                    names.add(prefix + target.id)

    visit(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return names


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_files_and_names_that_a_document_mentions_exist(document: Path) -> None:
    missing = []
    for code in inline_code(document):
        place, _, name = code.partition(":")
        if not PATH.fullmatch(place) or place in MADE_BY_SETUP or place.startswith(("owner/", "blobs/", "~", "/")):
            continue
        path = find_file(place, document)
        if path is None or (name and name not in defined_names(path)):
            missing.append(code)
    assert missing == []


def test_each_picture_is_used_and_each_used_picture_exists() -> None:
    used = set()
    for document in DOCUMENTS:
        for name in re.findall(r"images/[\w-]+\.(?:png|webp)", document.read_text(encoding="utf-8")):
            used.add(ROOT / "docs" / name)
    assert used == set((ROOT / "docs" / "images").iterdir())


def test_the_readme_fits_its_width() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > MAX_COLUMNS] == []


def test_the_variables_of_modeldeck_are_documented_and_no_others() -> None:
    variable = re.compile(r"\bMODELDECK_[A-Z_]+\b")
    read = {name for path in PACKAGE.rglob("*.py") for name in variable.findall(path.read_text(encoding="utf-8"))}
    for document in ("README.md", "docs/reference/environment.md"):
        assert set(variable.findall((ROOT / document).read_text(encoding="utf-8"))) == read


def test_the_commands_of_make_are_documented() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"`make {name}" not in contributing] == []
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert phony
    assert set(phony[1].split()) == set(COMMANDS)


def test_the_workflows_use_the_oldest_and_the_newest_python_that_are_supported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    supported = [name.split(" :: ")[-1] for name in project["classifiers"] if re.search(r":: 3\.\d+$", name)]
    assert project["requires-python"] == f">={supported[0]}"
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    jobs = workflow["jobs"]
    assert jobs["systems"]["strategy"]["matrix"]["python"] == [supported[0], supported[-1]]
    bounds = {each["target"]: each["python"] for each in jobs["bounds"]["strategy"]["matrix"]["include"]}
    assert bounds == {"test-oldest": supported[0], "test-newest": supported[-1]}


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_the_forms_and_workflows_are_well_formed(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.parent.name == "workflows":
        steps = [step for job in content["jobs"].values() for step in job["steps"]]
        assert all("uses" in step or "run" in step for step in steps)
        targets = re.findall(r"\bmake ([\w-]+)", "\n".join(step.get("run", "") for step in steps))
        assert set(targets) <= set(COMMANDS)
