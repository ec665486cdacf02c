"""Running a cell again makes a new widget under the old one's name. The new one takes over the loaded model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def after_this_cell(widget: T, kind: type[T], *, take_over: Callable[[T], None]) -> None:
    """Call ``take_over`` after the running cell with every older widget whose names now refer to ``widget``.

    A widget that still has a name of its own keeps what it has. Does nothing outside IPython.

    Parameters
    ----------
    widget
        The new widget, before it has a name.
    kind : type
        The class of its predecessors. traitlets makes a class of its own for a widget with traits of its own.
    take_over : callable
        Called with each predecessor, on the thread of the cell.
    """
    shell = _running_shell()
    if shell is None:
        return
    # isinstance() asks a value for its class, and a proxy of what is gone raises an error.
    older = {
        name: value for name, value in _named(shell.user_ns) if issubclass(type(value), kind) and value is not widget
    }
    if not older:
        return

    def on_end(_result: object = None) -> None:
        shell.events.unregister("post_run_cell", on_end)
        now = dict(_named(shell.user_ns))
        still_named = {id(value) for value in now.values()}
        for predecessor in {
            id(value): value
            for name, value in older.items()
            if now.get(name) is widget and id(value) not in still_named
        }.values():
            take_over(predecessor)

    shell.events.register("post_run_cell", on_end)


def _named(namespace: dict[Any, Any]) -> list[tuple[str, Any]]:
    """What the user has named. IPython itself keeps outputs under names that begin with an underscore."""
    return [
        (name, value) for name, value in list(namespace.items()) if isinstance(name, str) and not name.startswith("_")
    ]


def _running_shell() -> Any:
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()
