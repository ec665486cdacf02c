"""What the command prints: text for people, or one JSON object a line for programs."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO, TypeAlias

import msgspec

from modeldeck._errors import ModelDeckError
from modeldeck._tables import format_duration, format_rate, format_size, shorten_middle
from modeldeck._types import DownloadSnapshot, DownloadState, LocalModel

Record: TypeAlias = msgspec.Struct | dict[str, Any]

_USUAL_COLUMNS = 80
_MIN_NAME_COLUMNS = 12
_RED, _RESET = "\x1b[31m", "\x1b[0m"


@dataclass(slots=True)
class Output:
    """Writes for people, or one JSON object a line for programs.

    Data goes to standard output; progress, notes and errors for people go to standard error.
    """

    is_json: bool
    is_quiet: bool = False
    is_verbose: bool = False
    _first: DownloadSnapshot | None = None
    _last: DownloadSnapshot | None = None
    _began_at: float = field(default_factory=time.monotonic)
    _is_line_open: bool = False

    def record(self, data: Record, text: str) -> None:
        self._end_line()
        print(json.dumps(msgspec.to_builtins(data)) if self.is_json else text, flush=True)

    def records(self, data: Sequence[Record], text: str, *, if_none: str) -> None:
        """Write a line of JSON for each item, or the text for all of them."""
        self._end_line()
        if self.is_json:
            for item in data:
                self.record(item, "")
        elif data:
            print(text, flush=True)
        else:
            self.note(if_none)

    def progress(self, snapshot: DownloadSnapshot) -> None:
        if snapshot.state is DownloadState.READY or snapshot == self._last:
            return
        self._first = self._first or snapshot
        self._last = snapshot
        if self.is_json:
            self.record(
                {
                    "event": "progress",
                    "received": snapshot.received,
                    "total": snapshot.total,
                    "rate": snapshot.rate,
                    "state": snapshot.state.value,
                },
                "",
            )
        elif sys.stderr.isatty() and not self.is_quiet:
            width = (os.get_terminal_size(sys.stderr.fileno()).columns or _USUAL_COLUMNS) - 1
            _tell(f"\r\x1b[K{progress_line(snapshot, width)}", end="")
            self._is_line_open = True

    def ready(self, model: LocalModel) -> None:
        if not self.is_json:
            self._close_progress(self._closing_line(model))
        self.record(
            {
                "event": "ready",
                "path": str(model.path),
                "sha256": model.sha256,
                "commit_hash": model.commit_hash,
                "bytes_fetched": model.bytes_fetched,
            },
            str(model.path),
        )

    def _closing_line(self, model: LocalModel) -> str:
        fetched = (model.bytes_fetched or 0) - (self._first.bytes_fetched if self._first else 0)
        if fetched <= 0:
            return f"{format_size(model.size)} already in the cache."
        seconds = max(time.monotonic() - self._began_at, 1e-3)
        speed = format_rate(fetched / seconds)
        return f"{format_size(fetched)} in {format_duration(seconds)} ({speed}), SHA-256 verified."

    def failed(self, error: ModelDeckError) -> None:
        if self.is_json:
            self.record({"event": "failed", "code": error.code, "message": error.message, **error.details}, "")
            return
        if self.is_verbose:
            self._end_line()
            traceback.print_exception(error)
        self.problem(error.message)

    def problem(self, text: str) -> None:
        """Write what went wrong, for people."""
        self._end_line()
        red, reset = (_RED, _RESET) if is_coloured(sys.stderr) else ("", "")
        _tell(f"{red}modeldeck:{reset} {text}")

    def note(self, text: str) -> None:
        self._end_line()
        if not self.is_quiet:
            _tell(text)

    def _close_progress(self, text: str) -> None:
        """Replace the line of progress by a last line."""
        if self.is_quiet:
            return
        if self._is_line_open:
            self._is_line_open = False
            _tell(f"\r\x1b[K{text}")
        else:
            _tell(text)

    def _end_line(self) -> None:
        if self._is_line_open:
            _tell("")
            self._is_line_open = False


def _tell(text: str, end: str = "\n") -> None:
    """Write for people. What cannot be written is lost, and the work goes on."""
    try:
        print(text, end=end, file=sys.stderr, flush=True)
    except OSError:
        drop(sys.stderr)


def drop(stream: TextIO) -> None:
    """Keep Python from writing what failed again at its exit, with a status and a message of its own."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def is_coloured(stream: TextIO) -> bool:
    """Return whether colours may be written: on a terminal, and not if ``NO_COLOR`` is set (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def progress_line(snapshot: DownloadSnapshot, width: int) -> str:
    """Return a download in one line of at most ``width`` characters.

    The figures come first: where there is little room, the name is shortened in its middle, and then the least
    important figures go.
    """
    name = snapshot.request.name
    percent = [] if snapshot.percent is None else [f"{snapshot.percent:3d} %"]
    sizes = f"{format_size(snapshot.received)} of {format_size(snapshot.total)}"
    rate = [] if snapshot.rate is None else [format_rate(snapshot.rate)]
    left = [] if snapshot.eta_seconds is None else [f"{format_duration(snapshot.eta_seconds)} left"]
    state = snapshot.state.value
    for parts in (
        [state, *percent, sizes, *rate, *left],
        [state, *percent, sizes, *left],
        [state, *percent, sizes],
        [state, *percent],
        percent or [state],
    ):
        figures = "  ".join(parts)
        if len(figures) + 2 + min(len(name), _MIN_NAME_COLUMNS) <= width:
            return f"{shorten_middle(name, width - len(figures) - 2)}  {figures}"
        if len(figures) <= width:
            return figures
    return ""
