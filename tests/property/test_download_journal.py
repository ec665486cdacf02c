"""The journal's text: whatever a crash or a disk does to it, it claims nothing that was not written."""

from __future__ import annotations

from pathlib import Path

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modeldeck.engine.journal import Block, PartialHeader, encode_block, live_blocks, parse_blocks
from modeldeck.engine.leftovers import list_partials
from modeldeck.engine.partial import Partial, SegmentWriter

SIZE = 1000
blocks = st.builds(
    Block,
    start=st.integers(0, SIZE - 1),
    length=st.integers(1, 100),
    xxh3=st.one_of(st.none(), st.integers(0, 2**64 - 1)),
)
HEADER = PartialHeader(
    digest="ab" * 32, size=SIZE, repo_id="o/n", filename="m.gguf", commit_hash="c" * 40, endpoint="http://h"
)


def lines(text: bytes) -> list[bytes]:
    return text.split(b"\n")


@given(st.lists(blocks))
def test_what_is_encoded_is_parsed(written: list[Block]) -> None:
    text = b"".join(encode_block(block) for block in written)
    assert parse_blocks(lines(text), None) == (written, False)


@given(st.lists(blocks), st.data())
def test_a_cut_journal_loses_its_end_only(written: list[Block], data: st.DataObject) -> None:
    text = b"".join(encode_block(block) for block in written)
    cut = data.draw(st.integers(0, len(text)))
    found, is_released = parse_blocks(lines(text[:cut]), None)
    assert found == written[: len(found)]
    assert len(found) >= text[:cut].count(b"\n")
    assert not is_released


@given(st.lists(blocks, min_size=1), st.data())
def test_a_damaged_journal_claims_nothing_new(written: list[Block], data: st.DataObject) -> None:
    text = bytearray(b"".join(encode_block(block) for block in written))
    start = data.draw(st.integers(0, len(text) - 1))
    hurt = data.draw(st.binary(min_size=1, max_size=40))
    text[start : start + len(hurt)] = hurt
    found, _ = parse_blocks(lines(bytes(text)), None)
    assert set(found) <= set(written)


@given(st.binary(max_size=300))
def test_any_bytes_can_be_parsed(text: bytes) -> None:
    assert parse_blocks(lines(text), SIZE)[0] == []


@given(st.lists(blocks))
def test_the_newest_block_of_a_byte_is_the_one_that_counts(written: list[Block]) -> None:
    model: dict[int, Block] = {}
    for block in written:
        for stale in {model[cell] for cell in range(block.start, block.stop) if cell in model}:
            model = {cell: owner for cell, owner in model.items() if owner is not stale}
        model.update(dict.fromkeys(range(block.start, block.stop), block))
    live = live_blocks(written)
    assert live == sorted(live, key=lambda block: block.start)
    assert live == sorted({owner for owner in model.values() if owner.xxh3 is not None}, key=lambda block: block.start)


@pytest.mark.parametrize("damage", ["cut", "flip", "zero"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_reopened_partial_is_never_believed_where_it_is_wrong(
    tmp_path_factory: pytest.TempPathFactory, damage: str, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("blobs")
    content = bytes(range(256)) * 4
    content = content[:SIZE]
    partial = Partial.open(directory, HEADER)
    for start, length in data.draw(st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, 200)), max_size=8)):
        stop = min(SIZE, start + length)
        writer = SegmentWriter(partial, start)
        writer.write(
            [content[start : start + 7], content[start + 7 : stop]] if stop > start + 7 else [content[start:stop]]
        )
        writer.flush()
    partial.close()
    target = data.draw(st.sampled_from([partial.data_path, partial.journal_path]))
    raw = bytearray(target.read_bytes())
    if raw:
        where = data.draw(st.integers(0, len(raw) - 1))
        match damage:
            case "cut":
                del raw[where:]
            case "flip":
                raw[where] ^= 1 << data.draw(st.integers(0, 7))
            case "zero":
                raw[where:] = bytes(len(raw) - where)
        target.write_bytes(raw)
    again = Partial.open(directory, HEADER)
    scratch = memoryview(bytearray(SIZE))
    bad = [block for block in again.blocks() if again.read_block(block, scratch) is None]
    again.drop(bad)
    for block in again.blocks():
        assert again.data_path.read_bytes()[block.start : block.stop] == content[block.start : block.stop]
        assert xxhash.xxh3_64_intdigest(content[block.start : block.stop]) == block.xxh3
    again.discard()
    assert not any(info.journal_path == again.journal_path for info in list_partials(directory))


def test_the_next_owner_finds_what_the_last_one_wrote(tmp_path: Path) -> None:
    first = Partial.open(tmp_path, HEADER)
    writer = SegmentWriter(first, 10)
    writer.write([b"abc", b"def"])
    writer.flush()
    assert Partial.open(tmp_path, HEADER).received == 0, "a partial that is owned is not taken over"
    first.close()
    second = Partial.open(tmp_path, HEADER)
    assert second.received == 6
    assert second.missing(SIZE) == [(0, 10), (16, SIZE)]
    assert second.data_path == first.data_path
