"""The layout is the architecture: imports go downwards only, and heavy packages stay behind their border."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import modeldeck

PACKAGE = Path(modeldeck.__file__).parent

MAY_IMPORT: dict[str, set[str]] = {
    "_types": set(),
    "_errors": {"_types"},
    "_settings": {"_errors"},
    "gguf": {"_types", "_errors"},
    "fit": {"gguf", "_types", "_errors"},
    "hub": {"_types", "_errors", "_settings"},
    "llama": {"fit", "gguf", "_types", "_errors"},
    "download": {"hub", "gguf", "fit", "_types", "_errors", "_settings"},
    "service": {"download", "hub", "_types", "_errors", "_settings"},
    "session": {"service", "download", "llama", "hub", "gguf", "fit", "_types", "_errors", "_settings"},
    "widget": {"session", "service", "llama", "gguf", "fit", "_types", "_errors", "_settings"},
    "cli": {"session", "service", "localhub", "_types", "_errors", "_settings"},
    "localhub": {"_types", "_errors"},
}
BORDERS: dict[str, set[str]] = {
    "anywidget": {"widget"},
    "traitlets": {"widget"},
    "ipywidgets": {"widget"},
    "httpx": {"hub", "download"},
    "httpcore": {"hub", "download"},
    "llama_cpp": {"llama", "fit"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path


def imported_names(path: Path) -> Iterator[tuple[str, bool]]:
    """Each imported module, and whether the import runs when the module is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    deferred = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        at_import = id(node) not in deferred
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, at_import
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            if node.module == "modeldeck":
                for alias in node.names:
                    yield f"modeldeck.{alias.name}", at_import
            else:
                yield node.module, at_import


@pytest.mark.parametrize(("layer", "path"), list(modules()), ids=lambda value: str(value).split("modeldeck/")[-1])
def test_imports_go_downwards(layer: str, path: Path) -> None:
    if layer == "__init__":
        return
    for name, at_import in imported_names(path):
        root, _, rest = name.partition(".")
        if root == "modeldeck":
            target = rest.split(".")[0] or "__init__"
            if target in ("__init__", "__version__"):
                continue
            assert target == layer or target in MAY_IMPORT[layer], f"{layer} must not import {name}"
        elif root in BORDERS:
            assert layer in BORDERS[root], f"{layer} must not import {root}"
            if root == "llama_cpp":
                assert not at_import, "llama_cpp is imported inside functions only"
