"""The network: TLS, proxies, connections that are reused, and bytes that are passed on in time."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import trustme

from modeldeck.engine.connection import DIRECT_BODY, DirectPool
from modeldeck.engine.network import BUFFER_BYTES, recycle
from modeldeck.engine.retry import RetryPolicy
from modeldeck.engine.transport import EngineTransport
from tools.localhub import LocalHub
from tools.localhub.faults import Chunked, Cut, Throttle

if TYPE_CHECKING:
    from conftest import Playground, Until

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def secure(playground: Playground, authority: trustme.CA, tmp_path: Path) -> Iterator[Playground]:
    """The playground over TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    plain = playground.hub
    with LocalHub(ssl_context=context) as hub:
        playground.hub = hub
        playground.put(playground.content)
        yield playground
        playground.hub = plain


async def test_a_download_over_tls(secure: Playground, trusting: ssl.SSLContext) -> None:
    done = await secure.download(token=None, ssl_context=trusting)
    secure.assert_exact(done)
    assert secure.hub.endpoint.startswith("https://")


async def test_cuts_and_stalls_over_tls(secure: Playground, trusting: ssl.SSLContext) -> None:
    secure.hub.faults.add(Cut(after_bytes=700_000), origin="cdn", times=5)
    secure.hub.faults.add(Cut(after_bytes=300_000, is_reset=True), origin="cdn", times=5)
    secure.hub.faults.add(Chunked(), origin="cdn", times=3)
    secure.assert_exact(await secure.download(token=None, ssl_context=trusting))


async def test_a_certificate_that_nobody_vouches_for(secure: Playground) -> None:
    failed = await secure.download(token=None)
    secure.assert_failed(failed, "tls")
    assert failed.error is not None
    assert "SSL_CERT_FILE" in failed.error.message


async def test_certificates_that_could_not_be_read_are_read_again(
    secure: Playground, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = tmp_path / "elsewhere" / "ca.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates))
    async with secure.manager() as manager:
        job = await manager.submit(secure.request())
        secure.assert_failed(await manager.wait(job.job_id), "tls")
        certificates.parent.mkdir()
        authority.cert_pem.write_to_path(str(certificates))
        await manager.act(job.job_id, "retry")
        secure.assert_exact(await manager.wait(job.job_id))


async def test_connections_are_used_again(playground: Playground) -> None:
    playground.assert_exact(await playground.download())
    records = playground.hub.requests.to("cdn")
    finished = [record for record in records if record.is_finished]
    assert len({record.connection_id for record in records}) <= 8 + 4
    assert len({record.connection_id for record in records}) < len(finished) or len(records) <= 8


async def test_many_files_share_the_connections(playground: Playground) -> None:
    from modeldeck._types import DownloadState, GGUFFile

    contents = {f"{number}.gguf": playground.content[: 100_000 + number] for number in range(40)}
    commit_hash = playground.hub.add_repo(playground.repo_id, contents, gguf={})
    files = tuple(GGUFFile(filename=name) for name in contents)
    async with playground.manager() as manager:
        job = await manager.submit(playground.request(files=files, commit_hash=commit_hash))
        assert (await manager.wait(job.job_id)).state is DownloadState.READY
    for origin in ("hub", "cdn"):
        records = [record for record in playground.hub.requests if record.origin == origin]
        assert len(records) == 40
        assert len({record.connection_id for record in records}) <= 12


async def test_a_slow_connection_hands_on_what_it_has(playground: Playground, until: Until) -> None:
    """It does so long before a block is full."""
    playground.hub.faults.add(Throttle(40_000), origin="cdn")
    async with playground.manager() as manager:
        job = await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].bytes_fetched > 20_000)
        assert manager.snapshots()[0].bytes_fetched < BUFFER_BYTES
        await manager.act(job.job_id, "pause")
        assert manager.snapshots()[0].received > 0
        playground.hub.faults.clear()
        await manager.act(job.job_id, "resume")
        playground.assert_exact(await manager.wait(job.job_id))


