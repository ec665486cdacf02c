"""What the command prints: text for people, or one JSON object per line for programs."""

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
from modeldeck._tables import format_duration, format_rate, format_size, shorten_middle, text_width
from modeldeck._types import DownloadSnapshot, DownloadState, LocalModel

Record: TypeAlias = msgspec.Struct | dict[str, Any]

_USUAL_COLUMNS = 80
_MIN_NAME_COLUMNS = 12
_MOST_LINES = 8
_SPARE_COLUMNS = 3
"""Room for the cursor, and for the ``^C`` of an interrupt, which would break a line that is full."""
_RED, _RESET = "\x1b[31m", "\x1b[0m"


@dataclass(slots=True)
class Output:
    """Writes for people, or one JSON object per line for programs.

    Data goes to standard output; progress, notes and errors for people go to standard error. Work that goes on has a
    line of its own on a terminal, which the next one replaces.
    """

    is_json: bool
    is_quiet: bool = False
    is_verbose: bool = False
    _began: dict[str, tuple[DownloadSnapshot, float]] = field(default_factory=dict)
    _shown: dict[str, DownloadSnapshot] = field(default_factory=dict)
    _open_lines: int = 0

    def record(self, data: Record, text: str) -> None:
        self._clear_lines()
        print(json.dumps(msgspec.to_builtins(data)) if self.is_json else text, flush=True)

    def records(self, data: Sequence[Record], text: str, *, if_none: str) -> None:
        """Write a line of JSON for each item, or the text for all of them."""
        self._clear_lines()
        if self.is_json:
            for item in data:
                self.record(item, "")
        elif data:
            print(text, flush=True)
        else:
            self.note(if_none)

    def progress(self, snapshot: DownloadSnapshot) -> None:
        """Show a download. Several may take turns: each has a line, and a last one about the whole of it at its end."""
        if snapshot == self._shown.get(snapshot.job_id):
            return
        first, began_at = self._began.setdefault(snapshot.job_id, (snapshot, time.monotonic()))
        if snapshot.state is DownloadState.READY:
            self._shown.pop(snapshot.job_id, None)
            if not self.is_json:
                self.note(closing_line(snapshot, first, began_at))
        else:
            self._shown[snapshot.job_id] = snapshot
            if self.is_json:
                self.record(
                    {
                        "event": "progress",
                        "name": snapshot.request.name,
                        "received": snapshot.received,
                        "total": snapshot.total,
                        "rate": snapshot.rate,
                        "state": snapshot.state.value,
                    },
                    "",
                )
        self._show_lines([progress_line(each, self._width()) for each in self._shown.values()])

    def verifying(self, name: str, hashed: int, total: int) -> None:
        """Show how far the files of a model have been read."""
        percent = hashed * 100 // total if total else None
        line = work_line(name, DownloadState.VERIFYING, self._width(), received=hashed, total=total, percent=percent)
        self._show_lines([line])

    def ready(self, model: LocalModel) -> None:
        self.record(
            {
                "event": "ready",
                "name": model.name,
                "path": str(model.path),
                "sha256": model.sha256,
                "commit_hash": model.commit_hash,
                "bytes_fetched": model.bytes_fetched,
            },
            str(model.path),
        )

    def failed(self, error: ModelDeckError, about: str = "") -> None:
        """Write why something failed; ``about`` names it, where several could have."""
        if self.is_json:
            name = {"name": about} if about else {}
            self.record({"event": "failed", **name, "code": error.code, "message": error.message, **error.details}, "")
            return
        self.keep_lines()
        if self.is_verbose:
            traceback.print_exception(error)
        self.problem(f"{about}: {error.message}" if about else error.message)

    def problem(self, text: str) -> None:
        """Write what went wrong, for people."""
        self.keep_lines()
        red, reset = (_RED, _RESET) if is_coloured(sys.stderr) else ("", "")
        _tell(f"{red}modeldeck:{reset} {text}")

    def note(self, text: str) -> None:
        self._clear_lines()
        if not self.is_quiet:
            _tell(text)

    def keep_lines(self) -> None:
        """Leave the lines of progress where they are, because the work has ended there."""
        if self._open_lines:
            _tell("")
            self._open_lines = 0

    def _width(self) -> int:
        if not sys.stderr.isatty():
            return _USUAL_COLUMNS
        return (os.get_terminal_size(sys.stderr.fileno()).columns or _USUAL_COLUMNS) - _SPARE_COLUMNS

    def _show_lines(self, lines: Sequence[str]) -> None:
        if self.is_json or self.is_quiet or not _is_screen(sys.stderr):
            return
        back = self._back()
        self._open_lines = min(len(lines), _MOST_LINES)
        _tell(back + "\n".join(lines[:_MOST_LINES]), end="")

    def _clear_lines(self) -> None:
        if self._open_lines:
            _tell(self._back(), end="")
            self._open_lines = 0

    def _back(self) -> str:
        """Return what goes to the first of the open lines and clears them."""
        up = f"\x1b[{self._open_lines - 1}A" if self._open_lines > 1 else ""
        return f"{up}\r\x1b[J" if self._open_lines else ""


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


