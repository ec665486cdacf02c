"""The front of a partial file: in whatever order blocks arrive, the file and its digest are right."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import itertools
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modeldeck.engine import front_hashing
from modeldeck.engine.digest import FrontHasher
from modeldeck.engine.front_hashing import Front
from modeldeck.engine.journal import PartialHeader
from modeldeck.engine.partial import Partial, SegmentWriter
from modeldeck.engine.threads import DiskThreads
from tests.waiting import PATIENCE_SECONDS

SIZE = 4000
CONTENT = random.Random(5).randbytes(SIZE)
HEADER = PartialHeader(
    digest=hashlib.sha256(CONTENT).hexdigest(),
    size=SIZE,
    repo_id="owner/name",
    filename="m.gguf",
    commit_hash="c" * 40,
    endpoint="http://127.0.0.1:1",
)


class Connection:
    """Receives one range, block by block, as a connection does."""

    def __init__(self, front: Front, partial: Partial, start: int, stop: int) -> None:
        self._front = front
        self._writer = SegmentWriter(partial, start)
        self._position = start
        self._stop = stop

    @property
    def has_more(self) -> bool:
        return self._position < self._stop

    def bring(self, size: int) -> None:
        position, stop = self._position, min(self._stop, self._position + size)
        self._position = stop
        data = memoryview(CONTENT[position:stop])
        self._writer.write([data])
        self._front.take(position, data)

    def bring_all(self) -> None:
        while self.has_more:
            self.bring(37)

    def flush(self) -> None:
        self._writer.flush()


def ranges(cuts: set[int]) -> list[tuple[int, int]]:
    edges = sorted({0, SIZE, *cuts})
    return list(itertools.pairwise(edges))


def finish(front: Front, hasher: FrontHasher, partial: Partial, connections: list[Connection]) -> None:
    asyncio.run(front.settle())
    front.raise_error()
    for connection in connections:
        connection.flush()
    hasher.advance(partial.descriptor, SIZE)
    assert hasher.hexdigest() == HEADER.digest
    assert partial.data_path.read_bytes() == CONTENT
    scratch = memoryview(bytearray(SIZE))
    assert sum(block.length for block in partial.blocks()) == SIZE
    assert all(partial.read_block(block, scratch) is not None for block in partial.blocks())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.sets(st.integers(1, SIZE - 1), max_size=6), order=st.randoms(use_true_random=False))
def test_any_order_of_blocks_gives_the_file_and_its_digest(
    tmp_path_factory: pytest.TempPathFactory, cuts: set[int], order: random.Random
) -> None:
    threads = DiskThreads()
    partial = Partial.open(tmp_path_factory.mktemp("blobs"), HEADER)
    hasher = FrontHasher(HEADER.digest, SIZE)
    front = Front(partial, hasher, threads)
    connections = [Connection(front, partial, start, stop) for start, stop in ranges(cuts)]
    try:
        while running := [connection for connection in connections if connection.has_more]:
            order.choice(running).bring(order.randint(150, 900))
        finish(front, hasher, partial, connections)
    finally:
        partial.discard()
        threads.shut_down()


@pytest.mark.parametrize("most_waiting", [1, 8])
@pytest.mark.parametrize("seed", range(10))
def test_connections_on_threads_of_their_own(
    tmp_path: Path, seed: int, most_waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_hashing, "MAX_WAITING_BLOCKS", most_waiting)
    threads = DiskThreads()
    partial = Partial.open(tmp_path, HEADER)
    hasher = FrontHasher(HEADER.digest, SIZE)
    front = Front(partial, hasher, threads)
    cuts = set(random.Random(seed).sample(range(1, SIZE), 7))
    connections = [Connection(front, partial, start, stop) for start, stop in ranges(cuts)]
    with ThreadPoolExecutor(len(connections)) as pool:
        for done in [pool.submit(connection.bring_all) for connection in connections]:
            done.result()
    finish(front, hasher, partial, connections)
    partial.discard()
    threads.shut_down()


def test_the_next_connection_does_not_overtake_one_that_waits_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = DiskThreads()
    partial = Partial.open(tmp_path, HEADER)
    hasher = FrontHasher(HEADER.digest, SIZE)
    gate = threading.Event()
    feed = hasher.feed

    def feed_behind_the_gate(data: memoryview) -> None:
        gate.wait()
        feed(data)

    monkeypatch.setattr(hasher, "feed", feed_behind_the_gate)
    monkeypatch.setattr(front_hashing, "MAX_WAITING_BLOCKS", 1)
    front = Front(partial, hasher, threads)
    first, second = Connection(front, partial, 0, 300), Connection(front, partial, 300, SIZE)
    with ThreadPoolExecutor(2) as pool:
        first.bring(100)
        first.bring(100)
        waiting = pool.submit(first.bring, 100)
        try:
            pool.submit(second.bring, 100).result(PATIENCE_SECONDS)
            assert not waiting.done()
        finally:
            gate.set()
        waiting.result()
    second.bring_all()
    finish(front, hasher, partial, [first, second])
    partial.discard()
    threads.shut_down()


def test_when_other_files_come_the_room_shrinks_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    threads = DiskThreads()
    partial = Partial.open(tmp_path, HEADER)
    hasher = FrontHasher(HEADER.digest, SIZE)
    sharers = 1
    front = Front(partial, hasher, threads, sharers=lambda: sharers)
    connection = Connection(front, partial, 0, SIZE)
    for _ in range(front_hashing.BLOCKS_AT_ONCE - 1):
        connection.bring(10)
    assert hasher.position == 0, "not worth to wake the thread"
    sharers = front_hashing.MAX_WAITING_BLOCKS
    with ThreadPoolExecutor(1) as pool:
        pool.submit(connection.bring_all).result(PATIENCE_SECONDS)
    finish(front, hasher, partial, [connection])
    partial.discard()
    threads.shut_down()


def test_one_connection_alone_is_hashed_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read back from the disk, and not too many blocks wait."""
    threads = DiskThreads()
    partial = Partial.open(tmp_path, HEADER)
    hasher = FrontHasher(HEADER.digest, SIZE)
    monkeypatch.setattr(front_hashing, "MAX_WAITING_BLOCKS", 2)
    monkeypatch.setattr(hasher, "advance", pytest.fail)
    front = Front(partial, hasher, threads)
    connection = Connection(front, partial, 0, SIZE)
    while connection.has_more:
        connection.bring(100)
        assert len(front._waiting) <= 2
    asyncio.run(front.settle())
    assert hasher.position == SIZE
    assert hasher.hexdigest() == HEADER.digest
    partial.discard()
    threads.shut_down()


def test_a_file_that_cannot_be_read_back_is_told_to_the_next_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = DiskThreads()
    partial = Partial.open(tmp_path, HEADER)
    hasher = FrontHasher(HEADER.digest, SIZE)
    front = Front(partial, hasher, threads)
    first, ahead = Connection(front, partial, 0, 100), Connection(front, partial, 100, 300)
    last = Connection(front, partial, 300, SIZE)

    def broken(descriptor: int, stop: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(hasher, "advance", broken)
    ahead.bring_all()
    first.bring_all()
    last.bring(10)
    asyncio.run(front.settle())
    with pytest.raises(OSError, match="Input/output"):
        front.raise_error()
    with pytest.raises(OSError, match="Input/output"):
        last.bring(10)
    partial.discard()
    threads.shut_down()
