"""Child processes: answers, crashes, limits, stopping; each with a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modeldeck._children import Child
from tests.waiting import PATIENCE_SECONDS

PROGRAM = r"""
import ctypes, os, sys, time

def answer(request):
    yield {"pid": os.getpid()}
    if request == "crash":
        os.abort()
    if request == "assert":
        print("noise\n/tmp/build/src/model.cpp:12: GGML_ASSERT(a: b) failed\nmore", file=sys.stderr, flush=True)
        os.abort()
    if request == "raise":
        raise RuntimeError("this went wrong")
    if request == "hang":
        time.sleep(600)
    if request == "allocate":
        bytearray(1 << 30)
    if request == "print":
        print("noise", flush=True)
        os.write(1, b"more noise")
    yield {"request": request}
"""
Make = Callable[..., Child]


@pytest.fixture
def make_child(tmp_path: Path) -> Iterator[Make]:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    children: list[Child] = []

    def make(**options: int) -> Child:
        children.append(Child(program, **options))
        return children[-1]

    yield make
    for child in children:
        child.stop()


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("request_", ["hello", {"a": [1, None, "é\n\u2028"]}, "x" * 5_000_000, "print"])
def test_requests_are_answered_by_one_process(make_child: Make, request_: object) -> None:
    child = make_child()
    replies = [child.ask(request_) for _ in range(2)]
    assert all(reply.is_complete and not reply.is_crash and reply.exit_code is None for reply in replies)
    assert [reply.answers[1] for reply in replies] == [{"request": request_}] * 2
    assert replies[0].answers[0] == replies[1].answers[0]


def test_a_crash_is_told_apart_from_an_exception_and_the_next_request_is_answered(make_child: Make) -> None:
    child = make_child()
    crashed = child.ask("crash")
    assert crashed.is_crash
    assert crashed.crash_reason == "SIGABRT"
    assert len(crashed.answers) == 1  # what was said before the crash is not lost
    assert child.ask("assert").crash_reason == "model.cpp:12: GGML_ASSERT(a: b) failed"
    raised = child.ask("raise")
    assert raised.crash_reason is None
    assert (raised.is_complete, raised.is_crash, raised.exit_code) == (False, False, 1)
    assert raised.last_error == "RuntimeError: this went wrong"
    assert child.ask("hello").is_complete


def test_too_much_memory_is_refused_in_the_child(make_child: Make) -> None:
    limited = make_child(max_memory_bytes=1 << 29).ask("allocate")
    assert limited.last_error == "MemoryError"
    assert make_child().ask("allocate").is_complete


def test_a_child_that_hangs_is_stopped_in_time(make_child: Make) -> None:
    child = make_child()
    child.ask("hello")
    reply = child.ask("hang", timeout_seconds=0.2)
    assert not reply.is_complete
    assert reply.exit_code is None
    assert reply.errors == "The process did not answer within 0.2 seconds."
    wait_until_gone(reply.answers[0]["pid"])
    assert child.ask("hello").is_complete


def test_an_exception_of_the_check_ends_the_wait(make_child: Make) -> None:
    child = make_child()
    pid = child.ask("hello").answers[0]["pid"]

    def check() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        child.ask("hang", check=check)
    wait_until_gone(pid)


def test_stopping_from_another_thread_ends_the_wait(make_child: Make) -> None:
    child = make_child()
    child.ask("hello")
    timer = threading.Timer(0.2, child.stop)
    timer.start()
    reply = child.ask("hang")
    timer.join()
    assert reply.errors == "The process was stopped."
    assert not reply.is_crash


def test_a_child_ends_with_its_caller_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, pathlib, time\n"
        "def answer(request):\n"
        "    pathlib.Path(request + '.new').write_text(str(os.getpid()))\n"
        "    os.replace(request + '.new', request)\n"
        "    time.sleep(600)\n"
        "    yield {}\n"
    )
    pid_file = tmp_path / "pid"
    code = "import sys; from pathlib import Path; from modeldeck._children import Child\n"
    code += "Child(Path(sys.argv[1])).ask(sys.argv[2])"
    caller = subprocess.Popen([sys.executable, "-c", code, str(program), str(pid_file)])
    while not pid_file.exists():
        assert caller.poll() is None
        time.sleep(0.01)
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    wait_until_gone(int(pid_file.read_text()))


def test_a_child_that_cannot_start_is_a_reply_too(make_child: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    reply = make_child().ask("hello")
    assert reply.errors == "The process cannot be started: No such file or directory."
    assert not reply.is_crash
