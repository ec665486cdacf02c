"""The Hugging Face cache: its layout, its models, and how a verified file is published and removed.

::

    HF_HUB_CACHE/CACHEDIR.TAG
    HF_HUB_CACHE/.locks/models--owner--name/<sha256>.lock
    HF_HUB_CACHE/models--owner--name/
        blobs/<sha256>                               the bytes; <sha256>.<id>.part while they are downloaded
        snapshots/<commit>/<path> -> ../../blobs/…   relative, one more ../ for each folder in path
        refs/<revision>                              the 40 digits of a commit, without a newline

Every reader trusts these names without looking at the bytes, so an unverified file must never have one. All functions
are synchronous and raise only ``ModelDeckError``; callers on an event loop run them in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from modeldeck._errors import InvalidRequestError, StorageError
from modeldeck._files import replace_file
from modeldeck.hub.errors import error_from_os_error
from modeldeck.hub.urls import (
    check_blob_name,
    check_filename,
    check_repo_id,
    check_revision,
    is_commit_hash,
    is_sha256,
)

_TEMPORARY_SUFFIX = ".tmp"
_LEFT_BEHIND_SECONDS = 86_400.0
_LOCK_WAIT_SECONDS = 5.0
"""huggingface_hub holds its lock for a whole download. A longer wait gains nothing: publishing is safe without it."""
_LOCK_MODE = 0o664
_CACHEDIR_TAG = """\
Signature: 8a477f597d28d172789f06886806bc55
# This file is a cache directory tag created by huggingface_hub.
# For information about cache directory tags, see:
#\thttps://bford.info/cachedir/
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedFile:
    """A file of a snapshot. ``path`` is in the snapshot; ``blob_path`` is its link's target, or ``path`` without links.

    ``sha256`` is the blob's name, which any tool may have written. ``revisions`` are the refs that mean this commit.
    ``is_linked`` says that it is a link into the repository's ``blobs/``, as downloads leave it where links exist.
    """

    repo_id: str
    commit_hash: str
    revisions: tuple[str, ...]
    filename: str
    path: Path
    blob_path: Path
    size: int
    sha256: str | None
    is_linked: bool


def check_encodable(name: str) -> str:
    """Return a name or path that can be one of a file in this process.

    Raises
    ------
    StorageError
        If this Python reads file names in an encoding without some of its characters.
    """
    try:
        name.encode()  # fails for what Python could not decode
        os.fsencode(name)
    except UnicodeEncodeError:
        raise StorageError(
            f"{name!a} cannot be the name of a file here, because this Python reads names as "
            f"{sys.getfilesystemencoding()}. Set PYTHONUTF8=1 or a UTF-8 locale such as LC_ALL=C.UTF-8, then restart."
        ) from None
    return name


# --- the layout -------------------------------------------------------------------------------------------------------


def repo_dir(cache_dir: Path, repo_id: str) -> Path:
    return cache_dir / _folder_name(repo_id)


def blob_path(cache_dir: Path, repo_id: str, etag: str) -> Path:
    """Return the final place of a file's bytes. ``etag`` is the sha256, or git's sha1 for a file outside git-lfs."""
    return repo_dir(cache_dir, repo_id) / "blobs" / check_blob_name(etag)


def snapshot_path(cache_dir: Path, repo_id: str, commit_hash: str, filename: str) -> Path:
    """Return the path at which users and other libraries find a file."""
    snapshot = repo_dir(cache_dir, repo_id) / "snapshots" / _check_commit_hash(commit_hash)
    return snapshot / check_encodable(check_filename(filename))


def ref_path(cache_dir: Path, repo_id: str, revision: str) -> Path:
    return repo_dir(cache_dir, repo_id) / "refs" / check_revision(revision)


def lock_path(cache_dir: Path, repo_id: str, etag: str) -> Path:
    """Return the path of the lock that huggingface_hub itself takes for this blob."""
    return cache_dir / ".locks" / _folder_name(repo_id) / f"{check_blob_name(etag)}.lock"


def _folder_name(repo_id: str) -> str:
    return "--".join(("models", *check_repo_id(repo_id).split("/")))


def _check_commit_hash(commit_hash: str) -> str:
    if not is_commit_hash(commit_hash):
        raise InvalidRequestError(f"{commit_hash!r} is not a commit hash. A commit hash has 40 digits from 0 to f.")
    return commit_hash


