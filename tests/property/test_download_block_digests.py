"""The records of finished files: whatever happens to one, it is read as it was written, or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modeldeck.engine import block_digests
from modeldeck.engine.block_digests import (
    KEPT_SECONDS,
    LARGEST_BLOCK_BYTES,
    SMALLEST_FILE_BYTES,
    BlockDigestStore,
    RecordingHasher,
)
from modeldeck.engine.digest import FrontHasher
from modeldeck.engine.journal import Block
from modeldeck.engine.plan import RangeSet, join_near

DIGEST = "ab" * 32
LONGEST_BYTES = 3 << 20


def cover(lengths: list[int]) -> list[Block]:
    blocks, start = [], 0
    for length in lengths:
        blocks.append(Block(start, length, start * 31 + length))
        start += length
    return blocks


covers = st.lists(st.integers(1, LONGEST_BYTES), min_size=3, max_size=20).map(
    lambda lengths: cover([*lengths, SMALLEST_FILE_BYTES])
)
fast = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fast
@given(covers)
def test_what_is_kept_is_found(tmp_path: Path, blocks: list[Block]) -> None:
    store, size = BlockDigestStore(tmp_path / "blocks"), blocks[-1].stop
    store.save(DIGEST, size, blocks)
    assert store.load(DIGEST, size) == tuple(blocks)
    assert store.load(DIGEST, size + 1) == ()
    assert store.load(DIGEST, size - 1) == ()
    assert store.load("cd" * 32, size) == ()


@fast
@given(covers, st.data())
def test_a_damaged_record_claims_nothing_else(tmp_path: Path, blocks: list[Block], data: st.DataObject) -> None:
    store, size = BlockDigestStore(tmp_path), blocks[-1].stop
    store.save(DIGEST, size, blocks)
    (path,) = tmp_path.iterdir()
    text = bytearray(path.read_bytes())
    where = data.draw(st.integers(0, len(text) - 1))
    match data.draw(st.sampled_from(["cut", "flip", "zero", "twice", "insert"])):
        case "cut":
            del text[where:]
        case "flip":
            text[where] ^= 1 << data.draw(st.integers(0, 7))
        case "zero":
            text[where:] = bytes(len(text) - where)
        case "twice":
            text += bytes(text)
        case _:
            text[where:where] = data.draw(st.binary(min_size=1, max_size=40))
    path.write_bytes(text)
    assert store.load(DIGEST, size) in ((), tuple(blocks))


@fast
@given(covers, st.data())
def test_blocks_that_are_no_cover_are_not_kept(tmp_path: Path, blocks: list[Block], data: st.DataObject) -> None:
    store, size = BlockDigestStore(tmp_path / "blocks"), blocks[-1].stop
    index = data.draw(st.integers(0, len(blocks) - 1))
    block = blocks[index]
    wrong = data.draw(
        st.sampled_from(
            [
                [],
                [Block(block.start, block.length, None)],
                [Block(block.start + 1, block.length, 1)],
                [Block(block.start, block.length + 1, 1)],
                [block, block],
            ]
        )
    )
    store.save(DIGEST, size, [*blocks[:index], *wrong, *blocks[index + 1 :]])
    store.save("../" + "a" * 61, size, blocks)
    store.save("a" * 40, size, blocks)
    store.save(DIGEST, LARGEST_BLOCK_BYTES + 1, [Block(0, LARGEST_BLOCK_BYTES + 1, 1)])
    store.save(DIGEST, SMALLEST_FILE_BYTES - 1, [Block(0, SMALLEST_FILE_BYTES - 1, 1)])
    assert list(tmp_path.rglob("*")) == []


@contextmanager
def limits(**changes: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changes.items():
            patch.setattr(block_digests, name, value)
        yield


def names(folder: Path) -> set[str]:
    return {path.name.removesuffix(".blocks") for path in folder.iterdir()}


@pytest.mark.parametrize("limit", ["MAX_RECORDS", "MAX_RECORDS_BYTES"])
def test_the_oldest_records_go(tmp_path: Path, limit: str) -> None:
    store = BlockDigestStore(tmp_path)
    blocks = cover([SMALLEST_FILE_BYTES])
    digests = [f"{number:064x}" for number in range(5)]
    for age, digest in enumerate(reversed(digests)):
        store.save(digest, SMALLEST_FILE_BYTES, blocks)
        then = time.time() - 10 * age - 10
        os.utime(tmp_path / f"{digest}.blocks", (then, then))
    (tmp_path / "notes.txt").write_text("mine")
    record_bytes = (tmp_path / f"{digests[0]}.blocks").stat().st_size
    with limits(**{limit: 3 if limit == "MAX_RECORDS" else 3 * record_bytes + 1}):
        store.save(DIGEST, SMALLEST_FILE_BYTES, blocks)
    assert names(tmp_path) == {DIGEST, *digests[3:], "notes.txt"}
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_old_records_and_left_overs_go(tmp_path: Path) -> None:
    store = BlockDigestStore(tmp_path)
    blocks = cover([SMALLEST_FILE_BYTES])
    store.save("1" * 64, SMALLEST_FILE_BYTES, blocks)
    then = time.time() - KEPT_SECONDS - 1
    os.utime(tmp_path / ("1" * 64 + ".blocks"), (then, then))
    left_over = tmp_path / ("2" * 64 + ".blocks.01234567.new")
    left_over.write_text("")
    os.utime(left_over, (then, then))
    store.save(DIGEST, SMALLEST_FILE_BYTES, blocks)
    assert names(tmp_path) == {DIGEST}


def test_too_large_a_record_is_neither_written_nor_read(tmp_path: Path) -> None:
    store = BlockDigestStore(tmp_path / "blocks")
    blocks = cover([SMALLEST_FILE_BYTES, 1])
    with limits(LARGEST_RECORD_BYTES=10):
        store.save(DIGEST, blocks[-1].stop, blocks)
    assert list(tmp_path.iterdir()) == []
    store.save(DIGEST, blocks[-1].stop, blocks)
    with limits(LARGEST_RECORD_BYTES=10):
        assert store.load(DIGEST, blocks[-1].stop) == ()


def test_a_pipe_in_place_of_a_record_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"{DIGEST}.blocks")
    assert BlockDigestStore(tmp_path).load(DIGEST, SMALLEST_FILE_BYTES) == ()


def test_a_verification_digests_the_blocks_beside_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom((3 << 20) + 5))
    size = path.stat().st_size
    recorder = RecordingHasher(DIGEST, size)
    plain = FrontHasher(DIGEST, size)
    with path.open("rb") as file:
        recorder.advance(file.fileno(), size)
        plain.advance(file.fileno(), size)
    assert recorder.hexdigest() == plain.hexdigest()
    assert [block.length for block in recorder.blocks] == [1 << 20] * 3 + [5]
    assert recorder.blocks[-1].stop == size


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60))), st.integers(1, 10))
def test_near_ranges_are_joined_and_nothing_is_lost(ranges: list[tuple[int, int]], gap: int) -> None:
    wanted = RangeSet(ranges)
    joined = join_near(wanted, gap)
    for (_, stop), (start, _) in pairwise(joined):
        assert start - stop >= gap
    cells = {cell for start, stop in joined for cell in range(start, stop)}
    needed = {cell for start, stop in wanted for cell in range(start, stop)}
    assert needed <= cells
    for start, stop in joined:
        assert {start, stop - 1} <= needed
        missing = sorted(cells - needed)
        assert all(any(cell - back in needed for back in range(1, gap)) for cell in missing)
