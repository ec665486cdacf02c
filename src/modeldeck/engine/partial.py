"""The partial file: the bytes of a download on disk, in a form that survives a crash at any moment.

Beside the place of the finished blob lie two files::

    blobs/<digest>.<id>.part        the bytes, each at its final offset
    blobs/<digest>.<owner>.journal  text: a header, then one line for each block that was written

They are never called ``.incomplete``: huggingface_hub up to 1.17 appends to such files, and ``hf cache prune`` deletes
them.

A block's line is appended after its bytes were written, and carries their XXH3-64. Nothing that the journal claims is
trusted before the bytes were read again and agree with it, so neither a lost page nor a file full of zeros gets
through. The sha256 of the whole file decides in the end.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import xxhash

from modeldeck.engine.disk import Buffer, read_at, read_from_disk, write_all, write_at, write_back
from modeldeck.engine.journal import (
    NEW_SUFFIX,
    Block,
    PartialHeader,
    data_name,
    encode_block,
    encode_journal,
    encode_release,
    journal_name,
    live_blocks,
)
from modeldeck.engine.leftovers import list_partials
from modeldeck.engine.ownership import (
    OwnershipLostError,
    abandoned_journal,
    is_same_file,
    open_journals,
    this_process,
    try_lock,
)
from modeldeck.engine.plan import RangeSet

JOURNAL_BLOCK_BYTES = 1 << 20
"""A block is journalled once it is this long, so a killed process loses at most this much per connection."""
JOURNAL_BLOCK_SECONDS = 2.0
BEAT_SECONDS = 10.0


class Partial:
    """A partial file that this process owns. The methods block, and each may be called on any thread.

    Attributes
    ----------
    header : PartialHeader
        Which file it is part of.
    data_path, journal_path : Path
        Where the bytes and the journal are.
    """

    def __init__(
        self, directory: Path, owner_id: str, data_name: str, header: PartialHeader, blocks: Sequence[Block]
    ) -> None:
        self.header = header
        self.data_path = directory / data_name
        self.journal_path = directory / journal_name(header.digest, owner_id)
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()
        length = self.data_path.stat().st_size if self.data_path.exists() else 0
        self._blocks = [block for block in blocks if block.stop <= length]
        self._written = RangeSet((block.start, block.stop) for block in self._blocks)
        with contextlib.ExitStack() as undo:
            open_journals.add(self.journal_path.name)
            undo.callback(open_journals.discard, self.journal_path.name)
            self._journal = self._write_journal()  # first, so that a crash leaves no data without a journal
            undo.callback(os.close, self._journal)
            self._descriptor = os.open(self.data_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            undo.pop_all()
        self._touched_at = time.monotonic()
        self._is_open = True
        self._is_doubtful = False

    @classmethod
    def open(cls, directory: Path, header: PartialHeader) -> Partial:
        """Claim the fullest abandoned partial file of this blob, or begin a new one."""
        owner_id = secrets.token_hex(4)
        for info in sorted(list_partials(directory, header.digest), key=lambda info: -info.received):
            if info.received == 0:
                continue
            with abandoned_journal(info.journal_path) as journal:
                if journal is None or (header.size is not None and journal.header.size != header.size):
                    continue
                try:
                    os.rename(info.journal_path, directory / journal_name(header.digest, owner_id))
                except FileNotFoundError:
                    continue
                return cls(directory, owner_id, journal.data, header, journal.blocks)
        return cls(directory, owner_id, data_name(header.digest, owner_id), header, ())

    @classmethod
    def take_over(cls, directory: Path, header: PartialHeader, damaged: Path, blocks: Sequence[Block] = ()) -> Partial:
        """Turn a damaged file of the cache into a partial file, so that it no longer has its final name.

        Parameters
        ----------
        directory
            The ``blobs`` directory.
        header
            Which file it is part of.
        damaged
            The file, or a link to it.
        blocks
            The blocks that the whole file has, sorted. Like everything that a journal claims they must be checked.
            Without them every byte of the file has to be compared.
        """
        owner_id = secrets.token_hex(4)
        name = data_name(header.digest, owner_id)
        directory.mkdir(parents=True, exist_ok=True)
        first = damaged.parent / os.readlink(damaged) if damaged.is_symlink() else damaged
        if first.is_symlink():  # it leads into huggingface_hub's shared store, whose bytes are not ours to change
            shutil.copyfile(damaged, directory / name)
            first.unlink()
        else:
            os.replace(first, directory / name)
        partial = cls(directory, owner_id, name, header, blocks)
        if header.size is not None:
            os.truncate(partial.descriptor, header.size)
        return partial

    def _write_journal(self) -> int:
        """Put a compact journal of this owner in place and return its descriptor, open for appending.

        It is locked before it has its name, so `replace_file`, which closes what it wrote, cannot do this.
        """
        draft = self.journal_path.with_name(self.journal_path.name + NEW_SUFFIX)
        content = encode_journal(self.data_path.name, this_process(), self.header, self._blocks)
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            try_lock(descriptor)
            write_all(descriptor, content)
            os.replace(draft, self.journal_path)
        except BaseException:
            os.close(descriptor)
            draft.unlink(missing_ok=True)
            raise
        return descriptor

    @property
    def is_open(self) -> bool:
        return self._is_open

    @property
    def descriptor(self) -> int:
        return self._descriptor

    @property
    def front(self) -> int:
        """Where the run of written bytes from 0 ends."""
        with self._lock:
            return self._written.front

    @property
    def received(self) -> int:
        """Bytes that are in the file, journalled or about to be."""
        with self._lock:
            return self._written.total

    def missing(self, size: int) -> list[tuple[int, int]]:
        """Return the half-open ranges below ``size`` that were not written yet."""
        with self._lock:
            return self._written.missing(size)

    def covers(self, start: int, stop: int) -> bool:
        """Return whether the file has all bytes of a range."""
        return all(gap_stop <= start for _, gap_stop in self.missing(stop))

    def blocks(self) -> list[Block]:
        """Return what the journal claims, sorted."""
        with self._lock:
            return live_blocks(self._blocks)

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all buffers, one after the other, at ``offset``."""
        with self._write_lock:  # the kernel lets one write into a file at a time, and the others would spin
            write_at(self._descriptor, buffers, offset)

    def record(self, block: Block) -> None:
        """Journal a block that was written."""
        with self._lock:
            write_all(self._journal, encode_block(block))
            self._blocks.append(block)

    def mark_written(self, start: int, stop: int) -> None:
        """Count a range as received before it is journalled."""
        with self._lock:
            self._written.add(start, stop)

    def drop(self, blocks: Sequence[Block]) -> None:
        """Withdraw the claims of these blocks."""
        with self._lock:
            withdrawn = [Block(block.start, block.length, None) for block in blocks]
            write_all(self._journal, b"".join(encode_block(block) for block in withdrawn))
            self._blocks = live_blocks([*self._blocks, *withdrawn])
            self._written = RangeSet((block.start, block.stop) for block in self._blocks)

    def read_block(self, block: Block, scratch: memoryview) -> memoryview | None:
        """Return the block's bytes if they are what the journal says, else ``None``."""
        data = scratch[: block.length]
        if read_at(self._descriptor, data, block.start) < block.length or xxhash.xxh3_64_intdigest(data) != block.xxh3:
            return None
        return data

    @property
    def is_beat_due(self) -> bool:
        return time.monotonic() - self._touched_at >= BEAT_SECONDS

    def beat(self) -> None:
        """Show now and then that the owner is alive.

        Raises
        ------
        OwnershipLostError
            If another process has taken over.
        """
        if self.is_beat_due:
            self.ensure_owned()
            os.utime(self._journal)
            self._touched_at = time.monotonic()

    def ensure_owned(self) -> None:
        """Raise `OwnershipLostError` if another process has taken over."""
        if not is_same_file(self.journal_path, os.fstat(self._journal)):
            raise OwnershipLostError(self.journal_path.name)

    def write_back(self) -> None:
        """Bring the bytes, then the journal that claims them, to the disk: see `disk.write_back`."""
        try:
            write_back(self._descriptor)
            write_back(self._journal)
        except OSError:
            self.distrust_memory()  # here, because the caller may be gone by the time the error is raised
            raise

    def distrust_memory(self) -> None:
        """After a disk error: make the next reader get what the disk has."""
        self._is_doubtful = True

    def close(self) -> None:
        """Give the file up and keep it for the next owner."""
        if self._is_open:
            self._is_open = False
            if self._is_doubtful:
                read_from_disk(self._descriptor)
            with contextlib.suppress(OSError):  # on a full disk `open_journals`, or our death, says the same
                write_all(self._journal, encode_release())
            self._close_descriptors()

    def discard(self) -> None:
        """Delete the file and its journal."""
        if self._is_open:
            self._is_open = False
            self.journal_path.unlink(missing_ok=True)
            self.data_path.unlink(missing_ok=True)
            self._close_descriptors()

    def finish(self) -> None:
        """Delete the journal: the data file was moved to its final name."""
        if self._is_open:
            self._is_open = False
            self.journal_path.unlink(missing_ok=True)
            self._close_descriptors()

    def _close_descriptors(self) -> None:
        os.close(self._descriptor)
        os.close(self._journal)
        open_journals.discard(self.journal_path.name)


