"""The thread that native code runs on."""

import threading
import time

import pytest

from modeldeck._errors import LlamaCrashedError
from modeldeck.llama import native_thread
from modeldeck.llama.native_thread import NativeThread
from tests.waiting import PATIENCE_SECONDS

CALLERS = 16


def test_many_first_callers_at_once_share_one_thread() -> None:
    for _ in range(50):
        native = NativeThread()
        together = threading.Barrier(CALLERS)
        used: list[int] = []

        def call(native: NativeThread = native, together: threading.Barrier = together, used: list[int] = used) -> None:
            together.wait()
            used.append(native.call(threading.get_ident))

        callers = [threading.Thread(target=call) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        native.stop()
        native.join()
        assert len(used) == CALLERS
        assert len(set(used)) == 1


def test_a_call_that_does_not_end_when_it_is_asked_to_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_thread, "STOP_SECONDS", 0.5)
    end = threading.Event()
    native = NativeThread()
    for _ in range(2):  # the second one is not even begun
        with pytest.raises(LlamaCrashedError, match="does not end, although it was asked to"):
            native.call(lambda: end.wait(PATIENCE_SECONDS), is_stopping=lambda: True)
    native.join()
    end.set()


def test_the_end_of_a_thread_waits_for_its_last_call_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_thread, "STOP_SECONDS", 0.5)
    end = threading.Event()
    stuck = NativeThread()

    def call() -> None:
        with pytest.raises(LlamaCrashedError):
            stuck.call(end.wait)

    caller = threading.Thread(target=call)
    caller.start()
    while not stuck.is_busy:
        time.sleep(0.001)
    stuck.stop()
    stuck.join()
    assert stuck.crash == "it does not end, although it was asked to"
    caller.join()
    end.set()

    freeing = NativeThread()
    threading.Timer(2.0, end.clear).start()
    freeing.post(lambda: [None for _ in iter(end.is_set, False)])
    freeing.stop()
    freeing.join()
    assert freeing.crash is None
    assert not end.is_set()
