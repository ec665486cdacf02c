"""What the command prints: text for people, or one JSON object a line for programs."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import Any

import msgspec

from modeldeck._errors import ModelDeckError
from modeldeck._types import DownloadSnapshot, DownloadState, LocalModel

_GB_BYTES = 10**9
_MB_BYTES = 10**6
_USUAL_COLUMNS = 80


@dataclass(slots=True)
class Output:
    """Writes for people, or one JSON object a line for programs."""

    is_json: bool
    _last: DownloadSnapshot | None = None
    _is_line_open: bool = False

    def record(self, data: msgspec.Struct | dict[str, Any], text: str) -> None:
        print(json.dumps(msgspec.to_builtins(data)) if self.is_json else text, flush=True)

    def progress(self, snapshot: DownloadSnapshot) -> None:
        if snapshot.state is DownloadState.READY or snapshot == self._last:
            return
        self._last = snapshot
        if self.is_json:
            print(
                json.dumps(
                    {
                        "event": "progress",
                        "received": snapshot.received,
                        "total": snapshot.total,
                        "rate": snapshot.rate,
                        "state": snapshot.state.value,
                    }
                ),
                flush=True,
            )
        elif sys.stderr.isatty():
            # Of a line that is too long the end is shown, where the figures are: a broken one could not be overwritten.
            width = (os.get_terminal_size(sys.stderr.fileno()).columns or _USUAL_COLUMNS) - 1
            print(f"\r\x1b[K{job_line(snapshot)[-width:]}", end="", file=sys.stderr, flush=True)
            self._is_line_open = True

    def ready(self, model: LocalModel) -> None:
        self._end_line()
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

    def failed(self, error: ModelDeckError) -> None:
        self._end_line()
        if self.is_json:
            print(
                json.dumps({"event": "failed", "code": error.code, "message": error.message, **error.details}),
                flush=True,
            )
        else:
            print(f"modeldeck: {error.message}", file=sys.stderr)

    def note(self, text: str) -> None:
        self._end_line()
        print(text, file=sys.stderr)

    def _end_line(self) -> None:
        if self._is_line_open:
            print(file=sys.stderr)
            self._is_line_open = False


def job_line(snapshot: DownloadSnapshot) -> str:
    percent = "" if snapshot.percent is None else f"{snapshot.percent:3d} %  "
    rate = "" if snapshot.rate is None else f"  {snapshot.rate / _MB_BYTES:.1f} MB/s"
    left = "" if snapshot.eta_seconds is None else f"  {round(snapshot.eta_seconds)} s left"
    name = f"{snapshot.request.repo_id}:{snapshot.request.label}"
    sizes = f"{format_size(snapshot.received)} of {format_size(snapshot.total)}"
    return f"{name}  {snapshot.state}  {percent}{sizes}{rate}{left}"


def format_size(size: int | None) -> str:
    if size is None:
        return "?"
    return f"{size / _GB_BYTES:.2f} GB" if size >= _GB_BYTES else f"{size / _MB_BYTES:.1f} MB"


def format_count(count: int | None) -> str:
    return "?" if count is None else str(count)
