"""The layout is the architecture: imports go downwards only, and heavy packages stay behind their border."""

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import modeldeck

PACKAGE = Path(modeldeck.__file__).parent

BASE = {
    "_version",
    "_types",
    "_tables",
    "_listing",
    "_errors",
    "_uncaught",
    "_files",
    "_backoff",
    "_children",
    "_heap",
    "_context_length",
    "_settings",
    "_loop",
    "_wire",
    "_notices",
}
MAY_IMPORT: dict[str, set[str]] = {
    "_version": set(),
    "_tables": set(),
    "_types": {"_tables"},
    "_listing": {"_tables", "_types"},
    "_errors": {"_types"},
    "_uncaught": {"_errors"},
    "_files": set(),
    "_backoff": set(),
    "_settings": {"_errors", "_types"},
    "_loop": {"_errors"},
    "_wire": {"_notices", "_types"},
    "_notices": set(),
    "_children": set(),
    "_heap": set(),
    "_context_length": {"_errors", "_types"},
    "gguf": BASE,
    "sizing": BASE | {"gguf"},
    "hub": BASE,
    "llama": BASE | {"gguf", "sizing"},
    "engine": BASE | {"hub", "gguf", "sizing"},
    "service": BASE | {"engine", "hub"},
    "library": BASE | {"hub", "gguf"},
    "cache_contents": BASE | {"library", "hub", "engine"},
    "renames": {"_files"},
    "targets": BASE | {"hub"},
    "lockfile": BASE | {"hub", "gguf"},
    "snippets": BASE | {"gguf"},
    "remote_headers": BASE | {"hub", "gguf"},
    "local_fit": BASE | {"llama", "sizing"},
    "appraisal": BASE | {"remote_headers", "hub", "gguf", "sizing"},
    "download_handle": BASE | {"service", "library"},
    "session": BASE
    | {"download_handle", "renames", "targets", "library", "cache_contents", "appraisal", "local_fit", "lockfile"}
    | {"service", "engine", "llama", "hub", "gguf", "sizing"},
    "bars": BASE,
    "api": BASE | {"session", "download_handle", "lockfile", "llama", "bars"},
    "cluster": BASE | {"session", "bars", "library", "local_fit", "service", "engine", "llama", "hub", "sizing"},
    "widget": BASE
    | {"cluster", "session", "cache_contents", "lockfile", "snippets", "service", "llama", "sizing", "gguf"},
    "cli": BASE | {"session", "download_handle", "lockfile", "service", "llama", "sizing"},
    "__main__": {"cli"},
}
BORDERS: dict[str, set[str]] = {
    "anywidget": {"widget"},
    "traitlets": {"widget"},
    "ipywidgets": {"widget"},
    "httpx": {"hub", "engine"},
    "httpcore": {"hub", "engine"},
    "llama_cpp": {"llama", "sizing"},
    "distributed": {"cluster"},
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
            if target == "__init__":
                continue
            assert target == layer or target in MAY_IMPORT[layer], f"{layer} must not import {name}"
        elif root in BORDERS:
            assert layer in BORDERS[root], f"{layer} must not import {root}"
            if root in ("llama_cpp", "distributed"):
                assert not at_import, f"{root} is imported inside functions only"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, known: set[str]) -> Iterator[str]:
    """The modules of the package that a file imports, also inside functions and for type checkers only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


def test_no_modules_import_each_other_in_a_circle() -> None:
    paths = {module_name(path): path for _, path in modules()}
    graph = {name: set(imported_modules(path, set(paths))) - {name} for name, path in paths.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def repeated(names: Iterator[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def test_a_name_means_one_module_or_class() -> None:
    """An editor's tab shows no folder, and a message no module."""
    paths = [path for _, path in modules()]
    assert repeated(path.name for path in paths if not path.name.startswith("__")) == []
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in paths)
    assert repeated(node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)) == []
