"""The text of a partial file's journal. Pure: no disk and no clock.

A journal is a header line and then one line for each block of bytes that was written::

    {"format": 2, "data": …, "owner": {…}, "header": {…}} <crc32>
    <start> <length> <xxh3-64> <crc32>
    <start> <length> - <crc32>
    released <crc32>

A ``-`` in place of the XXH3 withdraws every earlier claim about these bytes. ``released`` says that the owner closed
the file. A line that was cut short or damaged does not match its own CRC and is skipped.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from modeldeck.engine.plan import RangeSet

FORMAT = 2
NEW_SUFFIX = "-new"
_BLOCK = re.compile(r"(\d{1,18}) (\d{1,18}) (-|[0-9a-f]{16})")
_NAME = re.compile(r"(?P<digest>[0-9A-Za-z_-]{1,128})\.(?P<id>[0-9a-f]{8})\.(?P<kind>part|journal)")


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """The process that writes a partial file.

    Attributes
    ----------
    started_at : float
        When the process started, in seconds since the epoch. It tells the process from a later one with the same
        number.
    """

    host: str
    pid: int
    started_at: float


class PartialHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Which file a partial file is part of.

    Attributes
    ----------
    digest : str
        The name of the finished blob.
    size : int or None
        Bytes of the whole file, or ``None`` if the Hub did not say.
    """

    digest: str
    size: int | None
    repo_id: str
    filename: str
    commit_hash: str
    endpoint: str


class _FirstLine(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    data: str
    owner: Owner
    header: PartialHeader


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes that were written, with their XXH3-64. ``None`` withdraws every claim about them."""

    start: int
    length: int
    xxh3: int | None

    @property
    def stop(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Journal:
    """What a journal claims.

    Attributes
    ----------
    data : str
        The name of the file with the bytes.
    blocks : list of Block
        The blocks that still count, sorted.
    is_released : bool
        Whether the owner has closed the file.
    """

    data: str
    owner: Owner
    header: PartialHeader
    blocks: list[Block]
    is_released: bool


def encode_block(block: Block) -> bytes:
    """Return the line that claims a block."""
    xxh3 = "-" if block.xxh3 is None else f"{block.xxh3:016x}"
    return sealed(f"{block.start} {block.length} {xxh3}")


def encode_release() -> bytes:
    """Return the line by which an owner gives the file up."""
    return sealed("released")


def encode_journal(data: str, owner: Owner, header: PartialHeader, blocks: Iterable[Block]) -> bytes:
    """Return a whole journal with these claims."""
    first = _FirstLine(format=FORMAT, data=data, owner=owner, header=header)
    return sealed(msgspec.json.encode(first).decode()) + b"".join(encode_block(block) for block in blocks)


def parse_blocks(lines: Iterable[bytes], size: int | None) -> tuple[list[Block], bool]:
    """Return the blocks of a journal's lines in their order, and whether its last owner released it.

    Damaged lines, and blocks beyond the file's ``size``, are skipped.
    """
    blocks: list[Block] = []
    is_released = False
    for line in lines:
        text = _unsealed(line)
        if text is None:
            continue
        if text == "released":
            is_released = True
            continue
        if (match := _BLOCK.fullmatch(text)) is None:
            continue
        block = Block(int(match[1]), int(match[2]), None if match[3] == "-" else int(match[3], 16))
        if block.length > 0 and (size is None or block.stop <= size):
            blocks.append(block)
            is_released = False
    return blocks, is_released


def parse_journal(content: bytes, digest: str) -> Journal | None:
    """Return the claims of a journal of the blob ``digest``, or ``None`` if its header cannot be used."""
    first_line, *lines = content.split(b"\n")
    text = _unsealed(first_line)
    if text is None:
        return None
    try:
        first = msgspec.json.decode(text, type=_FirstLine)
    except msgspec.MsgspecError:
        return None
    if first.format != FORMAT or first.header.digest != digest or digest_in_name(first.data) != digest:
        return None
    blocks, is_released = parse_blocks(lines, first.header.size)
    return Journal(first.data, first.owner, first.header, live_blocks(blocks), is_released)


def live_blocks(blocks: Sequence[Block]) -> list[Block]:
    """Return the blocks that still count, sorted: a block replaces every earlier one that it overlaps."""
    covered = RangeSet()
    live = []
    for block in reversed(blocks):
        if block.xxh3 is not None and not covered.overlaps(block.start, block.stop):
            live.append(block)
        covered.add(block.start, block.stop)
    return sorted(live, key=lambda block: block.start)


def data_name(digest: str, owner_id: str) -> str:
    """Return the name of the file with the bytes."""
    return f"{digest}.{owner_id}.part"


def journal_name(digest: str, owner_id: str) -> str:
    """Return the name of the journal."""
    return f"{digest}.{owner_id}.journal"


def digest_in_name(name: str) -> str | None:
    """Return the digest in the name of a partial file or journal, or ``None`` for any other name."""
    match = _NAME.fullmatch(name)
    return match["digest"] if match else None


def sealed(text: str) -> bytes:
    """Return a line with its CRC."""
    return f"{text} {zlib.crc32(text.encode()):08x}\n".encode()


def _unsealed(line: bytes) -> str | None:
    body, _, crc = line.rpartition(b" ")
    try:
        if len(crc) != 8 or int(crc, 16) != zlib.crc32(body):
            return None
        return body.decode()
    except ValueError:
        return None
