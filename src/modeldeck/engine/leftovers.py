"""Partial files that nobody is writing: finding them, and deleting those that are not needed any more."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modeldeck.engine.disk import allocated_bytes
from modeldeck.engine.journal import NEW_SUFFIX, PartialHeader, digest_in_name, parse_journal
from modeldeck.engine.ownership import LARGEST_JOURNAL_BYTES, abandoned_journal
from modeldeck.engine.plan import RangeSet

LEFT_OVER_SECONDS = 7 * 86_400.0
"""A partial file that was not touched for this long is deleted, unless a list of downloads still has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialInfo:
    """A partial file in a cache.

    Attributes
    ----------
    received : int
        Bytes that its journal claims.
    allocated_bytes : int
        Bytes that it takes on its disk.
    modified_at : float
        When its journal was last touched, in seconds since the epoch.
    is_owned : bool
        Whether a process is writing it.
    """

    header: PartialHeader
    data_path: Path
    journal_path: Path
    received: int
    allocated_bytes: int
    modified_at: float
    is_owned: bool


def list_partials(directory: Path, digest: str = "*") -> tuple[PartialInfo, ...]:
    """Return the partial files in a repository's ``blobs`` directory, or none if it cannot be read.

    Parameters
    ----------
    directory
        The ``blobs`` directory.
    digest
        Only those of the blob with this name.
    """
    return tuple(_scan(directory, digest))


def discard_partials(directory: Path, digest: str = "*", *, older_than_seconds: float = 0.0) -> int:
    """Delete partial files that nobody owns.

    Data files without a journal, and journals that cannot be read, are deleted once they are a week old.

    Parameters
    ----------
    directory, digest
        As for `list_partials`.
    older_than_seconds
        Keep those that were touched since.

    Returns
    -------
    int
        Bytes freed.
    """
    freed = 0
    now = time.time()
    for info in list_partials(directory, digest):
        if info.is_owned or now - info.modified_at < older_than_seconds:
            continue
        with abandoned_journal(info.journal_path) as journal:
            if journal is None:
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


def clean_partials(cache_dir: Path, *, keep: Iterable[str] = (), older_than_seconds: float = LEFT_OVER_SECONDS) -> int:
    """Delete the partial files of a whole cache that nobody has touched for a while.

    Parameters
    ----------
    cache_dir
        The Hugging Face cache.
    keep
        Names of blobs whose partial files stay.
    older_than_seconds
        Keep those that were touched since.

    Returns
    -------
    int
        Bytes freed.
    """
    kept = set(keep)
    freed = 0
    for directory in sorted(cache_dir.glob("models--*/blobs")):
        for digest in {found for path in directory.iterdir() if (found := _digest_in(path))} - kept:
            freed += discard_partials(directory, digest, older_than_seconds=older_than_seconds)
    return freed


def _scan(directory: Path, digest: str) -> Iterator[PartialInfo]:
    try:
        paths = sorted(directory.glob(f"{digest}.*.journal"))
    except OSError:
        return
    for path in paths:
        found = digest_in_name(path.name)
        try:
            status = path.stat()
            content = path.read_bytes() if found and status.st_size <= LARGEST_JOURNAL_BYTES else b""
        except OSError:
            continue
        journal = parse_journal(content, found) if found else None
        if journal is None:
            continue
        data_path = directory / journal.data
        with abandoned_journal(path) as abandoned:
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


def _digest_in(path: Path) -> str | None:
    """Return the digest in the name of a file of ours, a journal that is being written included."""
    return digest_in_name(path.name.removesuffix(NEW_SUFFIX))
