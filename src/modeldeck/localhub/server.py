"""The hub on sockets: two origins on one event loop, on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import unquote

import h11

from modeldeck._types import Gated
from modeldeck.localhub.catalogue import EPOCH, Blob, Catalogue, Commit, Repo, front_matter, scan_folder
from modeldeck.localhub.faults import Faults
from modeldeck.localhub.gguf_block import gguf_block
from modeldeck.localhub.log import RequestLog
from modeldeck.localhub.messages import Answer, Body, Origin, Request, Source, SpeedLimit, text_answer
from modeldeck.localhub.routes import Site

_READ_BYTES = 1 << 16
_SENDFILE_BYTES = 1 << 22
_WRITE_BYTES = 1 << 19
_PACE_SECONDS = 0.05
_DIGESTS_NAME = ".modeldeck-digests.json"
_START_SECONDS = 30.0
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class LocalHub:
    """A Hugging-Face-compatible hub on this machine, with a CDN on a second port.

    ::

        with LocalHub() as hub:
            hub.add_repo("owner/name", {"model.gguf": path})
            huggingface_hub.hf_hub_download("owner/name", "model.gguf", endpoint=hub.endpoint)

    Parameters
    ----------
    folder : Path, optional
        Serve ``OWNER/NAME/files…`` below it. Digests of large files are kept in a hidden file there.
    repos : mapping, optional
        More repositories: ids, each with its files.
    host, port, cdn_port
        Where to listen; 0 picks a free port, which a restart keeps.
    ssl_context : ssl.SSLContext, optional
        Serve both origins over TLS.
    tokens, tree_page_size, signature_seconds, rate_limits
        See `modeldeck.localhub.routes.Site`.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        repos: Mapping[str, Mapping[str, Source]] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        cdn_port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        tokens: Mapping[str, Collection[str]] | None = None,
        tree_page_size: int = 1000,
        signature_seconds: float = 3600.0,
        rate_limits: Mapping[str, int] | None = None,
    ) -> None:
        self.requests = RequestLog()
        self.faults = Faults()
        self.catalogue = Catalogue()
        self._site = Site(
            catalogue=self.catalogue,
            tokens=tokens or {},
            tree_page_size=tree_page_size,
            signature_seconds=signature_seconds,
            rate_limits=rate_limits or {},
        )
        self._host = host
        self._ports: dict[Origin, int] = {"hub": port, "cdn": cdn_port}
        self._ssl_context = ssl_context
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._connections = _Connections(self._site, self.faults, self.requests, is_plain=ssl_context is None)
        if folder is not None:
            self._add_folder(folder)
        for repo_id, files in (repos or {}).items():
            self.add_repo(repo_id, files)

    # --- life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, and return once both origins do. After `stop`, on the same ports."""
        if self._thread is not None:
            return
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="modeldeck-localhub", daemon=True)
        self._thread.start()
        try:
            ready.result(_START_SECONDS)
        except OSError:
            self._thread.join()
            self._thread = None
            raise

    def stop(self) -> None:
        """Close every connection at once, whatever is on its way, and the ports."""
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = None

    def close(self) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        return self._url("hub")

    @property
    def cdn_origin(self) -> str:
        return self._url("cdn")

    def _url(self, origin: Origin) -> str:
        return f"{'https' if self._ssl_context else 'http'}://{self._host}:{self._ports[origin]}"

    def _run(self, ready: Future[None]) -> None:
        asyncio.run(self._serve(ready))

    async def _serve(self, ready: Future[None]) -> None:
        with contextlib.ExitStack() as servers:
            try:
                for origin in self._ports:
                    servers.callback((await self._listen(origin)).close)
            except OSError as error:
                ready.set_exception(error)
                return
            self._site.endpoint, self._site.cdn_origin = self.endpoint, self.cdn_origin
            self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
            ready.set_result(None)
            await self._stopping.wait()
        await self._connections.close()

    async def _listen(self, origin: Origin) -> asyncio.Server:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._connections.accept(origin, reader, writer)

        server = await asyncio.start_server(
            accept, self._host, self._ports[origin], ssl=self._ssl_context, backlog=1024
        )
        self._ports[origin] = server.sockets[0].getsockname()[1]
        return server

    # --- content ------------------------------------------------------------------------------------------------------

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, Source],
        *,
        gated: Gated = False,
        is_disabled: bool = False,
        tags: Iterable[str] = (),
        likes: int = 0,
        downloads: int = 0,
        license: str | None = None,
        pipeline_tag: str | None = None,
        gguf: Mapping[str, Any] | None = None,
        last_modified: str = EPOCH,
        created_at: str = EPOCH,
        git_tags: Iterable[str] = (),
        aliases: Iterable[str] = (),
        digests: Mapping[str, str] | None = None,
    ) -> str:
        """Add or replace a repository while the hub runs.

        Parameters
        ----------
        files : mapping of str to bytes or Path
            Contents by their path in the repository. A file on disk must not change while it is served.
        license, pipeline_tag : str, optional
            Without them, what the front matter of README.md says.
        gguf : mapping, optional
            The API's ``gguf`` block. Without it, it is read from the header of one of the files.
        git_tags : iterable of str
            Tags that name the first commit.
        aliases : iterable of str
            Old ids that redirect here, such as one without an owner.
        digests : mapping of str to str, optional
            Known sha256 digests of files, to spare reading them.

        Returns
        -------
        str
            The commit hash.
        """
        known = digests or {}
        commit = Commit({path: Blob.of(path, source, known.get(path)) for path, source in files.items()})
        commit_hash = commit.commit_hash
        card = front_matter(commit.files)
        repo = Repo(
            repo_id=repo_id,
            commits={commit_hash: commit},
            refs={"main": commit_hash},
            git_tags=dict.fromkeys(git_tags, commit_hash),
            gated=gated,
            is_disabled=is_disabled,
            tags=tuple(tags),
            likes=likes,
            downloads=downloads,
            license=license or card.get("license"),
            pipeline_tag=pipeline_tag or card.get("pipeline_tag"),
            gguf=gguf_block(commit.files) if gguf is None else gguf,
            last_modified=last_modified,
            created_at=created_at,
        )
        self.catalogue.put(repo, aliases)
        return commit_hash

    def update_file(self, repo_id: str, filename: str, content: Source | None, *, branch: str = "main") -> str:
        """Make a new commit in which one file is new, changed or (``None``) gone; return its hash."""
        blob = None if content is None else Blob.of(filename, content)
        return self.catalogue.commit(repo_id, {filename: blob}, branch)

    def rewrite_file(self, repo_id: str, filename: str, content: Source) -> None:
        """Change a file under the same commit hashes, as no honest Hub does."""
        self.catalogue.rewrite(repo_id, filename, Blob.of(filename, content))

    def sha256(self, repo_id: str, filename: str, revision: str = "main") -> str:
        """The digest of a file, for a test to compare with."""
        repo = self.catalogue.get(repo_id)
        found = None if repo is None else repo.resolve(revision)
        if found is None:
            raise KeyError(f"{repo_id}@{revision}")
        return found[1].files[filename].sha256

    def expire_signatures(self) -> None:
        """Make every CDN address handed out until now answer 403."""
        self._site.expire_signatures()

    def _add_folder(self, folder: Path) -> None:
        cache = folder / _DIGESTS_NAME
        try:
            known: dict[str, str] = json.loads(cache.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        seen: dict[str, str] = {}
        for repo_id, files in scan_folder(folder).items():
            keys = {name: _digest_key(folder, path) for name, path in files.items()}
            digests = {name: known[key] for name, key in keys.items() if key in known}
            newest = max(path.stat().st_mtime for path in files.values())
            last_modified = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(newest))
            self.add_repo(repo_id, files, digests=digests, last_modified=last_modified)
            seen.update({key: self.sha256(repo_id, name) for name, key in keys.items()})
        if seen != known:
            with contextlib.suppress(OSError):  # a folder that cannot be written is hashed again next time
                cache.write_text(json.dumps(seen), encoding="utf-8")


