"""The loop on a thread of its own: whoever waits for it hears the end."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError

import anyio
import pytest

from modeldeck import _loop
from modeldeck._errors import EngineLostError
from modeldeck._loop import LoopThread
from tests.waiting import PATIENCE_SECONDS


async def forever() -> None:
    await asyncio.Event().wait()


def test_who_starts_something_while_it_stops_hears_of_it() -> None:
    """A future that stayed open would block its caller for good, and a coroutine that nobody runs is a warning."""
    thread = LoopThread("test")
    gate, is_held = threading.Event(), threading.Event()
    thread.post(lambda: (is_held.set(), gate.wait(PATIENCE_SECONDS)))
    assert is_held.wait(PATIENCE_SECONDS)
    before = thread.start(forever())
    stopping = threading.Thread(target=thread.stop)
    stopping.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while thread.is_alive and time.monotonic() < deadline:
        time.sleep(0.001)
    assert not thread.is_alive, "it takes nothing more, though its thread is still busy"
    with pytest.raises(EngineLostError):
        thread.start(forever())
    gate.set()
    stopping.join(PATIENCE_SECONDS)
    with pytest.raises(CancelledError):
        before.result(PATIENCE_SECONDS)


def test_a_stopped_one_refuses_coroutines_and_forgets_calls() -> None:
    thread = LoopThread("test")
    called = threading.Event()
    thread.post(called.set)
    assert called.wait(PATIENCE_SECONDS)
    assert thread.is_alive
    thread.stop()
    thread.stop()
    assert not thread.is_alive
    thread.post(pytest.fail, "nobody is there to call it")
    with pytest.raises(EngineLostError):
        thread.start(forever())


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_would_end_a_loop_ends_only_its_own_coroutine(kind: type[BaseException]) -> None:
    async def leave() -> None:
        raise kind

    async def stay() -> str:
        return "still here"

    thread = LoopThread("test")
    with pytest.raises(kind):
        thread.wait(leave(), 10)
    assert thread.wait(stay(), 10) == "still here"
    thread.stop()


def test_what_is_started_while_it_cleans_up_ends_too() -> None:
    thread = LoopThread("test")
    followers: list[asyncio.Task[None]] = []

    begun = threading.Event()

    async def leader() -> None:
        try:
            begun.set()
            await forever()
        finally:
            followers.append(asyncio.get_running_loop().create_task(forever()))

    thread.start(leader())
    assert begun.wait(PATIENCE_SECONDS)
    thread.stop()
    assert followers[0].cancelled()


def test_stopping_awaits_what_a_task_group_has_only_just_started() -> None:
    """Otherwise Python warns of a coroutine that was never awaited, and pytest makes that an error."""
    thread = LoopThread("test")
    stopping = threading.Thread(target=thread.stop)
    starts: list[str] = []

    async def child() -> None:
        starts.append("child")
        await forever()

    async def parent(resume: asyncio.Event, waits: threading.Event) -> None:
        waits.set()
        await resume.wait()
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(child)

    def resume_and_stop(resume: asyncio.Event) -> None:
        """Leave two things for the next turn of the loop: the parent starts its children, and the loop ends."""
        resume.set()
        stopping.start()
        while thread.is_alive:
            time.sleep(0.001)

    resume, waits = asyncio.Event(), threading.Event()
    running = thread.start(parent(resume, waits))
    assert waits.wait(PATIENCE_SECONDS)
    thread.post(resume_and_stop, resume)
    with pytest.raises(CancelledError):
        running.result(PATIENCE_SECONDS)
    stopping.join(PATIENCE_SECONDS)
    assert starts == ["child"] * 3
    gc.collect()


def test_what_was_cancelled_before_may_close_its_connections() -> None:
    """A second cancellation would reach it in the middle of that."""
    thread = LoopThread("test")
    begun, closed = threading.Event(), threading.Event()

    async def connected() -> None:
        begun.set()
        try:
            await forever()
        finally:
            await asyncio.sleep(0.2)
            closed.set()

    running = thread.start(connected())
    assert begun.wait(PATIENCE_SECONDS)
    running.cancel()
    thread.stop()
    assert closed.is_set()


def test_what_does_not_heed_a_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_loop, "LEAVE_SECONDS", 0.2)
    thread = LoopThread("test")
    begun, is_cancelled = threading.Event(), threading.Event()

    async def stubborn() -> None:
        begun.set()
        try:
            await forever()
        except asyncio.CancelledError:
            is_cancelled.set()
            await forever()

    running = thread.start(stubborn())
    assert begun.wait(PATIENCE_SECONDS)
    running.cancel()
    assert is_cancelled.wait(PATIENCE_SECONDS)
    thread.stop()
    assert not thread._thread.is_alive()


def test_a_thread_that_the_leaving_interpreter_refuses_is_a_cancelled_future() -> None:
    """Python 3.12 refuses it as early as here. The others still run it."""
    program = """
import atexit
from modeldeck._loop import in_daemon_thread

def leave():
    future = in_daemon_thread(lambda: "done")
    print("cancelled" if future.cancelled() else future.result(10))

atexit.register(leave)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    expected = "cancelled" if sys.version_info[:2] == (3, 12) else "done"
    assert (result.stdout.strip(), result.stderr) == (expected, "")