# --- reading ----------------------------------------------------------------------------------------------------------


def read_ref(cache_dir: Path, repo_id: str, revision: str) -> str | None:
    """Return the commit that a revision meant when it was last seen. A commit hash means itself."""
    if is_commit_hash(revision):
        return revision
    return _read_ref_file(ref_path(cache_dir, repo_id, revision))


def find_snapshot_file(cache_dir: Path, repo_id: str, revision: str, filename: str) -> Path | None:
    """Return the path of a file at a revision, or ``None`` when the cache does not have it or only a broken link."""
    commit_hash = read_ref(cache_dir, repo_id, revision)
    if commit_hash is None:
        return None
    path = snapshot_path(cache_dir, repo_id, commit_hash, filename)
    return path if path.is_file() else None


def is_writable(cache_dir: Path, repo_id: str) -> bool:
    """Return whether this user may add files to a repository of the cache, as far as its directories tell."""
    repository = repo_dir(cache_dir, repo_id)
    folders = (repository / "blobs", repository / "snapshots")
    by_effective_ids = os.access in os.supports_effective_ids
    return all(os.access(folder, os.W_OK, effective_ids=by_effective_ids) for folder in folders if folder.is_dir())


def read_range(cache_dir: Path, repo_id: str, commit_hash: str, filename: str, start: int, stop: int) -> bytes:
    """Return the bytes ``start`` to ``stop`` (exclusive) of a file, fewer only where the file ends."""
    with _storage_errors(), snapshot_path(cache_dir, repo_id, commit_hash, filename).open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


def list_models(cache_dir: Path, repo_ids: Collection[str] | None = None) -> tuple[CachedFile, ...]:
    """Return every GGUF file of every snapshot, sorted. Unreadable files and names that no Hub gives are skipped.

    With ``repo_ids``, only these repositories are read; upper and lower case are the same in their names.
    """
    wanted = None if repo_ids is None else {repo_id.lower() for repo_id in repo_ids}
    files: list[CachedFile] = []
    for repository in _entries(cache_dir):
        prefix, _, name = repository.name.partition("--")
        repo_id = name.replace("--", "/")
        if prefix != "models" or not _is_usable(check_repo_id, repo_id) or _folder_name(repo_id) != repository.name:
            continue
        if wanted is not None and repo_id.lower() not in wanted:
            continue
        revisions = _revisions_by_commit(repository)
        for snapshot in _entries(repository / "snapshots"):
            if is_commit_hash(snapshot.name):
                files += _gguf_files(repo_id, snapshot, revisions.get(snapshot.name, ()))
    return tuple(sorted(files, key=lambda file: (file.repo_id, file.commit_hash, file.filename)))


def list_snapshot(cache_dir: Path, repo_id: str, commit_hash: str) -> tuple[CachedFile, ...]:
    """Return the GGUF files of one snapshot, sorted."""
    repository = repo_dir(cache_dir, repo_id)
    snapshot = repository / "snapshots" / _check_commit_hash(commit_hash)
    revisions = _revisions_by_commit(repository).get(commit_hash, ())
    return tuple(sorted(_gguf_files(repo_id, snapshot, revisions), key=lambda file: file.filename))


def list_unlinked_blobs(blobs: Path) -> tuple[Path, ...]:
    """Return the complete files in a repository's ``blobs`` directory that no snapshot links to, sorted."""
    linked = {_first_hop(path).name for path in _files_below(blobs.parent / "snapshots") if path.is_symlink()}
    try:
        names = sorted(path.name for path in blobs.iterdir() if _is_usable(check_blob_name, path.name))
    except OSError:
        return ()
    return tuple(blobs / name for name in names if name not in linked)


def same_place(path: Path) -> Path:
    """Return a path with the links among its folders followed, so that two ways to one entry are equal."""
    return _place(path.absolute())


def _gguf_files(repo_id: str, snapshot: Path, revisions: tuple[str, ...]) -> Iterator[CachedFile]:
    blobs = (snapshot.parent.parent / "blobs").resolve()
    for path in _files_below(snapshot):
        filename = path.relative_to(snapshot).as_posix()
        if path.suffix.lower() != ".gguf" or not _is_usable(check_filename, filename):
            continue
        try:
            status = path.stat()
        except OSError:
            continue
        if not stat.S_ISREG(status.st_mode):
            continue
        blob = _first_hop(path)
        yield CachedFile(
            repo_id=repo_id,
            commit_hash=snapshot.name,
            revisions=revisions,
            filename=filename,
            path=path,
            blob_path=blob,
            size=status.st_size,
            sha256=blob.name if is_sha256(blob.name) else None,
            is_linked=blob != path and blob.parent == blobs,
        )


