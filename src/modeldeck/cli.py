"""The command ``modeldeck``: what the widget does, for shells, scripts and batch jobs.

Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted (what was fetched is kept).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from modeldeck import __version__
from modeldeck._errors import InvalidRequestError, ModelDeckError
from modeldeck._types import DownloadSnapshot, DownloadState, LocalModel, VerifiedFile
from modeldeck._wire import job_wire, local_wire, repo_wire, verified_wire
from modeldeck.session import Download, Session, split_target

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130

_GB_BYTES = 10**9
_MB_BYTES = 10**6
_USUAL_COLUMNS = 80


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    output = _Output(arguments.json)
    try:
        return anyio.run(_run, arguments, output)
    except ModelDeckError as error:
        output.failed(error)
        return EXIT_USAGE if isinstance(error, InvalidRequestError) else EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()  # the reader of our output left (`modeldeck ls | head`): nobody is there to be told
        return EXIT_FAILED
    except OSError as error:
        _drop_output()
        output.note(f"modeldeck: {error}")
        return EXIT_FAILED


def _drop_output() -> None:
    """Python shall not try again to write what could not be written, and end with a status and a message of its own."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


async def _run(arguments: argparse.Namespace, output: _Output) -> int:
    command: Callable[[Session, argparse.Namespace, _Output], Awaitable[int]] = arguments.command
    async with Session(
        endpoint=arguments.endpoint,
        cache_dir=arguments.cache_dir,
        token=arguments.token,
        inline=True if arguments.inline else None,
    ) as session:
        return await command(session, arguments, output)


# --- commands ---------------------------------------------------------------------------------------------------------


async def _search(session: Session, arguments: argparse.Namespace, output: _Output) -> int:
    page = await session.search(arguments.text, sort=arguments.sort, limit=arguments.limit)
    for model in page.models:
        output.record(
            msgspec.to_builtins(model),
            f"{model.repo_id:60} {_count(model.downloads):>8} downloads  {_count(model.likes):>6} likes",
        )
    return EXIT_OK


async def _show(session: Session, arguments: argparse.Namespace, output: _Output) -> int:
    details = await session.describe(arguments.repo_id, arguments.revision, n_ctx=arguments.n_ctx)
    lines = [f"{details.repo_id} at {details.commit_hash}"]
    for variant in details.variants:
        fit = details.fits.get(variant.variant_id)
        mark = "*" if variant.variant_id == details.recommended else " "
        lines.append(
            f"{mark} {variant.label:14} {_size(variant.size):>10}  {fit.verdict if fit else 'unknown':10} "
            f"{variant.variant_id}"
        )
    output.record(repo_wire(details), "\n".join(lines))
    return EXIT_OK


async def _download(session: Session, arguments: argparse.Namespace, output: _Output) -> int:
    repo_id, label = split_target(arguments.target)
    request = await session.request(repo_id, label, filename=arguments.filename, revision=arguments.revision)
    download = await session.start(request)
    model = await _until_interrupted(download, output)
    if model is None:
        output.note("Interrupted. What was fetched is kept: run the same command to go on.")
        return EXIT_INTERRUPTED
    output.ready(model)
    return EXIT_OK


async def _until_interrupted(download: Download, output: _Output) -> LocalModel | None:
    """The finished model, or ``None`` after an interrupt, which pauses the download."""
    outcome: LocalModel | ModelDeckError | OSError | None = None
    async with anyio.create_task_group() as tasks:

        async def pause_on_signal() -> None:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    with suppress(ModelDeckError):  # paused elsewhere, or just over
                        await download.pause()
                    tasks.cancel_scope.cancel()

        tasks.start_soon(pause_on_signal)
        try:
            outcome = await download.result(progress=output.progress)
        except (ModelDeckError, OSError) as error:
            outcome = error
        tasks.cancel_scope.cancel()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