class SegmentWriter:
    """Writes consecutive bytes and journals them block by block. One thread may use it at a time.

    Parameters
    ----------
    partial
        Where to write.
    start
        Offset of the first byte.
    is_comparing
        Compare with the bytes that are already in the file, and write only where they differ.

    Attributes
    ----------
    replaced_bytes : int
        Bytes that differed.
    """

    def __init__(self, partial: Partial, start: int, *, is_comparing: bool = False) -> None:
        self._partial = partial
        self._is_comparing = is_comparing
        self.replaced_bytes = 0
        self._block_start = start
        self._block_length = 0
        self._hash = xxhash.xxh3_64()
        self._begun_at = time.monotonic()

    @property
    def position(self) -> int:
        return self._block_start + self._block_length

    @property
    def has_unflushed(self) -> bool:
        return self._block_length > 0

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Write the next bytes, and journal the block if it is long or old enough."""
        self._partial.beat()
        start = self.position
        if not (self._is_comparing and self._has_already(buffers, start)):
            self._partial.write(buffers, start)
        for buffer in buffers:
            self._hash.update(buffer)
            self._block_length += len(buffer)
        self._partial.mark_written(start, self.position)
        if self._block_length >= JOURNAL_BLOCK_BYTES or time.monotonic() - self._begun_at >= JOURNAL_BLOCK_SECONDS:
            self.flush()

    def _has_already(self, buffers: Sequence[Buffer], start: int) -> bool:
        """Return whether the file has these bytes; if not, count them as replaced."""
        wanted = b"".join(buffers)
        found = bytearray(len(wanted))
        if read_at(self._partial.descriptor, memoryview(found), start) == len(wanted) and found == wanted:
            return True
        self.replaced_bytes += len(wanted)
        return False

    def flush(self) -> None:
        """Journal what was written since the last block."""
        if self._block_length:
            self._partial.record(Block(self._block_start, self._block_length, self._hash.intdigest()))
            self._block_start, self._block_length = self.position, 0
            self._hash.reset()
        self._begun_at = time.monotonic()
