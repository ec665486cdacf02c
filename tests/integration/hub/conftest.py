"""A scripted Hub on a real socket: a test says what answers which request, and reads afterwards what was asked."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import responses
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modeldeck._settings import Settings
from modeldeck.hub import client as client_module
from modeldeck.hub.client import HubClient

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer. ``raw`` is sent instead of it, byte for byte; ``promises`` is a Content-Length that may be a lie."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    promises: int | None = None
    raw: bytes | None = None
    waits: bool = False

    def to_bytes(self, method: str) -> bytes:
        if self.raw is not None:
            return self.raw
        lines = [f"HTTP/1.1 {self.status} {responses.get(self.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if not {"content-length", "transfer-encoding"} & {name.lower() for name in self.headers}:
            lines.append(f"Content-Length: {len(self.body) if self.promises is None else self.promises}")
        head = "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")
        return head if method == "HEAD" else head + self.body


def json_reply(value: Any, *, headers: Mapping[str, str] | None = None, status: int = 200) -> Reply:
    return Reply(
        status=status, headers={"Content-Type": "application/json", **(headers or {})}, body=msgspec.json.encode(value)
    )


@dataclass(frozen=True, kw_only=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


Answer = Reply | Callable[[Request], Reply]


class ScriptedServer:
    """Answers each path with the next of its replies, the last one for ever; 404 for all other paths."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._replies: dict[str, list[Answer]] = {}
        self._arrived = threading.Condition()
        self._released = threading.Event()
        server = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                server._handle(self)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = False
            block_on_close = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def reply(self, path: str, *answers: Answer) -> None:
        with self._arrived:
            self._replies.setdefault(path, []).extend(answers)

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    def wait_for_request(self) -> None:
        """Return when a request has come."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: self.requests, timeout=60)

    def close(self) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, handler: socketserver.StreamRequestHandler) -> None:
        first = handler.rfile.readline(65536).decode("latin-1").split()
        if len(first) != 3:
            return
        headers = {}
        while line := handler.rfile.readline(65536).decode("latin-1").strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        request = Request(method=first[0], target=first[1], headers=headers)
        with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()
            answers = self._replies.get(request.path, [Reply(status=404)])
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        reply = answer if isinstance(answer, Reply) else answer(request)
        if reply.waits:
            self._released.wait()
        try:
            handler.wfile.write(reply.to_bytes(request.method))
        except OSError:
            return  # the client has seen enough


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], ScriptedServer]]:
    """Starts scripted servers, each on its own origin."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    started: list[ScriptedServer] = []

    def start() -> ScriptedServer:
        started.append(ScriptedServer())
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def server(servers: Callable[[], ScriptedServer]) -> ScriptedServer:
    return servers()


@pytest.fixture
async def hub(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[HubClient]:
    """A client of the scripted server, with a token, that does not pause between tries."""
    monkeypatch.setattr(client_module, "_BACKOFF_SECONDS", (0.0, 0.0))
    client = HubClient(Settings(endpoint=server.endpoint, cache_dir=tmp_path, token="hf_secret"))
    yield client
    await client.aclose()