def _revisions_by_commit(repository: Path) -> dict[str, tuple[str, ...]]:
    refs = repository / "refs"
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted(_files_below(refs)):
        commit_hash = _read_ref_file(path)
        if commit_hash is not None:
            found[commit_hash] = (*found.get(commit_hash, ()), path.relative_to(refs).as_posix())
    return found


def _read_ref_file(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            text = file.read(64).decode("ascii", "replace").strip()
    except OSError:
        return None
    return text if is_commit_hash(text) else None


def _first_hop(path: Path) -> Path:
    """Return the direct target of a link. That blob may itself be a link, into the store that repositories share."""
    if path.is_symlink():
        with contextlib.suppress(FileNotFoundError):  # it was removed just now
            return _place(path.parent / os.readlink(path))
    return path


def _place(path: Path) -> Path:
    """Return the path with its folders resolved but not its last part, so that two paths of one entry are equal."""
    return path.parent.resolve() / path.name


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.is_dir())
    except OSError:
        return []


def _files_below(directory: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(directory):
        for name in names:
            yield Path(folder, name)


def _is_usable(check: Callable[[str], str], name: str) -> bool:
    try:
        check(name)
    except InvalidRequestError:
        return False
    return True


# --- publishing -------------------------------------------------------------------------------------------------------


def prepare_repo(cache_dir: Path, repo_id: str) -> None:
    """Create the folders that a partial file needs, so that the cache is sound from the first byte on."""
    repository = repo_dir(cache_dir, repo_id)
    with _storage_errors():
        for name in ("blobs", "snapshots"):
            (repository / name).mkdir(parents=True, exist_ok=True)
        _sweep(repository / "blobs")
        if _knows_the_tag():
            with contextlib.suppress(FileExistsError), (cache_dir / "CACHEDIR.TAG").open("x") as tag:
                tag.write(_CACHEDIR_TAG)


@functools.cache
def _knows_the_tag() -> bool:
    """Whether the installed huggingface_hub writes the tag itself. An older one takes it for a damaged repository."""
    from importlib.metadata import version  # here, because its import takes long, and only an engine writes the tag

    major, minor = version("huggingface_hub").split(".")[:2]
    return (int(major), int(minor)) >= (1, 9)


def publish_blob(cache_dir: Path, *, repo_id: str, commit_hash: str, filename: str, etag: str, verified: Path) -> Path:
    """Give a verified file its final name and link it, in an order that leaves a sound cache after any crash.

    Parameters
    ----------
    etag
        The sha256 that the bytes were checked against (git's sha1 for a file outside git-lfs).
    verified
        The complete, checked file in ``blobs/``, so that the rename stays on one disk. It is gone afterwards.

    Returns
    -------
    Path
        The file in its snapshot.
    """
    blob = blob_path(cache_dir, repo_id, etag)
    prepare_repo(cache_dir, repo_id)
    with _storage_errors(), _publishing_lock(cache_dir, repo_id, etag):
        _sync(verified)
        _chmod_by_umask(verified)
        if _is_shared(blob, size=verified.stat().st_size):
            verified.unlink()
        else:
            os.replace(verified, blob)
        _sync(blob.parent)
        return _link(cache_dir, repo_id, commit_hash, filename, blob, is_new=True)


def link_blob(cache_dir: Path, *, repo_id: str, commit_hash: str, filename: str, etag: str) -> Path:
    """Link a blob of the cache into one more snapshot, and return the path of the file there."""
    blob = blob_path(cache_dir, repo_id, etag)
    prepare_repo(cache_dir, repo_id)
    with _storage_errors(), _publishing_lock(cache_dir, repo_id, etag):
        return _link(cache_dir, repo_id, commit_hash, filename, blob, is_new=False)


def write_ref(cache_dir: Path, repo_id: str, revision: str, commit_hash: str) -> None:
    """Store the commit that a revision means. For a commit hash there is nothing to store.

    The snapshot must exist: huggingface_hub reports a repository with a ref to a missing one as corrupted.
    """
    if revision == _check_commit_hash(commit_hash):
        return
    path = ref_path(cache_dir, repo_id, revision)
    with _storage_errors():
        if path.is_file() and path.read_bytes() == commit_hash.encode():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, commit_hash.encode(), is_durable=True, draft=_temporary_path(cache_dir, repo_id))
        _sync(path.parent)


