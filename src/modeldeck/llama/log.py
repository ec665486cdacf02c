"""What llama.cpp said while it worked, and the reason in it when it failed."""

from __future__ import annotations

import logging
import re
from collections import deque

logger = logging.getLogger("modeldeck.llama")
logger.addHandler(logging.NullHandler())  # or Python prints what nobody listens to

ERROR_LEVEL = 4
_CONTINUED_LEVEL = 5
_LOGGING_LEVELS = {2: logging.DEBUG, 3: logging.INFO, ERROR_LEVEL: logging.WARNING}
_MAX_LINES = 200
_MAX_REASON_LINES = 3
_PREFIX = re.compile(r"^(?:[\w:~]+: )+(?:error loading model: )?(?:error loading model \w+: )?")
_EMPTY_PHRASES = ("failed to load model", "failed to create context", "failed to load model from")


class LogBook:
    """Keeps the last lines, each with the level of ``ggml_log_level``.

    llama-cpp-python 0.3.36 is off by one with these levels and takes errors for debug text.
    """

    def __init__(self) -> None:
        self._lines: deque[tuple[int, str]] = deque(maxlen=_MAX_LINES)

    def add(self, level: int, text: str) -> None:
        """Take one message, which may be the continuation of the last."""
        if level == _CONTINUED_LEVEL and self._lines:
            level, start = self._lines.pop()
            text = start + text
        self._lines.append((level, text))
        if text.endswith("\n"):
            logger.log(_LOGGING_LEVELS.get(level, logging.DEBUG), "%s", text.rstrip())

    def clear(self) -> None:
        self._lines.clear()

    def reason(self) -> str | None:
        """The errors llama.cpp reported, without the names of its functions, or ``None``."""
        reasons: list[str] = []
        for level, text in self._lines:
            reason = _PREFIX.sub("", text.strip())
            if level == ERROR_LEVEL and reason and not reason.startswith(_EMPTY_PHRASES) and reason not in reasons:
                reasons.append(reason)
        return "; ".join(reasons[:_MAX_REASON_LINES]) or None
