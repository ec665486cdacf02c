"""The way from Python to the page: traits and messages, as JSON."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import msgspec

from modeldeck._errors import ModelDeckError
from modeldeck._notices import notice_code
from modeldeck._types import ErrorInfo
from modeldeck.widget.requests import Message, ToastCode, ToastMessage

_logger = logging.getLogger(__name__)


class Display(Protocol):
    """What the publisher writes to: the widget's traits, its message channel, and those who observe it in Python."""

    def publish(self, name: str, value: dict[str, Any]) -> None: ...

    def together(self) -> AbstractContextManager[None]: ...

    def send_message(self, content: dict[str, Any]) -> None: ...

    def announce(self, name: str, old: object, new: object) -> None: ...


def as_json(state: object) -> Any:
    """Structs as the values of which JSON consists: dicts, lists, strings, numbers, booleans and ``None``."""
    return msgspec.json.decode(msgspec.json.encode(state))


class Publisher:
    """Writes the structs of `traits` and `requests` to a display."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._toasts = 0
        self.error: ModelDeckError | None = None

    def publish(self, name: str, state: msgspec.Struct | Mapping[str, msgspec.Struct]) -> None:
        """Write one trait."""
        self._display.publish(name, as_json(state))

    def together(self) -> AbstractContextManager[None]:
        """Let several traits reach the page in one message, in a ``with`` block."""
        return self._display.together()

    def announce(self, name: str, old: object, new: object) -> None:
        """Tell observers in Python that ``llm``, ``downloads`` or ``error`` has changed."""
        if old is not new and old != new:
            self._display.announce(name, old, new)

    def report(self, error: ModelDeckError) -> None:
        """Make an error the last one, for observers in Python."""
        before, self.error = self.error, error
        self.announce("error", before, error)

    def toast(
        self,
        level: Literal["success", "error", "info"],
        message: str,
        code: ToastCode | None = None,
        *,
        label: str | None = None,
        repo_id: str | None = None,
        error: ErrorInfo | None = None,
        models: int | None = None,
    ) -> None:
        """Show a message for some seconds. In another language than English the page makes it of the other values."""
        self._toasts += 1
        known = code or notice_code(message)
        self.send(ToastMessage(str(self._toasts), level, message, known, label, repo_id, error, models))

    def send(self, message: Message) -> None:
        """Send one message. One that cannot be sent is logged and dropped: the caller has other work to do."""
        try:
            self._display.send_message(as_json(message))
        except Exception:
            _logger.exception("modeldeck's widget could not send a message")
