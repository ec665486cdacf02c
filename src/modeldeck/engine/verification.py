"""Whether a file that is already in the cache is what the Hub has."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from modeldeck.engine.block_digests import hash_file
from modeldeck.engine.completion import Phase
from modeldeck.engine.resources import EngineResources
from modeldeck.engine.source import Source


class Verification:
    """Compares what the cache has of one file with its digest.

    A file is read unless that was done since it was last written: then there is a newer record of its blocks.

    Parameters
    ----------
    source
        Knows the right size and digest, as far as the listing or the Hub has said.
    always_reads
        Read the file also if there is a newer record.
    enter
        Called with the phase when reading begins and ends.

    Attributes
    ----------
    position : int
        Bytes read so far.
    actual : str or None
        The digest of the file that was read last.
    has_found_damage : bool
        Whether a file had the wrong size or digest.
    """

    def __init__(
        self, source: Source, resources: EngineResources, *, always_reads: bool, enter: Callable[[Phase], None]
    ) -> None:
        self.position = 0
        self.actual: str | None = None
        self.has_found_damage = False
        self._source = source
        self._store = resources.block_digests
        self._threads = resources.threads
        self._verifications = resources.verifications
        self._always_reads = always_reads
        self._enter = enter
        self._read: dict[tuple[object, ...], str] = {}

    async def is_sound(self, path: Path) -> bool:
        """Return whether a file of the cache has the right size and digest, as far as they are known."""
        status = await self._threads.run(path.stat)
        digest, size = self._source.digest, status.st_size
        if self._source.size not in (None, size):
            self.has_found_damage = True
            return False
        if digest is None:
            return self._source.is_resolved or not self._always_reads
        if not self._always_reads and await self._threads.run(self._was_read, digest, status):
            return True
        self.actual = await self._digest_of(path, status, digest)
        self.has_found_damage |= self.actual != digest
        return self.actual == digest

    def _was_read(self, digest: str, status: os.stat_result) -> bool:
        """Return whether a file with these bytes was verified since this one was last written, moved or linked."""
        written_at = max(status.st_mtime, status.st_ctime)
        return self._store is not None and self._store.has_since(digest, status.st_size, written_at)

    async def _digest_of(self, path: Path, status: os.stat_result, digest: str) -> str:
        """Read a file, unless this object has done so since it was written, and keep the blocks of a sound one."""
        key = (path, len(digest), status.st_ino, status.st_size, status.st_mtime_ns)
        if key in self._read:
            return self._read[key]
        self.position = 0
        self._enter(Phase.VERIFYING)
        hasher = await hash_file(path, digest, status.st_size, self._threads, on_position=self._note_position)
        actual = self._read[key] = hasher.hexdigest()
        if actual == digest and self._store is not None:
            await self._threads.run(self._store.save, digest, status.st_size, hasher.blocks)
        if actual == digest and self._verifications is not None:
            await self._threads.run(partial(self._verifications.save, path, by="download", is_valid=True))
        self._enter(Phase.RESOLVING)
        return actual

    def _note_position(self, position: int) -> None:
        self.position = position


def may_be_mended(path: Path, digest: str | None) -> bool:
    """Return whether a file belongs to this digest. A link to another blob is replaced, and that blob left alone."""
    return not path.is_symlink() or digest in (path.name, path.readlink().name)
