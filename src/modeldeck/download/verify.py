"""Digests: of a file while it comes, and of files that are there."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from modeldeck._errors import DownloadCancelledError, StorageError
from modeldeck._types import VerifiedFile
from modeldeck.download.partial import read_at
from modeldeck.hub.errors import error_from_os_error

PIECE_BYTES = 1 << 20
STEP_BYTES = 8 << 20
"""Hashed in one go on a worker thread: long enough to be cheap, short enough to stop at once."""


class FrontHasher:
    """The digest of a file's beginning, moved forward as the beginning grows.

    Parameters
    ----------
    digest
        Chooses the kind: git's sha1 of a blob for 40 digits, sha256 for everything else.
    size
        Of the whole file; git's digest begins with it.
    """

    def __init__(self, digest: str | None, size: int | None) -> None:
        if digest is not None and len(digest) == 40 and size is not None:
            self._hash = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        else:
            self._hash = hashlib.sha256()
        self._scratch = memoryview(bytearray(PIECE_BYTES))
        self.position = 0

    def feed(self, data: memoryview) -> None:
        self._hash.update(data)
        self.position += len(data)

    def advance(self, descriptor: int, stop: int) -> None:
        """Read and hash up to ``stop``. Blocks."""
        while self.position < stop:
            piece = self._scratch[: min(PIECE_BYTES, stop - self.position)]
            if read_at(descriptor, piece, self.position) < len(piece):
                raise StorageError("The file became shorter while it was read. Try again.")
            self.feed(piece)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def verify_files(
    expected: Iterable[tuple[Path, str | None]],
    *,
    progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> tuple[VerifiedFile, ...]:
    """Hash files and compare. Blocks; call it on a worker thread.

    Parameters
    ----------
    expected
        Paths, each with its sha256 (or git's sha1 of 40 digits), or ``None`` where none is known.
    progress
        Called with the bytes hashed so far and the bytes of all files.
    cancel
        Set it to stop.

    Raises
    ------
    DownloadCancelledError, StorageError
    """
    wanted = list(expected)
    outcome = []
    done = 0
    try:
        sizes = [path.stat().st_size for path, _ in wanted]
        for (path, digest), size in zip(wanted, sizes, strict=True):
            hasher = FrontHasher(digest, size)
            with path.open("rb", buffering=0) as file:
                while hasher.position < size:
                    if cancel is not None and cancel.is_set():
                        raise DownloadCancelledError("The check was cancelled. Nothing was changed.")
                    before = hasher.position
                    hasher.advance(file.fileno(), min(size, before + STEP_BYTES))
                    done += hasher.position - before
                    if progress is not None:
                        progress(done, sum(sizes))
            outcome.append(VerifiedFile(path=path, expected=digest, actual=hasher.hexdigest()))
    except OSError as exc:
        raise error_from_os_error(exc) from exc
    return tuple(outcome)