def _is_screen(stream: TextIO) -> bool:
    """Return whether escape sequences may be written: on a terminal that knows them."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def is_coloured(stream: TextIO) -> bool:
    """Return whether colours may be written: on such a terminal, if ``NO_COLOR`` is not set (https://no-color.org)."""
    return _is_screen(stream) and not os.environ.get("NO_COLOR")


def closing_line(snapshot: DownloadSnapshot, first: DownloadSnapshot, began_at: float) -> str:
    """Return what is left to say of a download that is ready, and that was first seen as it was then."""
    name, fetched = snapshot.request.name, snapshot.bytes_fetched - first.bytes_fetched
    if fetched > 0:
        seconds = max(time.monotonic() - began_at, 1e-3)
        figures = f"{format_size(fetched)} in {format_duration(seconds)} ({format_rate(fetched / seconds)})"
        return f"{name}: {figures}, SHA-256 verified."
    if snapshot.bytes_fetched:  # all had come by then
        return f"{name}: {format_size(snapshot.bytes_fetched)}, SHA-256 verified."
    return f"{name}: {format_size(snapshot.total)} already in the cache."


def progress_line(snapshot: DownloadSnapshot, width: int) -> str:
    """Return a download in one line of at most so many columns."""
    return work_line(
        snapshot.request.name,
        snapshot.phase,
        width,
        received=snapshot.received,
        total=snapshot.total,
        percent=snapshot.percent,
        rate=snapshot.rate,
        eta_seconds=snapshot.eta_seconds,
    )


def work_line(
    name: str,
    phase: str,
    width: int,
    *,
    received: int,
    total: int | None,
    percent: int | None,
    rate: float | None = None,
    eta_seconds: float | None = None,
) -> str:
    """Return work on a model in one line of at most so many columns.

    Where there is little room, the name is shortened in its middle, and then the least important figures go.
    """
    percents = [] if percent is None else [f"{percent:3d} %"]
    sizes = format_size(received) + ("" if total is None else f" of {format_size(total)}")
    rates = [] if rate is None else [format_rate(rate)]
    left = [] if eta_seconds is None else [f"{format_duration(eta_seconds)} left"]
    choices = [
        [phase, *percents, sizes, *rates, *left],
        [phase, *percents, sizes, *left],
        [phase, *percents, sizes],
        [*percents, sizes] if phase == DownloadState.DOWNLOADING else [phase, *percents],
        percents or [phase],
    ]
    for figures in map("  ".join, choices):
        if len(figures) + 2 + min(text_width(name), _MIN_NAME_COLUMNS) <= width:
            return f"{shorten_middle(name, width - len(figures) - 2)}  {figures}"
    return next((figures for figures in map("  ".join, choices) if len(figures) <= width), "")