async def test_the_engine_uses_its_own_connections(playground: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine sets a private attribute of httpx. If it is renamed, this fails, instead of a silent loss of speed."""
    made = []
    monkeypatch.setattr(DirectPool, "create_connection", _noting(DirectPool.create_connection, made))
    playground.assert_exact(await playground.download())
    assert made


def _noting(function: object, notes: list[object]) -> object:
    assert callable(function)

    def call(*arguments: object) -> object:
        notes.append(arguments)
        return function(*arguments)

    return call


async def test_bodies_of_every_kind_are_read_to_their_end(playground: Playground) -> None:
    transport = EngineTransport()
    async with httpx.AsyncClient(transport=transport) as client:
        listing = await client.get(f"{playground.hub.endpoint}/api/models/{playground.repo_id}")
        assert listing.json()["id"] == playground.repo_id
        head = await client.head(f"{playground.hub.endpoint}/{playground.repo_id}/resolve/main/{playground.filename}")
        assert head.status_code == 302
        storage = head.headers["location"]
        for start, stop in ((0, 1), (5, 5 + BUFFER_BYTES), (1, 3 * BUFFER_BYTES + 7)):
            answer = await client.get(storage, headers={"Range": f"bytes={start}-{stop - 1}"})
            assert answer.content == playground.content[start:stop]
        playground.hub.faults.add(Chunked(), origin="cdn")
        assert (await client.get(storage)).content == playground.content
        playground.hub.faults.clear()
        playground.hub.faults.add(Cut(after_bytes=1000), origin="cdn")
        with pytest.raises(httpx.RemoteProtocolError, match="closed connection"):
            await client.get(storage)
    await transport.shut_down()


class Taker:
    """Takes everything, and notes when it received something and when it was stopped."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.received = 0
        self.has_some = threading.Event()
        self.is_finished = threading.Event()
        self.is_stopped = threading.Event()

    def consume(self, block: memoryview) -> None:
        self.received += len(block)
        self.wanted -= len(block)
        self.has_some.set()

    def finish(self) -> None:
        self.is_finished.set()

    def stop(self) -> None:
        self.is_stopped.set()


@pytest.mark.parametrize("is_secure", [False, True])
async def test_a_cancelled_receiver_lets_go_of_its_socket(
    request: pytest.FixtureRequest, playground: Playground, trusting: ssl.SSLContext, is_secure: bool, until: Until
) -> None:
    """It stops at once in the middle of a slow body, and leaves no thread behind."""
    if is_secure:
        request.getfixturevalue("secure")
    transport = EngineTransport(ssl_context=trusting)
    taker = Taker(len(playground.content))
    async with httpx.AsyncClient(transport=transport) as client:
        head = await client.head(f"{playground.hub.endpoint}/{playground.repo_id}/resolve/main/{playground.filename}")
        playground.hub.faults.add(Throttle(50_000), origin="cdn")

        async def receive() -> None:
            async with client.stream("GET", head.headers["location"]) as response:
                await response.extensions[DIRECT_BODY].receive(taker)

        receiving = asyncio.create_task(receive())
        await until(taker.has_some.is_set)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        assert taker.is_stopped.is_set()
        await until(lambda: playground.hub.requests.to("cdn")[-1].is_finished)
    assert 0 < taker.received < len(playground.content)
    await transport.shut_down()


async def test_a_receiver_that_has_enough_ends_the_answer(playground: Playground) -> None:
    transport = EngineTransport()
    taker = Taker(wanted := 1_000_000)
    async with httpx.AsyncClient(transport=transport) as client:
        head = await client.head(f"{playground.hub.endpoint}/{playground.repo_id}/resolve/main/{playground.filename}")
        async with client.stream("GET", head.headers["location"]) as response:
            await response.extensions[DIRECT_BODY].receive(taker)
    assert taker.received == wanted
    assert taker.is_finished.is_set()
    await transport.shut_down()


def test_only_whole_buffers_come_back() -> None:
    buffer = bytearray(BUFFER_BYTES)
    recycle(memoryview(buffer)[:10])
    recycle(b"not a buffer")
    recycle(memoryview(bytearray(10)))
    from modeldeck.engine import network

    assert any(spare is buffer for spare in network._spare_buffers)
    assert all(len(spare) == BUFFER_BYTES for spare in network._spare_buffers)


# --- proxies ----------------------------------------------------------------------------------------------------------


class Proxy:
    """A forward proxy with CONNECT, on a thread."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
            self.seen.append(f"{method} {target}")
            url = httpx.URL(f"http://{target}" if method == "CONNECT" else target)
            back_reader, back_writer = await asyncio.open_connection(url.host, url.port)
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                lines = head.split(b"\r\n")
                lines[0] = f"{method} {url.raw_path.decode()} HTTP/1.1".encode()
                back_writer.write(b"\r\n".join(lines))
            await asyncio.gather(_pump(reader, back_writer), _pump(back_reader, writer))

    def close(self) -> None:
        async def close() -> None:
            self._server.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await asyncio.sleep(0.05)

        asyncio.run_coroutine_threadsafe(close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    server = Proxy()
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name.lower(), raising=False)
        monkeypatch.setenv(name, server.url)
    yield server
    server.close()


async def test_a_proxy_of_the_environment_is_used(playground: Playground, proxy: Proxy) -> None:
    playground.assert_exact(await playground.download())
    assert any(line.startswith(f"HEAD {playground.hub.endpoint}") for line in proxy.seen)
    assert any(line.startswith(f"GET {playground.hub.cdn_origin}") for line in proxy.seen)


async def test_a_tunnel_through_the_proxy(secure: Playground, proxy: Proxy, trusting: ssl.SSLContext) -> None:
    secure.assert_exact(await secure.download(token=None, ssl_context=trusting))
    assert proxy.seen
    assert all(line.startswith("CONNECT 127.0.0.1:") for line in proxy.seen)


async def test_no_proxy_is_heeded(playground: Playground, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    playground.assert_exact(await playground.download())
    assert proxy.seen == []


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("HTTP_PROXY", "socks5://127.0.0.1:9", "proxy"),
        ("HTTP_PROXY", "unheard-of://127.0.0.1:9", "proxy"),
        ("SSL_CERT_FILE", "/there/is/none", "tls"),
    ],
)
async def test_a_setting_that_cannot_be_used_fails_at_once(
    playground: Playground, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, name: str, value: str, code: str
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv(name, value)
    failed = await playground.download(policy=RetryPolicy(base_seconds=1000.0, cap_seconds=1000.0))
    playground.assert_failed(failed, code)
    assert failed.error is not None
    assert name in failed.error.message


async def test_a_proxy_that_is_not_there(playground: Playground, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    failed = await playground.download()
    assert failed.error is not None
    assert failed.error.code in ("proxy", "offline")
