"""The thread that native code runs on."""

import threading

from modeldeck.llama.native_thread import NativeThread

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
