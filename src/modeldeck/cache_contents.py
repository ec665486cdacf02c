"""What the cache holds, whoever put it there: models with their use and proof, leftovers, and the room on its disk."""

from __future__ import annotations

import contextlib
import glob
import re
import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from modeldeck._files import nearest_existing
from modeldeck._types import LocalModel
from modeldeck.engine.leftovers import discard_partials, list_partials
from modeldeck.engine.verification_store import VerificationRecord, VerificationStore, VerifiedBy
from modeldeck.hub.cache import (
    CachedFile,
    list_models,
    list_unlinked_blobs,
    remove,
    remove_unlinked_blob,
    repo_dir,
)
from modeldeck.hub.errors import error_from_os_error
from modeldeck.library import group_local, list_fragments, paths_by_name

LeftoverKind: TypeAlias = Literal["partial", "incomplete", "unlinked", "fragment"]

_INCOMPLETE = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64})(\.[0-9a-f]+)?\.incomplete")
_IN_USE_SECONDS = 3600.0
"""What another program touched within this time may still be in its hands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlob:
    """The bytes of one file on the disk.

    Attributes
    ----------
    key : str
        Tells one blob from another.
    size : int
        Size in bytes.
    users : int
        How many models, and files that belong to no model, need it. Its bytes come free when the last one goes.
    """

    key: str
    size: int
    users: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The last comparison of a model's files with their digests.

    Attributes
    ----------
    at : float
        Time of the oldest one, in seconds since the epoch.
    by : {"download", "repair", "verify"}
        What compared them.
    is_valid : bool
        Whether all files were what the Hub has.
    """

    at: float
    by: VerifiedBy
    is_valid: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A complete model of the cache with what is known of its files.

    Attributes
    ----------
    model : LocalModel
        The model.
    blobs : tuple[StoredBlob, ...]
        Its bytes on the disk, without the user's own files, which are never removed.
    last_used : float or None
        When it was last read, in seconds since the epoch, as far as the disk keeps that.
    proof : Proof or None
        Whether its files are what the Hub has; ``None`` when they were not compared, as after another program's
        download.
    """

    model: LocalModel
    blobs: tuple[StoredBlob, ...]
    last_used: float | None
    proof: Proof | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A file of the cache that is of no use as it is.

    Attributes
    ----------
    path : Path
        The file.
    repo_id : str
        ``"owner/name"``.
    kind : {"partial", "incomplete", "unlinked", "fragment"}
        A partial file of modeldeck, one of huggingface_hub, bytes that no revision refers to, or a part of a split
        model whose other parts are missing.
    name : str
        The name of the file in its repository, or of its bytes where that is not known.
    size : int
        Bytes on the disk.
    modified_at : float
        When it was last written, in seconds since the epoch.
    is_in_use : bool
        Whether a download needs it, or another program may be writing it.
    """

    path: Path
    repo_id: str
    kind: LeftoverKind
    name: str
    size: int
    modified_at: float
    is_in_use: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheContents:
    """What the cache holds.

    Attributes
    ----------
    models : tuple[StoredModel, ...]
        The complete models.
    leftovers : tuple[Leftover, ...]
        What is of no use as it is.
    free_bytes : int or None
        Room that is left on the cache's disk.
    total_bytes : int or None
        Size of that disk.
    """

    models: tuple[StoredModel, ...] = ()
    leftovers: tuple[Leftover, ...] = ()
    free_bytes: int | None = None
    total_bytes: int | None = None


def read_contents(
    cache_dir: Path, *, verifications: VerificationStore | None, wanted: Collection[str] = ()
) -> CacheContents:
    """Look at a cache. This blocks, and reads no file's content.

    Parameters
    ----------
    cache_dir
        The Hugging Face cache.
    verifications
        The records of this cache.
    wanted
        Names of blobs that unfinished downloads go on with.
    """
    files = list_models(cache_dir)
    models = group_local(files)
    usage = None
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(nearest_existing(cache_dir))
    return CacheContents(
        models=tuple(_stored_models(files, models, verifications)),
        leftovers=tuple(sorted(_leftovers(cache_dir, files, wanted), key=lambda left: (left.repo_id, left.name))),
        free_bytes=None if usage is None else usage.free,
        total_bytes=None if usage is None else usage.total,
    )


def remove_leftovers(cache_dir: Path, leftovers: Iterable[Leftover], *, wanted: Collection[str] = ()) -> int:
    """Delete leftovers that nobody uses, and return the bytes that came free. This blocks.

    Before each one is deleted, its repository is looked at again, because it may have come into use since.

    Parameters
    ----------
    cache_dir
        The Hugging Face cache.
    leftovers
        What `read_contents` has found.
    wanted
        As for `read_contents`, as it is now.

    Raises
    ------
    StorageError
        When a file cannot be deleted.
    """
    return sum(_remove_leftover(cache_dir, leftover, wanted) for leftover in leftovers)