def _link(cache_dir: Path, repo_id: str, commit_hash: str, filename: str, blob: Path, *, is_new: bool) -> Path:
    path = snapshot_path(cache_dir, repo_id, commit_hash, filename)
    path.parent.mkdir(parents=True, exist_ok=True)
    target = os.path.relpath(blob, path.parent)
    if not (path.is_symlink() and os.readlink(path) == target):
        link = _temporary_path(cache_dir, repo_id)
        try:
            if _make_symlink(target, link):
                os.replace(link, path)
            elif is_new and not blob.is_symlink() and not any(_links_to(blob, repo_dir(cache_dir, repo_id))):
                os.replace(blob, path)
            else:
                shutil.copyfile(blob, link)
                _sync(link)
                os.replace(link, path)
        finally:
            link.unlink(missing_ok=True)
        _sync(path.parent)
    return path


def _temporary_path(cache_dir: Path, repo_id: str) -> Path:
    """Return a temporary name in ``blobs/``, where readers skip unknown names.

    In ``snapshots/`` or ``refs/`` they would take what a crash leaves for a file of the repository.
    """
    return repo_dir(cache_dir, repo_id) / "blobs" / f"{uuid4().hex}{_TEMPORARY_SUFFIX}"


def _sweep(blobs: Path) -> None:
    """Remove temporary files of publishing that are a day old: a crash or power failure left them.

    Nothing depends on it. In a folder with the sticky bit, those of other users cannot be removed.
    """
    for path in blobs.glob(f"{'[0-9a-f]' * 32}{_TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > _LEFT_BEHIND_SECONDS:
                path.unlink()


def _make_symlink(target: str, link: Path) -> bool:
    """Create a symlink and return whether that worked. Windows and some filesystems have no symlinks."""
    from huggingface_hub import constants

    if getattr(constants, "HF_HUB_DISABLE_SYMLINKS", False):
        return False
    try:
        os.symlink(target, link)
    except (OSError, NotImplementedError):
        return False
    return True


def _is_shared(blob: Path, *, size: int) -> bool:
    """Return whether the blob is huggingface_hub's link into its shared store and leads to this many bytes."""
    try:
        return blob.is_symlink() and blob.stat().st_size == size
    except OSError:
        return False


@contextmanager
def _publishing_lock(cache_dir: Path, repo_id: str, etag: str) -> Iterator[None]:
    """Hold huggingface_hub's own lock if it can be acquired soon.

    Every step below is safe without it, because some network filesystems grant it to everyone, and a call of
    hf_hub_download elsewhere must never wait long for it.
    """
    from filelock import FileLock  # here, because only the engine publishes

    path = lock_path(cache_dir, repo_id, etag)
    lock = None
    with contextlib.suppress(OSError, NotImplementedError):
        path.parent.mkdir(parents=True, exist_ok=True)
        candidate = FileLock(path, mode=_LOCK_MODE)
        candidate.acquire(timeout=_LOCK_WAIT_SECONDS)
        lock = candidate
    try:
        yield
    finally:
        if lock is not None:
            with contextlib.suppress(OSError):
                lock.release()


# --- removing ---------------------------------------------------------------------------------------------------------


def remove(cache_dir: Path, *, repo_id: str, commit_hash: str, filenames: Iterable[str]) -> int:
    """Remove files from a snapshot, and their bytes unless another snapshot has them.

    An empty snapshot is removed with its refs, and an empty repository with its folder. Partial files of running
    downloads stay.

    Returns
    -------
    int
        Bytes freed on the disk.
    """
    repository = repo_dir(cache_dir, repo_id)
    paths = [snapshot_path(cache_dir, repo_id, commit_hash, filename) for filename in filenames]
    with _storage_errors():
        if not all(path.parent.resolve().is_relative_to((repository / "snapshots").resolve()) for path in paths):
            raise StorageError(
                "A folder in this snapshot links outside the cache. Nothing was removed; check it manually."
            )
        freed = sum(_remove_file(cache_dir, repo_id, path) for path in paths)
        _remove_empty_snapshot(repository, commit_hash)
        _remove_empty_repository(repository)
    return freed


def _remove_file(cache_dir: Path, repo_id: str, path: Path) -> int:
    """Remove a file of a snapshot, which another process may be removing too."""
    repository = repo_dir(cache_dir, repo_id)
    if not path.is_symlink():
        freed = _size_of(path)
        path.unlink(missing_ok=True)
        return freed
    blob = _first_hop(path)
    if blob.parent != (repository / "blobs").resolve() or not _is_usable(check_blob_name, blob.name):
        path.unlink(missing_ok=True)
        return 0
    with _publishing_lock(cache_dir, repo_id, blob.name):  # no new link to the blob between the check and the removal
        if any(link != path for link in _links_to(blob, repository)):
            path.unlink(missing_ok=True)
            return 0
        if blob.is_symlink():
            return _remove_shared(cache_dir, path, blob)
        path.unlink(missing_ok=True)
        freed = _size_of(blob)
        blob.unlink(missing_ok=True)
        return freed


def remove_unlinked_blob(cache_dir: Path, repo_id: str, blob: Path) -> int:
    """Remove a complete file in ``blobs/`` unless a snapshot links to it by now, and return the bytes freed."""
    with _storage_errors(), _publishing_lock(cache_dir, repo_id, blob.name):
        if any(_links_to(blob, repo_dir(cache_dir, repo_id))):
            return 0
        freed = 0 if blob.is_symlink() else _size_of(blob)  # what the shared store has may be another repository's
        blob.unlink(missing_ok=True)
        return freed


def _size_of(path: Path) -> int:
    """Return the size of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _remove_shared(cache_dir: Path, path: Path, blob: Path) -> int:
    """Remove a link into huggingface_hub's shared store. Only its own code knows whether another repository uses the
    bytes."""
    from huggingface_hub import scan_cache_dir

    payload, size = blob.resolve(), _size_of(blob)
    info = scan_cache_dir(cache_dir)
    if hasattr(info, "delete_files"):
        own = [file for repo in info.repos for revision in repo.revisions for file in revision.files]
        info.delete_files(*(file for file in own if file.file_path == path.parent.resolve() / path.name)).execute()
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)
    return 0 if payload.exists() else size


def _links_to(blob: Path, repository: Path) -> Iterator[Path]:
    blob = _place(blob)
    for path in _files_below(repository / "snapshots"):
        if path.is_symlink() and _first_hop(path) == blob:
            yield path


def _remove_empty_snapshot(repository: Path, commit_hash: str) -> None:
    snapshot = repository / "snapshots" / commit_hash
    if not snapshot.is_dir() or any(_files_below(snapshot)):
        return
    for path in list(_files_below(repository / "refs")):
        if _read_ref_file(path) == commit_hash:  # first, because a ref without its snapshot counts as corruption
            path.unlink(missing_ok=True)
    (repository / "trees" / f"{commit_hash}.json").unlink(missing_ok=True)
    shutil.rmtree(repository / ".no_exist" / commit_hash, ignore_errors=True)
    _remove_empty_folders(snapshot)


def _remove_empty_repository(repository: Path) -> None:
    if any(_files_below(repository)):
        return
    for folder in (*_entries(repository), repository):
        if folder.name != "snapshots":
            _remove_empty_folders(folder)


def _remove_empty_folders(top: Path) -> None:
    """Remove a folder and the folders in it while they are empty. Links to folders elsewhere are not followed."""
    if top.is_symlink():
        return
    for folder, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


# --- the disk ---------------------------------------------------------------------------------------------------------


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise error_from_os_error(error) from error


def _chmod_by_umask(path: Path) -> None:
    """Set the permissions of any new file here. They are read from one, because reading the umask means setting it."""
    probe = path.with_name(f"{uuid4().hex}{_TEMPORARY_SUFFIX}")
    try:
        probe.touch(exist_ok=False)
        mode = stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink(missing_ok=True)
    with contextlib.suppress(PermissionError):  # some filesystems have no permissions
        path.chmod(mode)


def _sync(path: Path) -> None:
    """Flush a file's bytes, or a directory's entries, to the disk."""
    is_directory = path.is_dir()
    if is_directory and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if is_directory else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (is_directory and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)
