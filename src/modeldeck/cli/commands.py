"""The commands: each takes the session, its arguments and the output, and returns the exit status."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import anyio
import msgspec

from modeldeck._errors import InvalidRequestError, ModelDeckError
from modeldeck._settings import check_limits
from modeldeck._tables import format_size
from modeldeck._types import EngineLimits, SearchFilters
from modeldeck._wire import JobView, LocalRecord, RepoRecord, VerifiedRecord
from modeldeck.cli.limits import changed_limits, limits_line
from modeldeck.cli.output import Output
from modeldeck.download_handle import pausing_if_cancelled
from modeldeck.session import Session, hint_at_encoding

T = TypeVar("T")

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


async def search(session: Session, arguments: argparse.Namespace, output: Output) -> int:
    filters = SearchFilters(
        task=arguments.task,
        license=arguments.license,
        language=arguments.language,
        gated=arguments.gated,
        min_parameters=arguments.min_parameters,
        max_parameters=arguments.max_parameters,
        app=arguments.app,
        quantization=arguments.quantization,
    )
    page = await session.search(
        arguments.text, sort=arguments.sort, limit=arguments.limit, author=arguments.author, filters=filters
    )
    output.records(
        [msgspec.to_builtins(model) for model in page.models],
        str(page),
        if_none="No repository matches. The Hub looks for the text in the names of repositories and owners only.",
    )
    return EXIT_OK


async def show(session: Session, arguments: argparse.Namespace, output: Output) -> int:
    details = await session.describe(
        arguments.repo_id, arguments.revision, n_ctx=arguments.n_ctx, on_notice=output.note
    )
    output.record(RepoRecord.of(details), str(details))
    return EXIT_OK


async def fit(session: Session, arguments: argparse.Namespace, output: Output) -> int:
    estimate = await session.fit(arguments.target, n_ctx=arguments.n_ctx)
    output.record(msgspec.to_builtins(estimate), str(estimate))
    return EXIT_OK


async def download(session: Session, arguments: argparse.Namespace, output: Output) -> int:
    targets: list[str] = arguments.targets
    if arguments.filename is not None and len(targets) > 1:
        raise InvalidRequestError("Give one repository with --filename.")
    failures: dict[str, ModelDeckError | OSError] = {}

    async def bring(target: str) -> None:
        try:
            download = await session.start_download(
                target,
                filename=arguments.filename,
                revision=arguments.revision,
                projector=arguments.projector,
                on_notice=output.note,
            )
            async with pausing_if_cancelled(download):
                output.ready(await download.result(progress=output.progress))
        except (ModelDeckError, OSError) as error:
            failures[target] = error

    async def bring_all() -> bool:
        async with anyio.create_task_group() as downloads:
            for target in dict.fromkeys(targets):
                downloads.start_soon(bring, target)
        return True

    if await _unless_interrupted(bring_all, output) is None:
        return EXIT_INTERRUPTED
    if failures and len(targets) == 1:
        raise next(iter(failures.values()))
    for target, error in failures.items():
        if not isinstance(error, ModelDeckError):
            raise error
        output.failed(error, target)
    return EXIT_FAILED if failures else EXIT_OK


async def lock(session: Session, arguments: argparse.Namespace, output: Output) -> int:
    models = await session.lock(
        *arguments.targets,
        path=arguments.file,
        revision=arguments.revision,
        n_ctx=arguments.n_ctx,
        on_notice=output.note,
    )
    output.records([msgspec.to_builtins(model) for model in models], str(models), if_none="")
    output.note(f"Wrote {arguments.file}. `modeldeck sync` brings exactly these files.")
    return EXIT_OK


async def sync(session: Session, arguments: argparse.Namespace, output: Output) -> int:
    bring = partial(
        session.sync, arguments.file, check=arguments.check, progress=output.progress, on_notice=output.note
    )
    models = await _unless_interrupted(bring, output)
    if models is None:
        return EXIT_INTERRUPTED
    output.records(
        [LocalRecord.of(model) for model in models],
        str(models),
        if_none=f"{arguments.file} has no models.",
    )
    return EXIT_OK


async def _unless_interrupted(work: Callable[[], Awaitable[T]], output: Output) -> T | None:
    """Do work that pauses its downloads when it is cancelled. The result is ``None`` if a signal has cancelled it."""
    result: T | None = None
    failure: ModelDeckError | OSError | None = None
    is_interrupted = False
    async with anyio.create_task_group() as tasks:

        async def cancel_on_signal() -> None:
            nonlocal is_interrupted
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    is_interrupted = True
                    tasks.cancel_scope.cancel()

        tasks.start_soon(cancel_on_signal)
        try:
            result = await work()
        except (ModelDeckError, OSError) as error:
            failure = error  # raised below, because a task group would wrap it
        tasks.cancel_scope.cancel()
    if is_interrupted:
        output.keep_lines()
        output.note("Interrupted. Downloaded data is kept: run the same command to continue.")
        return None
    if failure is not None:
        raise failure
    return result


async def ls(session: Session, arguments: argparse.Namespace, output: Output) -> int:
    models = await session.local_models()
    output.records(
        [LocalRecord.of(model) for model in models],
        str(models),
        if_none=f"The cache at {session.settings.cache_dir} has no models.{hint_at_encoding()}",
    )
    return EXIT_OK


async def verify(session: Session, arguments: argparse.Namespace, output: Output) -> int:
    files = await session.verify(
        arguments.target,
        repair=arguments.repair,
        progress=partial(output.verifying, arguments.target),
        repair_progress=output.progress,
        on_notice=output.note,
    )
    output.records([VerifiedRecord.of(file) for file in files], str(files), if_none="")
    return EXIT_FAILED if any(file.is_valid is False for file in files) else EXIT_OK


async def rm(session: Session, arguments: argparse.Namespace, output: Output) -> int:
    freed = await session.remove(arguments.target)
    output.record({"freed_bytes": freed}, f"Removed {arguments.target}: {format_size(freed)} freed.")
    return EXIT_OK


async def cancel(session: Session, arguments: argparse.Namespace, output: Output) -> int:
    freed = await session.cancel(arguments.target)
    output.record({"freed_bytes": freed}, f"Cancelled {arguments.target}: {format_size(freed)} freed.")
    return EXIT_OK


async def downloads(session: Session, arguments: argparse.Namespace, output: Output) -> int:
    jobs = await session.downloads()
    output.records([JobView.of(job) for job in jobs], str(jobs), if_none="No downloads.")
    return EXIT_OK


async def engine(session: Session, arguments: argparse.Namespace, output: Output) -> int:
    from modeldeck.service.observe import engine_status, stop_engine

    if arguments.action == "limit":
        return await _limit_engine(session, arguments, output)
    if (arguments.bandwidth, arguments.downloads, arguments.connections) != (None, None, None):
        raise InvalidRequestError("--bandwidth, --downloads and --connections belong to `modeldeck engine limit`.")
    if arguments.action == "stop":
        was_running = await stop_engine(session.settings)
        output.record({"stopped": was_running}, "The engine is stopped." if was_running else "No engine runs.")
        return EXIT_OK
    status = await engine_status(session.settings)
    if status is None:
        output.record({"running": False}, "No engine runs.")
    else:
        output.record(
            {"running": True, **msgspec.to_builtins(status)},
            f"Engine {status.version}, process {status.pid}: {status.active} active, {status.waiting} waiting, "
            f"{status.clients} clients.",
        )
    return EXIT_OK


async def _limit_engine(session: Session, arguments: argparse.Namespace, output: Output) -> int:
    from modeldeck.service.connect import is_inline_by_default

    if arguments.inline or is_inline_by_default():
        raise InvalidRequestError(
            "An engine inside another process cannot be limited from here. Use Session(limits=...) there, or leave out "
            "--inline and MODELDECK_INLINE."
        )
    given = (arguments.bandwidth, arguments.downloads, arguments.connections)
    check_limits(changed_limits(EngineLimits(), *given))  # before an engine is started
    limits = changed_limits(await session.limits(), *given)
    if given != (None, None, None):
        await session.set_limits(limits)
    output.record(msgspec.to_builtins(limits), limits_line(limits))
    return EXIT_OK


async def doctor(session: Session, arguments: argparse.Namespace, output: Output) -> int:
    from modeldeck.cli.doctor import examine

    report = await examine(session)
    width = max(map(len, report))
    output.record(report, "\n".join(f"{name:{width}}  {value}" for name, value in report.items()))
    return EXIT_OK


async def completion(session: Session, arguments: argparse.Namespace, output: Output) -> int:
    import shtab

    for parser in arguments.parsers.values():
        for action in parser._actions:
            if str(action.metavar).endswith("PATH"):
                action.complete = shtab.FILE
            elif action.metavar == "DIR":
                action.complete = shtab.DIRECTORY
    print(shtab.complete(arguments.parser, arguments.shell))
    return EXIT_OK