def _remove_leftover(cache_dir: Path, leftover: Leftover, wanted: Collection[str]) -> int:
    repo_id, path = leftover.repo_id, leftover.path
    files = list_models(cache_dir, (repo_id,))
    now = next((left for left in _leftovers(cache_dir, files, wanted, repo_id) if left.path == path), None)
    if now is None or now.is_in_use:
        return 0
    try:
        match now.kind:
            case "partial":
                return discard_partials(path.parent, path.name.partition(".")[0])
            case "fragment":
                commit_hash, *parts = path.relative_to(repo_dir(cache_dir, repo_id) / "snapshots").parts
                return remove(cache_dir, repo_id=repo_id, commit_hash=commit_hash, filenames=["/".join(parts)])
            case "unlinked":
                return remove_unlinked_blob(cache_dir, repo_id, path)
            case "incomplete":
                path.unlink(missing_ok=True)
                return now.size
    except OSError as error:
        raise error_from_os_error(error) from error


def _stored_models(
    files: Iterable[CachedFile], models: list[LocalModel], verifications: VerificationStore | None
) -> Iterator[StoredModel]:
    by_path = {file.path: file for file in files}
    needs = [
        {
            str(by_path[path].blob_path): by_path[path].size
            for name, path in paths_by_name(model).items()
            if name not in model.own_filenames
        }
        for model in models
    ]
    in_models = {path for model in models for path in (*model.paths, *model.sidecar_paths)}
    users = Counter(key for need in needs for key in need)
    users.update(str(file.blob_path) for path, file in by_path.items() if path not in in_models)
    for model, need in zip(models, needs, strict=True):
        yield StoredModel(
            model=model,
            blobs=tuple(StoredBlob(key=Path(key).name, size=size, users=users[key]) for key, size in need.items()),
            last_used=max(filter(None, map(_read_at, model.paths)), default=None),
            proof=_proof(model, verifications),
        )


def _proof(model: LocalModel, verifications: VerificationStore | None) -> Proof | None:
    """What the records say of all files together, those that the user put there left out."""
    if verifications is None:
        return None
    records: list[VerificationRecord] = []
    for name, path in paths_by_name(model).items():
        if name in model.own_filenames:
            continue
        record = verifications.find(path)
        if record is not None and not record.is_valid:
            return Proof(at=record.at, by=record.by, is_valid=False)
        if record is None:
            return None
        records.append(record)
    oldest = min(records, key=lambda record: record.at, default=None)
    return None if oldest is None else Proof(at=oldest.at, by=oldest.by, is_valid=True)


def _leftovers(
    cache_dir: Path, files: Iterable[CachedFile], wanted: Collection[str], only_repo_id: str | None = None
) -> Iterator[Leftover]:
    now = time.time()
    for file in list_fragments(files):
        yield Leftover(
            path=file.path,
            repo_id=file.repo_id,
            kind="fragment",
            name=file.filename,
            size=file.size,
            modified_at=_modified_at(file.path),
            is_in_use=file.blob_path.name in wanted or now - _modified_at(file.path) < _IN_USE_SECONDS,
        )
    pattern = "models--*" if only_repo_id is None else glob.escape(repo_dir(cache_dir, only_repo_id).name)
    for blobs in sorted(cache_dir.glob(f"{pattern}/blobs")):
        repo_id = blobs.parent.name.removeprefix("models--").replace("--", "/")
        for info in list_partials(blobs):
            yield Leftover(
                path=info.data_path,
                repo_id=repo_id,
                kind="partial",
                name=info.header.filename,
                size=info.allocated_bytes,
                modified_at=info.modified_at,
                is_in_use=info.is_owned or info.header.digest in wanted,
            )
        for path in sorted(blobs.glob("*.incomplete")):
            if _INCOMPLETE.fullmatch(path.name):
                yield _foreign(path, repo_id, "incomplete", now)
        for path in list_unlinked_blobs(blobs):
            yield _foreign(path, repo_id, "unlinked", now)


def _foreign(path: Path, repo_id: str, kind: LeftoverKind, now: float) -> Leftover:
    modified_at = _modified_at(path)
    size = 0
    with contextlib.suppress(OSError):
        size = path.stat().st_size
    return Leftover(
        path=path,
        repo_id=repo_id,
        kind=kind,
        name=path.name,
        size=size,
        modified_at=modified_at,
        is_in_use=now - modified_at < _IN_USE_SECONDS,
    )


def _modified_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read_at(path: Path) -> float | None:
    try:
        return path.stat().st_atime
    except OSError:
        return None