def _digest_key(folder: Path, path: Path) -> str:
    status = path.stat()
    return f"{path.relative_to(folder).as_posix()} {status.st_size} {status.st_mtime_ns}"


# --- connections ------------------------------------------------------------------------------------------------------


class _Cut(Exception):
    """The connection must end now."""


@dataclass(slots=True)
class _Pace:
    """Says when bytes may go out under a speed limit, for as long as the limit is in the script."""

    limit: SpeedLimit
    faults: Faults
    free_at: float = 0.0

    async def take(self, most: int) -> int:
        """Wait until some bytes may go out; how many."""
        if not self.faults.has(self.limit):
            return most
        rate = self.limit.bytes_per_second
        size = min(most, max(1, int(rate * _PACE_SECONDS)))
        now = time.monotonic()
        self.free_at = max(now, self.free_at) + size / rate
        await asyncio.sleep(self.free_at - now)
        return size


class _Connections:
    """Answers requests on accepted connections."""

    def __init__(self, site: Site, faults: Faults, log: RequestLog, *, is_plain: bool) -> None:
        self._site = site
        self._faults = faults
        self._log = log
        self._is_plain = is_plain
        self._ids = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._answering: Counter[Origin] = Counter()
        self._shared_paces: dict[SpeedLimit, _Pace] = {}

    def accept(self, origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._converse(origin, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _converse(self, origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection_id = next(self._ids)
        # With no room in the transport's own buffer, what drain() has let through has left this process.
        # asyncio's TLS transport pauses at the limit itself, so 0 would pause it for ever.
        writer.transport.set_write_buffer_limits(high=0 if self._is_plain else 1, low=0)
        pending = b""
        try:
            while True:
                event, body, pending = await _read_request(reader, pending)
                if event is None:
                    break
                headers = {name.decode().lower(): value.decode("latin-1") for name, value in event.headers}
                self._answering[origin] += 1
                try:
                    request = Request(
                        origin=origin,
                        method=event.method.decode(),
                        target=event.target.decode("latin-1"),
                        headers=headers,
                        body=body,
                        concurrent=self._answering[origin],
                    )
                    is_reusable = await self._exchange(request, connection_id, reader, writer)
                finally:
                    self._answering[origin] -= 1
                if not is_reusable or headers.get("connection", "").lower() == "close" or event.http_version < b"1.1":
                    break
            writer.close()
        except h11.RemoteProtocolError as error:
            await _write(writer, _head(text_answer(f"Bad request: {error}", 400), is_last=True))
            writer.close()
        except _Cut:
            writer.close()
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()

    async def _exchange(
        self, request: Request, connection_id: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; whether the connection can take another."""
        key = self._log.begin(request, unquote(request.raw_path), connection_id)
        try:
            answer = self._faults.apply(request, self._site.answer(request))
            if answer.delay_seconds:
                await asyncio.sleep(answer.delay_seconds)
            await self._interrupt(answer, -1, reader, writer)
            length = answer.header("Content-Length")
            is_reusable = length is None or int(length) == answer.body.size
            await _write(writer, _head(answer, is_last=not is_reusable))
            self._log.update(key, status=answer.status)
            if request.method != "HEAD" and answer.status not in (204, 304):
                await self._send_body(answer, key, writer)
                await self._interrupt(answer, answer.body.size, reader, writer)
                if answer.is_chunked:
                    await _write(writer, b"0\r\n\r\n")
            return is_reusable
        finally:
            self._log.update(key, is_finished=True)

    async def _interrupt(
        self, answer: Answer, sent: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """End or freeze the connection if that is due after ``sent`` bytes of the body; -1 is before the head."""
        if answer.cut_after is not None and answer.cut_after <= sent:
            if answer.is_reset:
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raise ConnectionAbortedError
            raise _Cut
        if answer.stall_after is not None and answer.stall_after <= sent:
            while await reader.read(_READ_BYTES):
                pass
            raise ConnectionAbortedError

    async def _send_body(self, answer: Answer, key: int, writer: asyncio.StreamWriter) -> None:
        limits = (answer.body.size, answer.cut_after, answer.stall_after)
        body = answer.body.part(answer.body.start, answer.body.start + min(n for n in limits if n is not None))
        pace = self._pace(answer.speed_limit)
        is_as_stored = self._is_plain and not answer.is_chunked and not body.flipped
        file_source = body.source if isinstance(body.source, Path) and is_as_stored else None
        block = _WRITE_BYTES if file_source is None else _SENDFILE_BYTES
        start = body.start
        with contextlib.nullcontext() if file_source is None else file_source.open("rb") as file:
            while start < body.stop:
                size = min(block, body.stop - start)
                if pace is not None:
                    size = await pace.take(size)
                part = body.part(start, start + size)
                start = part.stop
                if file is None:
                    data = part.read()
                    if len(data) < part.size:  # the file on disk has become shorter
                        raise _Cut
                    await _write(writer, b"%x\r\n%b\r\n" % (len(data), data) if answer.is_chunked else data)
                    self._log.update(key, sent=part.size)
                else:
                    try:
                        await _send_file(writer, file, part)
                    finally:
                        self._log.update(key, sent=file.tell() - part.start)

    def _pace(self, limit: SpeedLimit | None) -> _Pace | None:
        if limit is None:
            return None
        pace = _Pace(limit, self._faults)
        return self._shared_paces.setdefault(limit, pace) if limit.is_shared else pace


async def _read_request(reader: asyncio.StreamReader, pending: bytes) -> tuple[h11.Request | None, bytes, bytes]:
    """The next request (``None`` at the end of the connection), its body, and what came after it.

    h11 reads only. Answers are written by hand, because a fault must be able to break its rules.
    """
    parser = h11.Connection(h11.SERVER)
    if pending:
        parser.receive_data(pending)
    request, body = None, bytearray()
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return request, bytes(body), parser.trailing_data[0]
        else:
            return None, b"", b""


def _head(answer: Answer, *, is_last: bool) -> bytes:
    phrase = _PHRASES.get(answer.status, "Unknown")
    headers = list(answer.headers)
    if answer.is_chunked:
        headers.append(("Transfer-Encoding", "chunked"))
    elif answer.header("Content-Length") is None and answer.status not in (204, 304):
        headers.append(("Content-Length", str(answer.body.size)))
    if is_last:
        headers.append(("Connection", "close"))
    lines = [f"HTTP/1.1 {answer.status} {phrase}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def _send_file(writer: asyncio.StreamWriter, file: BinaryIO, part: Body) -> None:
    file.seek(part.start)
    if writer.transport.is_closing():
        raise ConnectionResetError
    sent = await asyncio.get_running_loop().sendfile(writer.transport, file, part.start, part.size)
    if sent < part.size:  # the file on disk has become shorter
        raise _Cut
