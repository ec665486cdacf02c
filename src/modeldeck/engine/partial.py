"""The partial file and its journal: what is on disk of a download, in a form that survives a crash at any moment.

Beside the place of the finished blob lie two files::

    blobs/<digest>.<id>.part        the bytes, each at its final offset
    blobs/<digest>.<owner>.journal  text: a header, then one line for each block that is there

Never ``.incomplete``: huggingface_hub up to 1.17 appends to such files, and ``hf cache prune`` deletes them.

A block line is appended after its bytes were written, and carries their XXH3-64. A line that was cut short or damaged
does not pass its own check and is skipped. Nothing the journal claims is trusted before the bytes were read again and
agree with it, so neither a lost page nor a file full of zeros can get through; the sha256 of the whole decides in the
end.

One owner at a time: a journal is claimed by renaming it, which only one process can do. It is claimed only when its
owner has released it, is this process and does not have it open any more, is dead, or (on another machine) has not
touched it for a while. The file lock is one sign of life among others, because some network filesystems grant it to
everyone.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil
import xxhash

from modeldeck.engine.disk import read_from_disk, write_back
from modeldeck.engine.plan import RangeSet

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Buffer = bytes | bytearray | memoryview

BLOCK_BYTES = 1 << 20
"""A block is journalled when it is this long, so a killed process loses at most this much per connection."""
BLOCK_SECONDS = 2.0
BEAT_SECONDS = 10.0
ABANDONED_SECONDS = 120.0
"""An owner on another machine that has not touched its journal for this long is taken for dead."""
LARGEST_JOURNAL_BYTES = 64 << 20
LEFT_OVER_SECONDS = 7 * 86_400.0

_FORMAT = 2
_NEW_SUFFIX = "-new"
_BLOCK = re.compile(r"(\d{1,18}) (\d{1,18}) (-|[0-9a-f]{16})")
_NAME = re.compile(r"(?P<digest>[0-9A-Za-z_-]{1,128})\.(?P<id>[0-9a-f]{8})\.(?P<kind>part|journal)")

_open_here: set[str] = set()
"""Names of the journals that this process has open: a full disk may not take the line that releases one."""


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """The process that writes a partial file. ``started_at`` tells it from a later process with its number."""

    host: str
    pid: int
    started_at: float


class PartialHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a partial file is part of. ``digest`` is the name of the finished blob."""

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
    """Bytes that were written, with their XXH3-64; ``None`` takes back all that was claimed of them."""

    start: int
    length: int
    xxh3: int | None

    @property
    def stop(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialInfo:
    """A partial file in a cache. ``allocated_bytes`` is the room it takes; ``is_owned`` that somebody writes it."""

    header: PartialHeader
    data_path: Path
    journal_path: Path
    received: int
    allocated_bytes: int
    modified_at: float
    is_owned: bool


class OwnershipLostError(Exception):
    """Another process has taken the partial file over, because this one seemed dead."""


# --- the journal's text -----------------------------------------------------------------------------------------------


def _sealed(text: str) -> bytes:
    return f"{text} {zlib.crc32(text.encode()):08x}\n".encode()


def _unsealed(line: bytes) -> str | None:
    body, _, check = line.rpartition(b" ")
    try:
        if len(check) != 8 or int(check, 16) != zlib.crc32(body):
            return None
        return body.decode()
    except ValueError:
        return None


def encode_block(block: Block) -> bytes:
    check = "-" if block.xxh3 is None else f"{block.xxh3:016x}"
    return _sealed(f"{block.start} {block.length} {check}")


def parse_blocks(lines: Iterable[bytes], size: int | None) -> tuple[list[Block], bool]:
    """The blocks of a journal's lines in their order, and whether its last owner released it.

    Damaged lines are skipped.
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


def live_blocks(blocks: Sequence[Block]) -> list[Block]:
    """What blocks claim together, sorted: a block replaces every earlier one that it touches."""
    covered = RangeSet()
    live = []
    for block in reversed(blocks):
        if block.xxh3 is not None and not covered.overlaps(block.start, block.stop):
            live.append(block)
        covered.add(block.start, block.stop)
    return sorted(live, key=lambda block: block.start)


def _encode_first_line(data: str, owner: Owner, header: PartialHeader) -> bytes:
    first = _FirstLine(format=_FORMAT, data=data, owner=owner, header=header)
    return _sealed(msgspec.json.encode(first).decode())


@dataclass(frozen=True, slots=True)
class _Journal:
    data: str
    owner: Owner
    header: PartialHeader
    blocks: list[Block]
    is_released: bool


def _parse_journal(content: bytes, digest: str) -> _Journal | None:
    """The journal's claims, or ``None`` when its header cannot be used."""
    first_line, *lines = content.split(b"\n")
    text = _unsealed(first_line)
    if text is None:
        return None
    try:
        first = msgspec.json.decode(text, type=_FirstLine)
    except msgspec.MsgspecError:
        return None
    name = _NAME.fullmatch(first.data)
    if first.format != _FORMAT or first.header.digest != digest or not name or name["digest"] != digest:
        return None
    blocks, is_released = parse_blocks(lines, first.header.size)
    return _Journal(first.data, first.owner, first.header, live_blocks(blocks), is_released)


# --- ownership --------------------------------------------------------------------------------------------------------


def _this_process() -> Owner:
    return Owner(host=socket.gethostname(), pid=os.getpid(), started_at=psutil.Process().create_time())


def _try_lock(descriptor: int) -> bool:
    """Take the lock that lives as long as the descriptor; ``True`` also where there are no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_abandoned(name: str, journal: _Journal, modified_at: float) -> bool:
    """Whether nobody writes any more, judged without locks."""
    if journal.is_released:
        return True
    owner = journal.owner
    if owner.host != socket.gethostname():
        return time.time() - modified_at > ABANDONED_SECONDS
    try:
        process = psutil.Process(owner.pid)
        is_same = abs(process.create_time() - owner.started_at) <= 1.0
        if is_same and owner.pid == os.getpid():
            return name not in _open_here
        return not is_same or process.status() == psutil.STATUS_ZOMBIE  # killed, and not reaped yet
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return time.time() - modified_at > ABANDONED_SECONDS


@contextlib.contextmanager
def _abandoned_journal(path: Path) -> Iterator[tuple[int, _Journal] | None]:
    """Open and lock a journal that nobody owns; ``None`` when it is gone, owned or unreadable."""
    name = _NAME.fullmatch(path.name)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        status = os.fstat(descriptor)
        journal = None
        if name and status.st_size <= LARGEST_JOURNAL_BYTES and _try_lock(descriptor) and _is_same_file(path, status):
            journal = _parse_journal(_read_all(descriptor), name["digest"])
        if journal is None or not _is_abandoned(path.name, journal, status.st_mtime):
            yield None
        else:
            yield descriptor, journal
    finally:
        os.close(descriptor)


def _is_same_file(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), status)
    except OSError:
        return False


def _read_all(descriptor: int) -> bytes:
    pieces = []
    os.lseek(descriptor, 0, os.SEEK_SET)
    while piece := os.read(descriptor, 1 << 20):
        pieces.append(piece)
    return b"".join(pieces)


# --- reading and writing at an offset ---------------------------------------------------------------------------------


def write_at(descriptor: int, buffers: Sequence[Buffer], offset: int) -> None:
    """Write all buffers, one after the other, at ``offset``."""
    waiting = [memoryview(buffer) for buffer in buffers]
    while waiting:
        written = os.pwritev(descriptor, waiting[:512], offset)
        offset += written
        while waiting and written >= len(waiting[0]):
            written -= len(waiting.pop(0))
        if written:
            waiting[0] = waiting[0][written:]


def read_at(descriptor: int, target: memoryview, offset: int) -> int:
    """Fill ``target`` from ``offset``; the number of bytes read is short only at the end of the file."""
    filled = 0
    while filled < len(target):
        count = os.preadv(descriptor, [target[filled:]], offset + filled)
        if count == 0:
            break
        filled += count
    return filled


# --- the partial file -------------------------------------------------------------------------------------------------


class Partial:
    """A partial file that this process owns. Its methods block; each may be called on any thread.

    Attributes
    ----------
    header : PartialHeader
        What the file is part of.
    data_path, journal_path : Path
        Where the bytes and the journal are.
    """

    def __init__(
        self, directory: Path, owner_id: str, data_name: str, header: PartialHeader, blocks: Sequence[Block]
    ) -> None:
        self.header = header
        self.data_path = directory / data_name
        self.journal_path = directory / f"{header.digest}.{owner_id}.journal"
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()
        length = self.data_path.stat().st_size if self.data_path.exists() else 0
        self._blocks = [block for block in blocks if block.stop <= length]
        self._written = RangeSet((block.start, block.stop) for block in self._blocks)
        with contextlib.ExitStack() as undo:
            _open_here.add(self.journal_path.name)
            undo.callback(_open_here.discard, self.journal_path.name)
            self._journal = self._write_journal()  # first, so that a crash leaves no data that nobody knows of
            undo.callback(os.close, self._journal)
            self._descriptor = os.open(self.data_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            undo.pop_all()
        self._touched_at = time.monotonic()
        self._is_open = True
        self._is_doubtful = False

    @classmethod
    def open(cls, directory: Path, header: PartialHeader) -> Partial:
        """Take over the fullest abandoned partial file of this blob, or begin a new one."""
        owner_id = secrets.token_hex(4)
        for path, received in _candidates(directory, header.digest):
            if received == 0:
                continue
            with _abandoned_journal(path) as found:
                if found is None:
                    continue
                _, journal = found
                if header.size is not None and journal.header.size != header.size:
                    continue
                try:
                    os.rename(path, directory / f"{header.digest}.{owner_id}.journal")
                except FileNotFoundError:
                    continue
                return cls(directory, owner_id, journal.data, header, journal.blocks)
        return cls(directory, owner_id, f"{header.digest}.{owner_id}.part", header, ())

    @classmethod
    def take_over(cls, directory: Path, header: PartialHeader, damaged: Path, blocks: Sequence[Block] = ()) -> Partial:
        """Make a partial file of one that has, wrongly, its final name. ``blocks`` are what should be in it, sorted.

        Like all that a journal claims, they are to be checked. Without them nothing of the file is believed.
        """
        owner_id = secrets.token_hex(4)
        data_name = f"{header.digest}.{owner_id}.part"
        directory.mkdir(parents=True, exist_ok=True)
        first = damaged.parent / os.readlink(damaged) if damaged.is_symlink() else damaged
        if first.is_symlink():  # huggingface_hub's shared store: its bytes are not ours to change
            shutil.copyfile(damaged, directory / data_name)
            first.unlink()
        else:
            os.replace(first, directory / data_name)
        partial = cls(directory, owner_id, data_name, header, blocks)
        if header.size is not None:
            os.truncate(partial.descriptor, header.size)
        return partial

    def _write_journal(self) -> int:
        """Put a fresh, compact journal of this owner in place and return its descriptor, open for appending."""
        temporary = self.journal_path.with_name(self.journal_path.name + _NEW_SUFFIX)
        content = _encode_first_line(self.data_path.name, _this_process(), self.header)
        content += b"".join(encode_block(block) for block in self._blocks)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            _try_lock(descriptor)
            write_all(descriptor, content)
            os.replace(temporary, self.journal_path)
        except BaseException:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
            raise
        return descriptor

    @property
    def is_open(self) -> bool:
        return self._is_open

    @property
    def descriptor(self) -> int:
        return self._descriptor

    @property
    def allocated_bytes(self) -> int:
        return allocated_bytes(self.data_path)

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
        with self._lock:
            return self._written.missing(size)

    def blocks(self) -> list[Block]:
        """What the journal claims, sorted."""
        with self._lock:
            return live_blocks(self._blocks)

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all buffers, one after the other, at ``offset``."""
        with self._write_lock:  # the kernel lets one write into a file at a time; others would spin for their turn
            write_at(self._descriptor, buffers, offset)

    def record(self, block: Block) -> None:
        """Journal a block that was written."""
        with self._lock:
            write_all(self._journal, encode_block(block))
            self._blocks.append(block)

    def mark_written(self, start: int, stop: int) -> None:
        with self._lock:
            self._written.add(start, stop)

    def drop(self, blocks: Sequence[Block]) -> None:
        """Take back the claims of these blocks."""
        with self._lock:
            nothing = [Block(block.start, block.length, None) for block in blocks]
            write_all(self._journal, b"".join(encode_block(block) for block in nothing))
            self._blocks = live_blocks([*self._blocks, *nothing])
            self._written = RangeSet((block.start, block.stop) for block in self._blocks)

    def check(self, block: Block, scratch: memoryview) -> memoryview | None:
        """The block's bytes if they are what the journal says, else ``None``."""
        data = scratch[: block.length]
        if read_at(self._descriptor, data, block.start) < block.length or xxhash.xxh3_64_intdigest(data) != block.xxh3:
            return None
        return data

    @property
    def is_beat_due(self) -> bool:
        return time.monotonic() - self._touched_at >= BEAT_SECONDS

    def beat(self) -> None:
        """Show now and then that the owner lives.

        Raises
        ------
        OwnershipLostError
            When another process has taken over.
        """
        if self.is_beat_due:
            self.ensure_owned()
            os.utime(self._journal)
            self._touched_at = time.monotonic()

    def ensure_owned(self) -> None:
        if not _is_same_file(self.journal_path, os.fstat(self._journal)):
            raise OwnershipLostError(self.journal_path.name)

    def write_back(self) -> None:
        """Bring the bytes, then the journal that claims them, to the disk: see `disk.write_back`."""
        try:
            write_back(self._descriptor)
            write_back(self._journal)
        except OSError:
            self.distrust_memory()  # here, because nobody may be there any more to hear of it
            raise

    def distrust_memory(self) -> None:
        """After an error of the disk: whoever comes next shall read what the disk has."""
        self._is_doubtful = True

    def close(self) -> None:
        """Let go of the file and keep it for whoever comes next."""
        if self._is_open:
            self._is_open = False
            if self._is_doubtful:
                read_from_disk(self._descriptor)
            with contextlib.suppress(OSError):  # a full disk: that it is not open here, or our death, says the same
                write_all(self._journal, _sealed("released"))
            self._close_descriptors()

    def discard(self) -> None:
        """Delete the file and its journal."""
        if self._is_open:
            self._is_open = False
            self.journal_path.unlink(missing_ok=True)
            self.data_path.unlink(missing_ok=True)
            self._close_descriptors()

    def finish(self) -> None:
        """Forget the journal: the data file was moved to its final name."""
        if self._is_open:
            self._is_open = False
            self.journal_path.unlink(missing_ok=True)
            self._close_descriptors()

    def _close_descriptors(self) -> None:
        os.close(self._descriptor)
        os.close(self._journal)
        _open_here.discard(self.journal_path.name)


class SegmentWriter:
    """Writes consecutive bytes and journals them block by block. One thread at a time.

    Parameters
    ----------
    is_mending
        Compare with the bytes that are there, and write only where they differ.
    """

    def __init__(self, partial: Partial, start: int, *, is_mending: bool = False) -> None:
        self._partial = partial
        self._is_mending = is_mending
        self.mended_bytes = 0
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
        self._partial.beat()
        start = self.position
        if not (self._is_mending and self._is_there(buffers, start)):
            self._partial.write(buffers, start)
        for buffer in buffers:
            self._hash.update(buffer)
            self._block_length += len(buffer)
        self._partial.mark_written(start, self.position)
        if self._block_length >= BLOCK_BYTES or time.monotonic() - self._begun_at >= BLOCK_SECONDS:
            self.flush()

    def _is_there(self, buffers: Sequence[Buffer], start: int) -> bool:
        """Whether the file has these bytes already; otherwise their number is counted as mended."""
        wanted = b"".join(buffers)
        found = bytearray(len(wanted))
        if read_at(self._partial.descriptor, memoryview(found), start) == len(wanted) and found == wanted:
            return True
        self.mended_bytes += len(wanted)
        return False

    def flush(self) -> None:
        """Journal what has been written since the last block."""
        if self._block_length:
            self._partial.record(Block(self._block_start, self._block_length, self._hash.intdigest()))
            self._block_start, self._block_length = self.position, 0
            self._hash.reset()
        self._begun_at = time.monotonic()


def write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def allocated_bytes(path: Path) -> int:
    """The room a file takes on its disk; 0 when it is not there."""
    try:
        status = path.stat()
    except OSError:
        return 0
    return status.st_blocks * 512


# --- left-over partial files ------------------------------------------------------------------------------------------


def _candidates(directory: Path, digest: str) -> list[tuple[Path, int]]:
    """Journals of a blob with the bytes they claim, fullest first."""
    found = [(info.journal_path, info.received) for info in _scan(directory, f"{digest}.*.journal")]
    return sorted(found, key=lambda item: -item[1])


def _scan(directory: Path, pattern: str) -> Iterator[PartialInfo]:
    try:
        paths = sorted(directory.glob(pattern))
    except OSError:
        return
    for path in paths:
        name = _NAME.fullmatch(path.name)
        try:
            status = path.stat()
            content = path.read_bytes() if name and status.st_size <= LARGEST_JOURNAL_BYTES else b""
        except OSError:
            continue
        journal = _parse_journal(content, name["digest"]) if name else None
        if journal is None:
            continue
        data_path = directory / journal.data
        with _abandoned_journal(path) as abandoned:
            is_owned = abandoned is None
        yield PartialInfo(
            header=journal.header,
            data_path=data_path,
            journal_path=path,
            received=RangeSet((block.start, block.stop) for block in journal.blocks).total,
            allocated_bytes=allocated_bytes(data_path),
            modified_at=status.st_mtime,
            is_owned=is_owned,
        )


def list_partials(directory: Path, digest: str = "*") -> tuple[PartialInfo, ...]:
    """The partial files of one repository's ``blobs`` folder; none where it cannot be read."""
    return tuple(_scan(directory, f"{digest}.*.journal"))


def discard_partials(directory: Path, digest: str = "*", *, older_than_seconds: float = 0.0) -> int:
    """Delete partial files that nobody owns and return the bytes that were freed.

    Data files whose journal is gone and journals that cannot be read are deleted once they are left over.
    """
    freed = 0
    now = time.time()
    for info in list_partials(directory, digest):
        if info.is_owned or now - info.modified_at < older_than_seconds:
            continue
        with _abandoned_journal(info.journal_path) as found:
            if found is None:
                continue
            info.journal_path.unlink(missing_ok=True)
            info.data_path.unlink(missing_ok=True)
            freed += info.allocated_bytes
    known = {path for info in list_partials(directory, digest) for path in (info.data_path, info.journal_path)}
    for path in directory.glob(f"{digest}.*"):
        if _digest_in(path) is None or path in known:
            continue
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime > max(older_than_seconds, LEFT_OVER_SECONDS):
                freed += allocated_bytes(path)
                path.unlink()
    return freed


def _digest_in(path: Path) -> str | None:
    """The digest in the name of a file of ours."""
    name = _NAME.fullmatch(path.name.removesuffix(_NEW_SUFFIX))
    return name["digest"] if name else None


def clean_partials(cache_dir: Path, *, keep: Iterable[str] = (), older_than_seconds: float = LEFT_OVER_SECONDS) -> int:
    """Delete left-over partial files of a whole cache, except of the blobs in ``keep``; return the bytes freed."""
    kept = set(keep)
    freed = 0
    for directory in sorted(cache_dir.glob("models--*/blobs")):
        for digest in {found for path in directory.iterdir() if (found := _digest_in(path))} - kept:
            freed += discard_partials(directory, digest, older_than_seconds=older_than_seconds)
    return freed
