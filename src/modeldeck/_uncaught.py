"""How an error of modeldeck looks that ends a script: the script's own lines and the message.

The lines inside modeldeck and the causes are for those who look for a bug: ``python -X dev`` shows them.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import TracebackType

from modeldeck._errors import ModelDeckError

_PACKAGE = str(Path(__file__).parent)


def shorten_uncaught_errors() -> None:
    """Take the place of Python's own hook. Somebody else's stays, and so does that of the development mode."""
    if sys.excepthook is sys.__excepthook__ and not sys.flags.dev_mode:
        sys.excepthook = _report


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, ModelDeckError):
        sys.__excepthook__(kind, error, trace)
        return
    report = traceback.TracebackException(kind, error, trace)
    report.stack = traceback.StackSummary.from_list(_before_modeldeck(report.stack))
    report.__cause__ = report.__context__ = None
    report.print(file=sys.stderr)


def _before_modeldeck(stack: traceback.StackSummary) -> list[traceback.FrameSummary]:
    """Return the lines up to the first one inside modeldeck, or all of them if only these exist."""
    inside = [frame.filename.startswith(_PACKAGE) for frame in stack]
    return stack[: inside.index(True)] if any(inside[1:]) else list(stack)
