"""The digests of finished files block by block, so that damage can be found without fetching anything.

A journal has the XXH3-64 of every block of its file. Once the sha256 of the whole file was right, these lines are kept
under that sha256, in a directory of our own outside the Hugging Face cache::

    <state>/blocks/<sha256>.blocks      one sealed line for each block, sorted, from the first byte to the last

A record is a hint and never a proof: it says where to look first. A repair that used one hashes the whole file
afterwards, so a wrong record costs time only. Neither reading nor writing a record ever raises an error.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import xxhash

from modeldeck._files import replace_file
from modeldeck.engine.digest import STEP_BYTES, FrontHasher
from modeldeck.engine.journal import Block, encode_block, parse_blocks
from modeldeck.engine.threads import DiskThreads
from modeldeck.hub.urls import is_sha256

SMALLEST_FILE_BYTES = 4 << 20
"""A smaller file is fetched whole in the time of one request."""
LARGEST_BLOCK_BYTES = 16 << 20
"""Blocks are read as a whole: a record that claims larger ones is not ours."""
LARGEST_RECORD_BYTES = 16 << 20
"""Enough for a file of 350 GiB."""
MAX_RECORDS = 1000
MAX_RECORDS_BYTES = 64 << 20
KEPT_SECONDS = 365 * 86_400.0

_SUFFIX = ".blocks"
_NAME = re.compile(r"[0-9a-f]{64}\.blocks(\.[0-9a-f]{8}\.new)?")


class BlockDigestStore:
    """The records of finished files, one small file each, replaced as a whole. The methods block.

    A record stays when its file is removed from the cache: it belongs to the content, which may exist in another
    repository or be downloaded again. The oldest records are deleted when there are too many, and all after a year.

    Parameters
    ----------
    directory
        Where the records are kept. It is created when it is needed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, digest: str, size: int) -> tuple[Block, ...]:
        """Return the blocks of the file with this sha256, or none if there is no whole record."""
        if not is_sha256(digest):
            return ()
        path = self._path(digest)
        try:
            if not path.is_file():
                return ()
            with path.open("rb") as file:
                content = file.read(LARGEST_RECORD_BYTES + 1)
        except OSError:
            return ()
        if len(content) > LARGEST_RECORD_BYTES:
            return ()
        blocks, _ = parse_blocks(content.split(b"\n"), size)
        return tuple(blocks) if _is_whole(blocks, size) else ()

    def has_since(self, digest: str, size: int, moment: float) -> bool:
        """Return whether there is a whole record that was saved at ``moment``, in seconds since the epoch, or later."""
        try:
            is_recent = is_sha256(digest) and self._path(digest).stat().st_mtime >= moment
        except OSError:
            return False
        return is_recent and bool(self.load(digest, size))

    def save(self, digest: str, size: int, blocks: Sequence[Block]) -> None:
        """Keep the sorted blocks of a file whose sha256 was found to be right."""
        if not is_sha256(digest) or size < SMALLEST_FILE_BYTES or not _is_whole(blocks, size):
            return
        content = b"".join(encode_block(block) for block in blocks)
        if len(content) > LARGEST_RECORD_BYTES:
            return
        with contextlib.suppress(OSError):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self._path(digest), content)
            self._tidy()

    def _path(self, digest: str) -> Path:
        return self._directory / (digest + _SUFFIX)

    def _tidy(self) -> None:
        """Delete the oldest records beyond the limits, and drafts that a crash left behind."""
        found = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):  # another process tidies, too
                        status = entry.stat(follow_symlinks=False)
                        found.append((status.st_mtime, status.st_size, entry.path))
        oldest = time.time() - KEPT_SECONDS
        total_bytes = 0
        for count, (modified_at, size, path) in enumerate(sorted(found, reverse=True), start=1):
            total_bytes += size
            if count > MAX_RECORDS or total_bytes > MAX_RECORDS_BYTES or modified_at < oldest:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)


class RecordingHasher(FrontHasher):
    """Digests the blocks beside the whole, since a verification reads every byte anyway.

    Attributes
    ----------
    blocks : list of Block
        One for each piece hashed so far.
    """

    def __init__(self, digest: str | None, size: int | None) -> None:
        super().__init__(digest, size)
        self.blocks: list[Block] = []

    def feed(self, data: memoryview) -> None:
        self.blocks.append(Block(self.position, len(data), xxhash.xxh3_64_intdigest(data)))
        super().feed(data)


async def hash_file(
    path: Path, digest: str | None, size: int, threads: DiskThreads, *, on_position: Callable[[int], object]
) -> RecordingHasher:
    """Read a whole file and return its hasher.

    Parameters
    ----------
    digest
        Chooses the algorithm, as for `FrontHasher`.
    on_position
        Called with the bytes that were read so far, on the loop.
    """
    hasher = RecordingHasher(digest, size)
    with os.fdopen(_open_unnoticed(path), "rb", buffering=0) as file:
        while hasher.position < size:
            await threads.run(hasher.advance, file.fileno(), min(size, hasher.position + STEP_BYTES))
            on_position(hasher.position)
    return hasher


def _open_unnoticed(path: Path) -> int:
    """Open a file for reading that keeps the time of its last use, where the system can: verifying is not using."""
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        return os.open(path, flags | getattr(os, "O_NOATIME", 0))
    except PermissionError:  # another user's file
        return os.open(path, flags)


def _is_whole(blocks: Sequence[Block], size: int) -> bool:
    """Return whether the blocks cover the file, one after the other."""
    position = 0
    for block in blocks:
        if block.start != position or block.xxh3 is None or block.length > LARGEST_BLOCK_BYTES:
            return False
        position = block.stop
    return position == size
