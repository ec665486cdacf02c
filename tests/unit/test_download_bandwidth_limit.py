"""The bandwidth limit, as the threads of connections use it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from modeldeck.engine.bandwidth_limit import BandwidthLimit

HOUR_OF_BYTES = 3600
FAR_TOO_LONG_SECONDS = 60.0


def test_no_limit_lets_everything_pass() -> None:
    BandwidthLimit(None).take(1 << 60, threading.Event())


def test_bytes_are_spread_over_time() -> None:
    bandwidth = BandwidthLimit(1_000_000)
    began = time.monotonic()
    for _ in range(6):
        bandwidth.take(100_000, threading.Event())
    assert time.monotonic() - began >= 0.3


def test_a_new_limit_lets_go_who_waits_for_the_old_one() -> None:
    bandwidth = BandwidthLimit(1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(bandwidth.take, HOUR_OF_BYTES, threading.Event())
        bandwidth.set_limit(None)
        waiting.result(FAR_TOO_LONG_SECONDS)


def test_who_was_stopped_waits_no_longer() -> None:
    bandwidth = BandwidthLimit(1)
    stopped = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(bandwidth.take, HOUR_OF_BYTES, stopped)
        stopped.set()
        waiting.result(FAR_TOO_LONG_SECONDS)
