"""Paths and small files: where a path will be made, and `replace_file`, which writes every small file that is kept."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

DRAFT_SUFFIX = ".new"


def replace_file(
    path: Path, content: bytes, *, mode: int = 0o666, is_durable: bool = False, draft: Path | None = None
) -> None:
    """Write ``content`` beside ``path`` and rename it there, so that a reader sees the old content or the new one.

    Two processes may replace the same file at once; the later one wins. The directory must exist.

    Parameters
    ----------
    path
        The file to create or replace. A symlink is replaced, not followed.
    content
        All of the file's bytes.
    mode
        Permissions of the file, less the umask. Pass 0o600 for what only the user may read.
    is_durable
        Bring the content to the disk before the rename, so that a power cut cannot leave an empty file. The rename
        itself is durable once the caller has synced the directory.
    draft
        Where to write first; it must not exist, and must be on the same filesystem. By default it is a file with a
        random name, ``<name>.<8 hex digits>.new``, in the same directory. A process that is killed while it writes
        leaves it there.

    Raises
    ------
    OSError
        If the file cannot be written. Then the old content is still there, and the draft is not.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as directory:
    ...     replace_file(Path(directory, "settings.json"), b"{}", mode=0o600)
    ...     os.listdir(directory)
    ['settings.json']
    """
    if draft is None:
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}{DRAFT_SUFFIX}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if is_durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def nearest_existing(path: Path) -> Path:
    """Return the resolved path, or its nearest parent that this user can see."""
    path = Path(os.path.realpath(path))  # pathlib's resolve and exists raise for what may not be looked at
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return path
