"""Whether the files of a model in the cache are what the Hub has, and the request that repairs those that are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from modeldeck._errors import HubError, ModelDeckError, NetworkError
from modeldeck._types import DownloadRequest, DownloadSnapshot, GGUFFile, LocalModel, VerifiedFile
from modeldeck.engine.block_digests import BlockDigestStore, hash_file
from modeldeck.engine.threads import DiskThreads
from modeldeck.engine.verification_store import VerificationStore
from modeldeck.hub.errors import error_from_os_error
from modeldeck.hub.urls import is_commit_hash, is_sha256

if TYPE_CHECKING:
    from modeldeck.hub.client import HubClient

Progress = Callable[[int, int], object]


async def verify_files(
    model: LocalModel,
    *,
    hub: Callable[[], HubClient],
    on_refusal: Callable[[str, ModelDeckError], object] | None = None,
    progress: Progress | None = None,
    blocks_dir: Path | None = None,
    verified_dir: Path | None = None,
) -> tuple[VerifiedFile, ...]:
    """Hash a model's files, whichever program downloaded them, and compare the digests with the right ones.

    A blob's name is its digest, so the Hub is asked only about files with other names of which the model does not tell
    the digest either. The call may be cancelled at any time.

    Parameters
    ----------
    model
        The model in the cache.
    hub
        Makes the client to ask for digests, which may fail.
    on_refusal
        Called with the name of a file whose digest the Hub does not tell, and why. Its ``expected`` is ``None`` then.
        Without it, the error is raised.
    progress
        Called with the bytes hashed so far and the bytes of all files.
    blocks_dir
        Where to keep the block digests of the files that are right, so that a later repair fetches bad blocks only.
    verified_dir
        Where to note which files were compared, and whether they are right.

    Returns
    -------
    tuple of VerifiedFile
        One for each of the model's ``filenames``.

    Raises
    ------
    ModelDeckError
        If a file cannot be read, or the Hub cannot be asked.
    """
    store = BlockDigestStore(blocks_dir) if blocks_dir is not None else None
    verifications = VerificationStore(verified_dir) if verified_dir is not None else None
    threads = DiskThreads()
    try:
        sizes = [await threads.run(_size_of, path) for path in _paths(model)]
        outcome = []
        digests = model.sha256s or (None,) * len(sizes)
        for index, (filename, path) in enumerate(zip(model.filenames, _paths(model), strict=True)):
            before = sum(sizes[:index])
            expected = await threads.run(_digest_in_name, path) or digests[index]
            if expected is None:
                try:
                    resolved = await hub().resolve(model.repo_id, model.commit_hash, filename)
                    expected = resolved.sha256 or (resolved.etag if is_commit_hash(resolved.etag) else None)
                except (HubError, NetworkError) as error:
                    if on_refusal is None:
                        raise
                    on_refusal(filename, error)

            def report(position: int, before: int = before) -> None:
                if progress is not None:
                    progress(before + position, sum(sizes))

            hasher = await hash_file(path, expected, sizes[index], threads, on_position=report)
            actual = hasher.hexdigest()
            if store is not None and actual == expected:
                await threads.run(store.save, actual, sizes[index], hasher.blocks)
            if verifications is not None and expected is not None:
                note = partial(verifications.save, path, by="verify", is_valid=actual == expected)
                await threads.run(note)
            outcome.append(VerifiedFile(path=path, expected=expected, actual=actual))
    except OSError as exc:
        raise error_from_os_error(exc) from exc
    finally:
        threads.shut_down()
    return tuple(outcome)


def repair_request(model: LocalModel, files: Sequence[VerifiedFile], *, endpoint: str) -> DownloadRequest:
    """Return the request by which an engine repairs a model.

    Parameters
    ----------
    model
        The model.
    files
        What `verify_files` found.
    endpoint
        Where to fetch the damaged parts.
    """
    first = Path(model.filenames[0])
    return DownloadRequest(
        repo_id=model.repo_id,
        revision=model.commit_hash,
        commit_hash=model.commit_hash,
        variant_id=model.variant_id,
        label=model.label,
        files=tuple(_as_listed(name, file) for name, file in zip(model.filenames, files, strict=True)),
        endpoint=endpoint,
        cache_dir=str(model.paths[0].parents[len(first.parts) + 2]),
        purpose="repair",
    )


def repaired_files(files: Sequence[VerifiedFile], snapshot: DownloadSnapshot) -> tuple[VerifiedFile, ...]:
    """Return what `verify_files` would find after a repair that is ready.

    The engine gives a file its final name only if its digest is right, so nothing is hashed again.
    """
    return tuple(
        file if file.is_valid is not False else replace(file, actual=file.expected or "", repaired_bytes=repaired)
        for file, repaired in zip(files, snapshot.repaired_bytes, strict=True)
    )


def _as_listed(filename: str, file: VerifiedFile) -> GGUFFile:
    """Return a file as a listing would have it. Only a sound file is known to have the right size."""
    digest = file.expected
    return GGUFFile(
        filename=filename,
        size=_size_of(file.path) if file.is_valid else None,
        sha256=digest if digest is not None and is_sha256(digest) else None,
        oid=digest if digest is not None and is_commit_hash(digest) else None,
    )


def _paths(model: LocalModel) -> tuple[Path, ...]:
    return (*model.paths, *model.sidecar_paths)


def _size_of(path: Path) -> int:
    return path.stat().st_size


def _digest_in_name(path: Path) -> str | None:
    """Return the digest in the name of the blob that a snapshot's file links to."""
    name = path.readlink().name if path.is_symlink() else ""
    return name if is_sha256(name) or is_commit_hash(name) else None
