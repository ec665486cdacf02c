"""Child processes for work that may crash, hang or take all memory: native code on doubtful files, chat templates.

This file has both ends of the conversation. The caller's end is `Child`. The other end is this file run as a program,
outside the package so that it starts quickly: it loads a second file and calls its function ``answer(request)`` for
each request. Requests and answers are JSON objects, one a line; an empty line ends the answers to a request.

A child never leaves a core file, is not reached by an interrupt meant for the caller, keeps what libraries print away
from its answers, and ends when the caller does, even in the middle of an answer.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any

_CHECK_SECONDS = 0.1
_END = b"\n"
_ENVIRONMENT = {"GGML_NO_BACKTRACE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""A backtrace of llama.cpp takes seconds, and each thread of a library takes address space, which may be limited."""

_PYTHON_ERROR_CODES = (0, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildReply:
    """The answers to one request.

    Attributes
    ----------
    answers
        In order. When the child died, those it had sent before.
    is_complete
        Whether the child answered to the end.
    was_started
        Whether there was a child. If not, the request is not to blame.
    exit_code
        How the child ended, negative for a signal. ``None`` while it runs, and when it was stopped or never started.
    errors
        What the child has written to its standard error since it started, or why there is no answer.
    """

    answers: tuple[dict[str, Any], ...] = ()
    is_complete: bool = False
    was_started: bool = True
    exit_code: int | None = None
    errors: str = ""

    @property
    def is_crash(self) -> bool:
        """Whether native code ended the child."""
        if self.is_complete or self.exit_code is None:
            return False
        if os.name != "posix":
            return self.exit_code not in _PYTHON_ERROR_CODES
        return -self.exit_code in (signal.SIGABRT, signal.SIGSEGV, signal.SIGFPE, signal.SIGILL, signal.SIGBUS)

    @property
    def last_error(self) -> str | None:
        """The signal that ended the child, or else the last line of ``errors``."""
        if self.exit_code is not None and self.exit_code < 0:
            return f"The process was ended by {signal.Signals(-self.exit_code).name}."
        lines = self.errors.splitlines()
        return lines[-1] if lines else None

    @property
    def why_incomplete(self) -> str:
        """``last_error`` as a part of a sentence."""
        return (self.last_error or "the process ended without a reason").rstrip(".")

    @property
    def crash_reason(self) -> str | None:
        """Why native code ended the child: the assertion that failed in llama.cpp, or else the signal."""
        if not self.is_crash or self.exit_code is None:
            return None
        lines = [line.strip() for line in self.errors.splitlines()]
        asserted = next((line for line in lines if "GGML_ASSERT" in line or "GGML_ABORT" in line), None)
        if asserted is not None:
            return without_folder(asserted)
        return signal.Signals(-self.exit_code).name if self.exit_code < 0 else f"code {self.exit_code}"


def without_folder(reason: str) -> str:
    """Shorten ``/build/path/llama-vocab.cpp:12: GGML_ASSERT(x) failed`` to the file's name."""
    place, separator, text = reason.partition(": ")
    return f"{place.replace(chr(92), '/').rpartition('/')[2]}{separator}{text}".strip()


class Child:
    """Runs a program in a child process, which starts with the first request and again after it has died.

    Parameters
    ----------
    program
        A Python file with a function ``answer(request: dict) -> Iterable[dict]``. It cannot import the package.
    max_memory_bytes
        A limit for the child's address space, where the system has one.

    Examples
    --------
    >>> with Child(Path("program.py")) as child:                          # doctest: +SKIP
    ...     reply = child.ask({"number": 1}, timeout_seconds=10)
    """

    def __init__(self, program: Path, *, max_memory_bytes: int | None = None) -> None:
        self._command = [sys.executable, "-P", __file__, str(program), str(max_memory_bytes or 0)]
        self._lock = threading.Lock()
        self._process: _Process | None = None

    @property
    def pid(self) -> int | None:
        """The process id, while there is a process."""
        process = self._process
        return None if process is None else process.pid

    def ask(
        self, request: object, *, timeout_seconds: float | None = None, check: Callable[[], object] | None = None
    ) -> ChildReply:
        """Send a request and wait for all answers to it. Callers on several threads queue.

        Parameters
        ----------
        request
            A JSON value.
        timeout_seconds
            How long the child may take before it is stopped. ``None`` for no limit.
        check
            Called several times a second meanwhile. An exception it raises stops the child and passes through.

        Raises
        ------
        TypeError, ValueError
            When the request is not a JSON value.
        """
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            try:
                process = self._process
                if process is None or not process.is_running:
                    self._end()
                    process = self._process = _Process(self._command)
            except OSError as error:
                return ChildReply(
                    was_started=False, errors=f"The process cannot be started: {error.strerror or error}."
                )
            try:
                reply = process.ask(line, timeout_seconds, check)
            except BaseException:
                self._end()
                raise
            if not reply.is_complete:
                self._end()
            return reply

    def stop(self) -> None:
        """End the child, also while it answers; the caller that waits gets an incomplete reply."""
        process = self._process
        if process is not None:
            process.kill()
        with self._lock:
            self._end()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.close()


class _Process:
    """One child process, and the thread that reads its answers."""

    def __init__(self, command: list[str]) -> None:
        self._is_killed = False
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        self._errors = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - closed by `close`
        try:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, **_ENVIRONMENT},
                start_new_session=True,
            )
        except BaseException:
            self._errors.close()
            raise
        self._reader = threading.Thread(target=self._read, name="modeldeck-child", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        return not self._is_killed and self._popen.poll() is None

    def ask(self, line: bytes, timeout_seconds: float | None, check: Callable[[], object] | None) -> ChildReply:
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        try:
            assert self._popen.stdin is not None
            self._popen.stdin.write(line)
            self._popen.stdin.flush()
        except OSError:
            pass  # it has died, which the answers show
        answers: list[dict[str, Any]] = []
        while True:
            try:
                line = self._lines.get(timeout=_CHECK_SECONDS)
            except Empty:
                if check is not None:
                    check()
                if deadline is not None and time.monotonic() > deadline:
                    return ChildReply(
                        answers=tuple(answers), errors=f"The process did not answer within {timeout_seconds:g} seconds."
                    )
                continue
            if line == _END:
                return ChildReply(answers=tuple(answers), is_complete=True, errors=self._read_errors())
            if not line.endswith(b"\n"):
                return self._last_reply(answers)
            answers.append(json.loads(line))

    def kill(self) -> None:
        self._is_killed = True
        self._popen.kill()

    def close(self) -> None:
        self.kill()
        self._popen.wait()
        self._reader.join()
        for pipe in (self._popen.stdin, self._popen.stdout):
            _close(pipe)
        self._errors.close()

    def _last_reply(self, answers: list[dict[str, Any]]) -> ChildReply:
        """The reply of a child that has closed its output, which it does by ending."""
        exit_code = self._popen.wait()
        if self._is_killed:
            return ChildReply(answers=tuple(answers), errors="The process was stopped.")
        return ChildReply(answers=tuple(answers), exit_code=exit_code, errors=self._read_errors())

    def _read_errors(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self._lines.put(line)
        self._lines.put(b"")


def _close(pipe: IO[bytes] | None) -> None:
    try:
        if pipe is not None:
            pipe.close()
    except OSError:
        pass  # bytes for a dead child


# --- the child's end --------------------------------------------------------------------------------------------------


def _serve(program: str, max_memory_bytes: int) -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _limit(max_memory_bytes)
    requests: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_receive, args=(requests,), daemon=True).start()
    try:
        answer: Callable[[Any], Iterable[dict[str, Any]]] = runpy.run_path(program)["answer"]
        while True:
            for each in answer(json.loads(requests.get())):
                answers.write(json.dumps(each).encode() + b"\n")
                answers.flush()
            answers.write(_END)
            answers.flush()
    except BaseException:  # noqa: BLE001 - the caller reads it
        traceback.print_exc()
        os._exit(1)  # a normal exit would wait for the lock of standard input, which the other thread holds


def _receive(requests: SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        requests.put(line)
    os._exit(0)  # the caller is gone


def _limit(max_memory_bytes: int) -> None:
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if max_memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (max_memory_bytes, max_memory_bytes))


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
