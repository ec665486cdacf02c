"""Files that are in the cache: whether they are what the Hub has, and mending those that are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx

from modeldeck._types import DownloadRequest, EngineLimits, GGUFFile, LocalModel, VerifiedFile
from modeldeck.engine.checks import CheckStore, RecordingHasher
from modeldeck.engine.crew import Connections, Crew
from modeldeck.engine.digest import STEP_BYTES, FrontHasher
from modeldeck.engine.file import FileDownload, Tools
from modeldeck.engine.limits import Bandwidth
from modeldeck.engine.retry import RetryPolicy
from modeldeck.engine.source import Source
from modeldeck.engine.threads import DiskThreads
from modeldeck.engine.transfer import Patience
from modeldeck.engine.transport import EngineTransport
from modeldeck.hub.client import HubClient
from modeldeck.hub.errors import error_from_os_error
from modeldeck.hub.urls import is_commit_hash, is_sha256
from modeldeck.sizing.hardware import cpu_count

Progress = Callable[[int, int], object]


async def verify_files(
    model: LocalModel,
    *,
    hub: HubClient,
    repair: bool = False,
    progress: Progress | None = None,
    checks_dir: Path | None = None,
) -> tuple[VerifiedFile, ...]:
    """Hash a model's files, whoever downloaded them, and compare with the digests they must have.

    A blob's name is its digest; the Hub is asked only where files are not named so. It may be cancelled at any time.

    Parameters
    ----------
    repair
        Fetch what is damaged again, replace the bytes that differ, and verify it. Its final name is free meanwhile.
    progress
        Called with the bytes hashed and the bytes of all files.
    checks_dir
        Where the blocks of finished files are remembered. A repair fetches only the bad blocks of a file that has them
        there, and every file that is found sound, or was mended, gets them. Without them a repair fetches all of it.

    Raises
    ------
    ModelDeckError
        When a file cannot be read or repaired; what was fetched is kept for the next attempt.
    """
    named = list(zip(model.filenames, (*model.paths, *model.sidecar_paths), strict=True))
    checks = CheckStore(checks_dir) if checks_dir is not None else None
    threads = DiskThreads()
    try:
        sizes = [await threads.run(_size_of, path) for _, path in named]
        outcome = []
        for index, (filename, path) in enumerate(named):
            before = sum(sizes[:index])

            def tell(hashed: int, before: int = before) -> None:
                if progress is not None:
                    progress(before + hashed, sum(sizes))

            expected = await threads.run(_digest_in_name, path)
            if expected is None:
                resolved = await hub.resolve(model.repo_id, model.commit_hash, filename)
                expected = resolved.sha256 or (resolved.etag if is_commit_hash(resolved.etag) else None)
            hasher = RecordingHasher(expected, sizes[index])
            actual = await _digest_of(path, sizes[index], hasher, threads, tell)
            if checks is not None and actual == expected:
                await threads.run(checks.save, actual, sizes[index], hasher.blocks)
            repaired = 0
            if repair and expected is not None and actual != expected:
                repaired = await _repair(path, hub, model, filename, threads, checks)
                size = await threads.run(_size_of, path)
                actual = await _digest_of(path, size, FrontHasher(expected, size), threads, lambda _: None)
            outcome.append(VerifiedFile(path=path, expected=expected, actual=actual, repaired_bytes=repaired))
    except OSError as exc:
        raise error_from_os_error(exc) from exc
    finally:
        threads.shut_down()
    return tuple(outcome)


def _size_of(path: Path) -> int:
    return path.stat().st_size


def _digest_in_name(path: Path) -> str | None:
    """The digest that names the blob which a snapshot's file links to."""
    name = path.readlink().name if path.is_symlink() else ""
    return name if is_sha256(name) or is_commit_hash(name) else None


async def _digest_of(
    path: Path, size: int, hasher: FrontHasher, threads: DiskThreads, tell: Callable[[int], None]
) -> str:
    with path.open("rb", buffering=0) as file:
        while hasher.position < size:
            await threads.run(hasher.advance, file.fileno(), min(size, hasher.position + STEP_BYTES))
            tell(hasher.position)
    return hasher.hexdigest()


async def _repair(
    path: Path, hub: HubClient, model: LocalModel, filename: str, threads: DiskThreads, checks: CheckStore | None
) -> int:
    """Mend one file and return the number of bytes that were replaced."""
    settings = hub.settings
    cache_dir = path.parents[len(Path(filename).parts) + 2]
    request = DownloadRequest(
        repo_id=model.repo_id,
        revision=model.commit_hash,
        commit_hash=model.commit_hash,
        variant_id=model.variant_id,
        label=model.label,
        files=(GGUFFile(filename=filename),),
        endpoint=settings.endpoint,
        cache_dir=str(cache_dir),
    )
    transport = EngineTransport()
    http = httpx.AsyncClient(transport=transport, follow_redirects=False)
    tools = Tools(
        transport=transport,
        http=http,
        threads=threads,
        bandwidth=Bandwidth(None),
        connections=Connections(EngineLimits(), processors=cpu_count()),
        policy=RetryPolicy(),
        patience=Patience(),
        checks=checks,
    )
    source = Source(
        hub=hub,
        http=http,
        endpoint=settings.endpoint,
        token=settings.token,
        repo_id=model.repo_id,
        revision=model.commit_hash,
        listed=request.files[0],
    )
    try:
        with Crew(tools.connections) as crew:
            file = FileDownload(
                request=request, file=request.files[0], source=source, tools=tools, crew=crew, on_phase=lambda: None
            )
            return await file.repair(path)
    finally:
        await http.aclose()
        await transport.shut_down()
