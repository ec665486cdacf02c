"""Converts a JSON schema to a grammar in a child process; see `modeldeck._children`.

The converter writes repetitions out, so a small schema can become gigabytes of text.
"""

import importlib.util
import runpy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any


def answer(request: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Convert ``request["schema"]``: one answer, with its ``grammar``, or the ``error`` of the converter."""
    try:
        yield {"grammar": converter()(request["schema"], request["prop_order"])}
    except (RecursionError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - the converter raises all kinds for a schema that it does not know
        yield {"error": f"{type(error).__name__}: {error}"}


@cache
def converter() -> Any:
    """Load the converter of llama-cpp-python alone, which is much faster than importing the package."""
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None
    assert spec.submodule_search_locations
    return runpy.run_path(str(Path(spec.submodule_search_locations[0]) / "llama_grammar.py"))["json_schema_to_gbnf"]