async def _ls(session: Session, arguments: argparse.Namespace, output: _Output) -> int:
    for model in await session.local_models():
        output.record(
            local_wire(model),
            f"{model.repo_id}:{model.label:14} {_size(model.size):>10}  {model.path}",
        )
    return EXIT_OK


async def _verify(session: Session, arguments: argparse.Namespace, output: _Output) -> int:
    files: tuple[VerifiedFile, ...] = await session.verify(arguments.target, repair=arguments.repair)
    for file in files:
        verdict = {True: "ok", False: "DAMAGED", None: "no digest known"}[file.is_valid]
        output.record(
            verified_wire(file),
            f"{verdict:10} {file.path}" + (f" ({file.repaired_bytes} bytes repaired)" if file.repaired_bytes else ""),
        )
    return EXIT_FAILED if any(file.is_valid is False for file in files) else EXIT_OK


async def _rm(session: Session, arguments: argparse.Namespace, output: _Output) -> int:
    freed = await session.remove(arguments.target)
    output.record({"freed_bytes": freed}, f"Removed {arguments.target}: {_size(freed)} freed.")
    return EXIT_OK


async def _cancel(session: Session, arguments: argparse.Namespace, output: _Output) -> int:
    freed = await session.cancel(arguments.target)
    output.record({"freed_bytes": freed}, f"Cancelled {arguments.target}: {_size(freed)} freed.")
    return EXIT_OK


async def _downloads(session: Session, arguments: argparse.Namespace, output: _Output) -> int:
    for snapshot in await session.downloads():
        output.record(job_wire(snapshot), _job_line(snapshot))
    return EXIT_OK


async def _engine(session: Session, arguments: argparse.Namespace, output: _Output) -> int:
    from modeldeck.service.control import engine_status, stop_engine

    if arguments.action == "stop":
        was_running = await anyio.to_thread.run_sync(stop_engine, session.settings)
        output.record({"stopped": was_running}, "The engine is stopped." if was_running else "No engine runs.")
        return EXIT_OK
    status = await anyio.to_thread.run_sync(engine_status, session.settings)
    if status is None:
        output.record({"running": False}, "No engine runs.")
    else:
        output.record(
            {"running": True, **msgspec.to_builtins(status)},
            f"Engine {status.version}, process {status.pid}: {status.active} active, {status.waiting} waiting, "
            f"{status.clients} clients.",
        )
    return EXIT_OK


# --- output -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Output:
    """Writes for people, or one JSON object a line for programs."""

    is_json: bool
    _last: DownloadSnapshot | None = None
    _is_line_open: bool = False

    def record(self, data: dict[str, Any], text: str) -> None:
        print(json.dumps(data) if self.is_json else text, flush=True)

    def progress(self, snapshot: DownloadSnapshot) -> None:
        if snapshot.state is DownloadState.READY or snapshot == self._last:
            return
        self._last = snapshot
        if self.is_json:
            print(
                json.dumps(
                    {
                        "event": "progress",
                        "received": snapshot.received,
                        "total": snapshot.total,
                        "rate": snapshot.rate,
                        "state": snapshot.state.value,
                    }
                ),
                flush=True,
            )
        elif sys.stderr.isatty():
            # Of a line that is too long the end is shown, where the figures are: a broken one could not be overwritten.
            width = (os.get_terminal_size(sys.stderr.fileno()).columns or _USUAL_COLUMNS) - 1
            print(f"\r\x1b[K{_job_line(snapshot)[-width:]}", end="", file=sys.stderr, flush=True)
            self._is_line_open = True

    def ready(self, model: LocalModel) -> None:
        self._end_line()
        self.record(
            {
                "event": "ready",
                "path": str(model.path),
                "sha256": model.sha256,
                "commit_hash": model.commit_hash,
                "bytes_fetched": model.bytes_fetched,
            },
            str(model.path),
        )

    def failed(self, error: ModelDeckError) -> None:
        self._end_line()
        if self.is_json:
            print(
                json.dumps({"event": "failed", "code": error.code, "message": error.message, **error.details}),
                flush=True,
            )
        else:
            print(f"modeldeck: {error.message}", file=sys.stderr)

    def note(self, text: str) -> None:
        self._end_line()
        print(text, file=sys.stderr)

    def _end_line(self) -> None:
        if self._is_line_open:
            print(file=sys.stderr)
            self._is_line_open = False


