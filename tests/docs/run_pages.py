"""Runs the Python examples of several pages in one process, as a notebook would run them, and prints what failed."""

import ast
import asyncio
import inspect
import json
import sys
import traceback
from collections.abc import Generator
from typing import Any

import modeldeck


class PressedLoad:
    """Stands for the browser after a person has pressed Download and Load in it."""

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.to_thread(modeldeck.load, "owner/name:Q4_K_M", n_ctx=512).__await__()


async def run_page(blocks: list[tuple[str, str]], names: dict[str, str]) -> str | None:
    """Run the blocks of a page one after the other. Return the traceback of the one that fails."""
    namespace: dict[str, Any] = dict(names)
    for place, source in blocks:
        if "await browser" in source:
            namespace["browser"].close()
            namespace["browser"] = PressedLoad()
        try:
            code = compile(source, place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, namespace)
            if inspect.iscoroutine(result):
                await result
        except Exception:  # noqa: BLE001 - each page has its own result
            return f"{source}\n{traceback.format_exc()}"
    for value in namespace.values():
        if hasattr(value, "unload"):
            value.unload()
        if isinstance(value, modeldeck.ModelBrowser):
            value.unobserve_all()  # those that print would go on beside the other pages
            value.close()
    return None


async def main() -> None:
    task = json.load(sys.stdin)
    failures = {page: await run_page(blocks, task["names"]) for page, blocks in task["pages"].items()}
    sys.stdout.write("\n" + json.dumps(failures) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
