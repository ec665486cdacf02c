"""Chat templates, rendered where they can do no harm."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from modeldeck._errors import ChatTemplateError, InvalidRequestError

MAX_RENDER_SECONDS = 10.0
_CHILD = Path(__file__).with_name("template_child.py")
_ADVICE = "Pass chat_format=… to load() to use another one, or use create_completion() with a prompt of your own."


class TemplateRenderer:
    """Renders jinja chat templates in a child process, which starts with the first and ends with ``close``."""

    def __init__(self, *, max_seconds: float = MAX_RENDER_SECONDS) -> None:
        self._max_seconds = max_seconds
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def render(self, template: str, variables: dict[str, Any]) -> str:
        """The prompt that ``template`` makes.

        Raises
        ------
        ChatTemplateError
            When the template is wrong, refuses the messages, takes too long or needs too much memory.
        InvalidRequestError
            When a variable is no JSON value.
        """
        try:
            request = json.dumps({"template": template, "variables": variables}).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise InvalidRequestError(f"Chat messages must be JSON values: {error}") from error
        with self._lock:
            answer = self._ask(request)
        if "error" in answer:
            raise ChatTemplateError(f"The model's chat template failed: {answer['error']}. {_ADVICE}")
        prompt: str = answer["prompt"]
        return prompt

    def stop(self) -> None:
        """End the rendering that is going on, if any."""
        if self._lock.locked():
            self.close()

    def close(self) -> None:
        """End the child, also while it renders."""
        child, self._child = self._child, None
        if child is not None:
            _end(child)

    def _ask(self, request: bytes) -> dict[str, str]:
        child = self._child
        if child is None or child.poll() is not None:
            child = self._child = _start()
        assert child.stdin is not None
        assert child.stdout is not None
        killer = threading.Timer(self._max_seconds, child.kill)
        killer.start()
        try:
            child.stdin.write(request)
            child.stdin.flush()
            line = child.stdout.readline()
        except (OSError, ValueError):  # it died, or was stopped, while it was being asked
            line = b""
        finally:
            killer.cancel()
        if not line.endswith(b"\n"):
            self.close()
            return {"error": f"it took more than {self._max_seconds:g} seconds or too much memory, or was stopped"}
        answer: dict[str, str] = json.loads(line)
        return answer


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", str(_CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # an interrupt of the notebook is not meant for it
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # unsent bytes to a dead child
                pipe.close()
    child.wait()
