"""Every public name documents itself: ``help(name)`` is enough to use it."""

import ast
import builtins
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import pytest
from numpydoc.docscrape import FunctionDoc, NumpyDocString

import modeldeck
from modeldeck import ModelDeckError, cluster

T = TypeVar("T")

PUBLIC = {name: getattr(modeldeck, name) for name in modeldeck.__all__ if name != "__version__"}
PUBLIC |= {f"cluster.{name}": getattr(cluster, name) for name in cluster.__all__}
ERRORS = {name: obj for name, obj in PUBLIC.items() if isinstance(obj, type) and issubclass(obj, ModelDeckError)}
DATA = {name: obj for name, obj in PUBLIC.items() if dataclasses.is_dataclass(obj)}
ENUMS = {name: obj for name, obj in PUBLIC.items() if isinstance(obj, type) and issubclass(obj, Enum)}
CLASSES = {
    name: obj for name, obj in PUBLIC.items() if isinstance(obj, type) and name not in {**ERRORS, **DATA, **ENUMS}
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: obj for name, obj in PUBLIC.items() if callable(obj) and not isinstance(obj, type)
}


INTERNAL = {
    "Session.engine",
    "Session.hub",
    "Session.measured",
    "Session.fits_on",
    "Session.forget_removed_files",
}
"""What modeldeck's own widget and command use. The reference leaves it out."""


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """The public members that modeldeck itself gives a class, not those that another library brings."""
    seen = set()
    for base in cls.__mro__:
        if not base.__module__.startswith("modeldeck"):
            continue
        for name, member in vars(base).items():
            if not name.startswith("_") and name not in seen:
                seen.add(name)
                yield name, member


def methods(classes: dict[str, type]) -> dict[str, Callable[..., Any]]:
    found = {}
    for class_name, cls in classes.items():
        for name, member in members(cls):
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if inspect.isfunction(function):
                found[f"{class_name}.{name}"] = function
    return found


def properties(classes: dict[str, type]) -> dict[str, property]:
    return {
        f"{class_name}.{name}": member
        for class_name, cls in classes.items()
        for name, member in members(cls)
        if isinstance(member, property)
    }


def without_internal(found: dict[str, T]) -> dict[str, T]:
    return {name: member for name, member in found.items() if name not in INTERNAL}


METHODS = without_internal(methods({**CLASSES, **DATA, "ModelDeckError": ModelDeckError}))
PROPERTIES = without_internal(properties({**CLASSES, **DATA, **ENUMS}))


def parameters(function: Callable[..., Any]) -> list[str]:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [
        stars.get(parameter.kind, "") + name
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("self", "cls")
    ]


def documented(entries: Any) -> list[str]:
    """The names of a section's entries. Each must have a type and a description."""
    names = []
    for entry in entries:
        assert entry.type, f"{entry.name} has no type"
        assert "".join(entry.desc).strip(), f"{entry.name} has no description"
        names += re.split(r",\s*", entry.name)
    return names


def has_prose(lines: list[str]) -> bool:
    return bool("".join(lines).strip())


def own_docstring(obj: Any) -> NumpyDocString:
    text = obj.__dict__.get("__doc__") if isinstance(obj, type) else obj.__doc__
    assert text, "it has no docstring of its own"
    parsed = NumpyDocString(inspect.cleandoc(text))
    assert has_prose(parsed["Summary"])
    assert "".join(parsed["Summary"]).endswith("."), "the summary is not a sentence"
    assert not re.search(r"\bSee `", text), "it sends the reader elsewhere instead of explaining"
    return parsed


def documented_errors(entries: Any) -> list[str]:
    """The errors of a section. Each is public, or one of Python's own."""
    names = [name for entry in entries for name in re.split(r",\s*", entry.type)]
    for name in names:
        assert name in ERRORS or issubclass(getattr(builtins, name), Exception), f"{name} is not a public error"
    return names


def check_callable(function: Callable[..., Any]) -> None:
    own_docstring(function)
    doc = FunctionDoc(function)
    assert documented(doc["Parameters"]) == parameters(function)
    documented_errors(doc["Raises"])
    if inspect.signature(function).return_annotation != "None":
        assert has_prose([line for entry in doc["Returns"] for line in entry.desc]), "it does not say what it returns"
        assert has_prose(doc["Examples"]), "it has no example"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_explains_its_parameters_its_result_and_its_errors(name: str) -> None:
    check_callable(FUNCTIONS[name])
    assert documented_errors(FunctionDoc(FUNCTIONS[name])["Raises"])


@pytest.mark.parametrize("name", METHODS)
def test_a_method_explains_its_parameters_and_its_result(name: str) -> None:
    check_callable(METHODS[name])


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_property_says_what_it_is(name: str) -> None:
    own_docstring(PROPERTIES[name].fget)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_explains_how_it_is_made_and_used(name: str) -> None:
    doc = own_docstring(CLASSES[name])
    assert has_prose(doc["Examples"]), "it has no example"
    if doc["Parameters"]:  # the others are returned by a function and not made by the user
        assert documented(doc["Parameters"]) == parameters(CLASSES[name])


@pytest.mark.parametrize("name", DATA)
def test_data_explains_each_field_and_property(name: str) -> None:
    listed = own_docstring(DATA[name])["Attributes"]
    fields = [field.name for field in dataclasses.fields(DATA[name])]
    assert documented(entry for entry in listed if entry.name in fields) == fields
    own_properties = [key.rpartition(".")[2] for key in properties({name: DATA[name]})]
    assert [entry.name for entry in listed if entry.name not in fields] == own_properties


@pytest.mark.parametrize("name", ENUMS)
def test_an_enumeration_explains_its_values(name: str) -> None:
    text = ENUMS[name].__doc__
    assert text
    assert [value.value for value in ENUMS[name] if f'"{value.value}"' not in text] == []


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_says_when_it_is_raised_and_what_to_do(name: str) -> None:
    doc = own_docstring(ERRORS[name])
    assert has_prose(doc["Extended Summary"]), "it does not say what to do"
    documented(doc["Attributes"])


PACKAGE = Path(modeldeck.__file__).parent
DEFINED = {
    node.name
    for path in PACKAGE.rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.ClassDef)
}


def annotations() -> Iterator[tuple[str, str]]:
    for name, function in {**FUNCTIONS, **METHODS, **{key: prop.fget for key, prop in PROPERTIES.items()}}.items():
        for annotation in inspect.get_annotations(function).values():
            yield name, str(annotation)
    for name, data in DATA.items():
        for field in dataclasses.fields(data):
            yield f"{name}.{field.name}", str(field.type)


def test_the_types_that_public_objects_carry_are_public() -> None:
    hidden = {
        (name, word)
        for name, annotation in annotations()
        for word in re.findall(r"\b[A-Z]\w+", annotation)
        if word in DEFINED and word not in {*(name.removeprefix("cluster.") for name in PUBLIC), "Llama"}
    }
    assert hidden == set()
