"""The digest of a file, computed while the file grows."""

from __future__ import annotations

import hashlib

from modeldeck._errors import StorageError
from modeldeck.engine.disk import read_at

PIECE_BYTES = 1 << 20
STEP_BYTES = 8 << 20
"""Hashed by one call on a worker thread: long enough to be cheap, short enough to stop at once."""


class FrontHasher:
    """The digest of a file's beginning, moved forward as the beginning grows.

    Parameters
    ----------
    digest
        Chooses the algorithm: git's sha1 of a blob for 40 digits, sha256 for everything else.
    size
        Bytes of the whole file, with which git's digest begins.

    Attributes
    ----------
    position : int
        Bytes hashed so far.
    """

    def __init__(self, digest: str | None, size: int | None) -> None:
        if digest is not None and len(digest) == 40 and size is not None:
            self._hash = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        else:
            self._hash = hashlib.sha256()
        self._scratch = memoryview(b"")
        self.position = 0

    def feed(self, data: memoryview) -> None:
        """Hash the next bytes."""
        self._hash.update(data)
        self.position += len(data)

    def advance(self, descriptor: int, stop: int) -> None:
        """Read the file and hash it up to ``stop``. This blocks."""
        if not self._scratch:
            self._scratch = memoryview(bytearray(PIECE_BYTES))
        while self.position < stop:
            piece = self._scratch[: min(PIECE_BYTES, stop - self.position)]
            if read_at(descriptor, piece, self.position) < len(piece):
                raise StorageError("The file became shorter while it was read. Try again.")
            self.feed(piece)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