def _job_line(snapshot: DownloadSnapshot) -> str:
    percent = "" if snapshot.percent is None else f"{snapshot.percent:3d} %  "
    rate = "" if snapshot.rate is None else f"  {snapshot.rate / _MB_BYTES:.1f} MB/s"
    left = "" if snapshot.eta_seconds is None else f"  {round(snapshot.eta_seconds)} s left"
    name = f"{snapshot.request.repo_id}:{snapshot.request.label}"
    return f"{name}  {snapshot.state}  {percent}{_size(snapshot.received)} of {_size(snapshot.total)}{rate}{left}"


def _size(size: int | None) -> str:
    if size is None:
        return "?"
    return f"{size / _GB_BYTES:.2f} GB" if size >= _GB_BYTES else f"{size / _MB_BYTES:.1f} MB"


def _count(count: int | None) -> str:
    return "?" if count is None else str(count)


# --- arguments --------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="one JSON object a line")
    common.add_argument("--endpoint", metavar="URL", help="the Hub to ask (else HF_ENDPOINT)")
    common.add_argument("--cache-dir", metavar="DIR", help="the Hugging Face cache (else HF_HUB_CACHE)")
    common.add_argument("--token", help="a Hub token (else HF_TOKEN or the stored login)")
    common.add_argument("--inline", action="store_true", help="download in this process, not in the engine's own")

    parser = argparse.ArgumentParser(prog="modeldeck", description="Search, download and keep GGUF models.")
    parser.add_argument("--version", action="version", version=f"modeldeck {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[..., Awaitable[int]], summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, parents=[common], help=summary, description=summary)
        sub.set_defaults(command=command)
        return sub

    search = add("search", _search, "search the Hub for repositories with GGUF files")
    search.add_argument("text", nargs="?", default="")
    search.add_argument(
        "--sort", choices=["trending", "downloads", "likes", "modified", "created"], default="downloads"
    )
    search.add_argument("--limit", type=int, default=20, metavar="N", help="results to show, 1 to 100 (default 20)")

    show = add("show", _show, "the variants of a repository, their sizes, and whether they fit this machine")
    show.add_argument("repo_id", metavar="OWNER/NAME")
    show.add_argument("--revision", default="main")
    show.add_argument("--n-ctx", type=int, default=4096, metavar="TOKENS")

    download = add("download", _download, "download a variant, verify it, publish it into the cache")
    download.add_argument("target", metavar="OWNER/NAME[:LABEL]")
    download.add_argument("--filename", metavar="F")
    download.add_argument("--revision", default="main")

    engine = add("engine", _engine, "what the download engine does, or end it; running downloads are paused")
    engine.add_argument("action", choices=["status", "stop"])

    add("ls", _ls, "the models in the cache")
    add("downloads", _downloads, "what the engine runs, holds paused, and remembers")

    cancel = add("cancel", _cancel, "give up unfinished downloads and delete what came of them")
    cancel.add_argument(
        "target", metavar="OWNER/NAME[:LABEL]", help="without a label also what killed processes have left"
    )

    verify = add("verify", _verify, "hash a model's files and compare with what they must be")
    verify.add_argument("target", metavar="OWNER/NAME[:LABEL]", help="or the path that `download` and `ls` print")
    verify.add_argument("--repair", action="store_true", help="fetch damaged parts again")

    rm = add("rm", _rm, "delete a model from the cache")
    rm.add_argument("target", metavar="OWNER/NAME[:LABEL]", help="or the path that `download` and `ls` print")
    return parser
