"""What a client gives by itself where the network is not ideal: the engine's connections, http.client and urllib3.

Each client downloads from nginx over TLS, in a process of its own: through proxies, past an address that does not
answer, over a slow link, over eight connections, and until it is cancelled. See ``receiving.py`` for speed.

Example: ``python benchmarks/situations.py``.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import os
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from stage import Stage, stage

BUFFER_BYTES = 512 << 10
SLOW_BYTES_PER_SECOND = 200_000
SLOW_SECONDS = 4.0
CONNECT_SECONDS = 5.0
CONNECTIONS = 8
CANCELS = 10
LOGIN = "user:secret"

OnBlock = Callable[[int], bool]
"""Called with the size of each block. Returns whether to go on."""


# --- the clients ------------------------------------------------------------------------------------------------------


class HTTPClient:
    """``http.client``. Stopping it breaks the socket, which its caller has to know."""

    def __init__(self, url: str, proxy: str | None = None) -> None:
        where, context = urlsplit(url), ssl.create_default_context()
        self._path = where.path
        assert where.hostname is not None
        through = where if proxy is None else urlsplit(proxy)
        self._connection = http.client.HTTPSConnection(
            str(through.hostname), through.port, context=context, timeout=CONNECT_SECONDS
        )
        if proxy is not None:
            token = base64.b64encode(LOGIN.encode()).decode()
            headers = {"Proxy-Authorization": f"Basic {token}"} if through.username else {}
            self._connection.set_tunnel(where.hostname, where.port, headers)

    def run(self, on_block: OnBlock) -> None:
        self._connection.request("GET", self._path)
        self._socket = self._connection.sock
        response = self._connection.getresponse()
        buffer = memoryview(bytearray(BUFFER_BYTES))
        with contextlib.suppress(OSError):
            while (count := response.readinto(buffer)) and on_block(count):
                pass
        self._connection.close()

    def stop(self) -> None:
        socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class URLLib3:
    """``urllib3``, whose answers can be stopped from another thread."""

    def __init__(self, url: str, proxy: str | None = None) -> None:
        import urllib3

        context = ssl.create_default_context()
        options = {"ssl_context": context, "timeout": CONNECT_SECONDS, "retries": False}
        self._url = url
        self._pool = urllib3.PoolManager(**options)
        if proxy is not None:
            headers = urllib3.make_headers(proxy_basic_auth=LOGIN) if urlsplit(proxy).username else None
            self._pool = urllib3.ProxyManager(proxy, proxy_headers=headers, proxy_ssl_context=context, **options)

    def run(self, on_block: OnBlock) -> None:
        self._response = self._pool.request("GET", self._url, preload_content=False)
        buffer = memoryview(bytearray(BUFFER_BYTES))
        with contextlib.suppress(OSError, _urllib3_error()):
            while (count := self._response.readinto(buffer)) and on_block(count):
                pass
        self._response.close()
        self._pool.clear()

    def stop(self) -> None:
        self._response.shutdown()


def _urllib3_error() -> type[Exception]:
    import urllib3

    return urllib3.exceptions.HTTPError


class Engine:
    """The engine's connections. The environment names the proxy, as for users."""

    def __init__(self, url: str, proxy: str | None = None) -> None:
        self._url = url
        if proxy is not None:
            os.environ["HTTPS_PROXY"] = proxy
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None

    def run(self, on_block: OnBlock) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._run(on_block))
        self._loop.close()

    async def _run(self, on_block: OnBlock) -> None:
        import httpx

        from modeldeck.engine.connection import DIRECT_BODY
        from modeldeck.engine.transport import EngineTransport

        transport = EngineTransport(ssl_context=ssl.create_default_context())
        self._task = asyncio.current_task()
        try:
            async with (
                httpx.AsyncClient(transport=transport, timeout=CONNECT_SECONDS) as client,
                client.stream("GET", self._url, headers={"Accept-Encoding": "identity"}) as response,
            ):
                if DIRECT_BODY in response.extensions:
                    await response.extensions[DIRECT_BODY].receive(_Consumer(on_block))
                    return
                async for block in response.aiter_raw():
                    if not on_block(len(block)):
                        return
        finally:
            await transport.shut_down()

    def stop(self) -> None:
        assert self._task is not None
        self._loop.call_soon_threadsafe(self._task.cancel)


class _Consumer:
    def __init__(self, on_block: OnBlock) -> None:
        self.wanted = 1 << 62
        self._on_block = on_block

    def consume(self, block: memoryview) -> None:
        from modeldeck.engine.network import recycle

        if not self._on_block(len(block)):
            self.wanted = 0
        recycle(block)

    def finish(self) -> None:
        pass

    def stop(self) -> None:
        pass


CLIENTS: dict[str, Callable[[str, str | None], Engine | HTTPClient | URLLib3]] = {
    "the engine's connections": Engine,
    "http.client": HTTPClient,
    "urllib3": URLLib3,
}


# --- the situations, each in a process of its own ---------------------------------------------------------------------


def first_block(name: str, url: str, proxy: str | None = None) -> float:
    """Return the seconds until the first block, without the import of the client."""
    CLIENTS[name](url, None).run(lambda count: False)
    return _first_block(name, url, proxy)


def _first_block(name: str, url: str, proxy: str | None) -> float:
    began, arrived = time.perf_counter(), 0.0

    def on_block(_count: int) -> bool:
        nonlocal arrived
        arrived = time.perf_counter()
        return False

    CLIENTS[name](url, proxy).run(on_block)
    if not arrived:
        raise RuntimeError("nothing arrived")
    return arrived - began


def past_dead_address(name: str, url: str) -> float:
    """Return the seconds until the first block if the name has an IPv6 address that does not answer."""
    CLIENTS[name](url, None).run(lambda count: False)
    ask, (dead, live) = socket.getaddrinfo, ("::1", "127.0.0.1")

    def getaddrinfo(host: object, port: int, *args: object, **options: object) -> list[object]:
        return [found for address in (dead, live) for found in ask(address, port, type=socket.SOCK_STREAM)]

    socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]
    with silent_listener(dead, urlsplit(url).port or 443):
        return _first_block(name, url, None)


def longest_gap(name: str, url: str) -> float:
    """Return the longest time in which a slow link gave nothing to write, in seconds."""
    began = last = time.perf_counter()
    longest = 0.0

    def on_block(_count: int) -> bool:
        nonlocal last, longest
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
        return now - began < SLOW_SECONDS

    CLIENTS[name](url, None).run(on_block)
    return longest


def memory(name: str, url: str) -> float:
    """Return the MiB above those of the idle process."""
    CLIENTS[name](url, None).run(lambda count: False)  # imports and certificates
    idle = psutil.Process().memory_info().rss

    def fetch(_number: int) -> None:
        CLIENTS[name](url, None).run(lambda count: True)

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        list(threads.map(fetch, range(CONNECTIONS)))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - idle) / 2**20


def cancelling(name: str, url: str) -> float:
    """Return the longest of the times from the wish to stop to the end of the call, in milliseconds."""
    longest = 0.0
    for _ in range(CANCELS):
        began = threading.Event()
        client = CLIENTS[name](url, None)

        def on_block(_count: int, began: threading.Event = began) -> bool:
            began.set()
            return True

        thread = threading.Thread(target=client.run, args=(on_block,))
        thread.start()
        began.wait()
        time.sleep(0.1)  # in the middle of the next block
        wished_at = time.perf_counter()
        client.stop()
        thread.join()
        longest = max(longest, time.perf_counter() - wished_at)
    return 1000 * longest


@contextlib.contextmanager
def silent_listener(address: str, port: int) -> Iterator[None]:
    """Take an address whose connections are never established: the queue of its listener is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_INET6))
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket(socket.AF_INET6))
            filler.setblocking(False)
            filler.connect_ex((address, port))
        yield


# --- proxies ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def proxy(login: str | None, context: ssl.SSLContext | None) -> Iterator[int]:
    """Run a proxy that knows CONNECT, spoken to over TLS if there is a context. Gives its port."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                threading.Thread(target=_tunnel, args=(client, login, context), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    with server:
        yield server.getsockname()[1]


def _tunnel(client: socket.socket, login: str | None, context: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        if context is not None:
            client = context.wrap_socket(client, server_side=True)
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        allowed = login is None or base64.b64encode(login.encode()) in head
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n" if allowed else b"HTTP/1.1 407 Login\r\nContent-Length: 0\r\n\r\n")
        host, port = head.split()[1].decode().rsplit(":", 1)
        server = socket.create_connection((host, int(port)))
        threading.Thread(target=_copy, args=(server, client), daemon=True).start()
        _copy(client, server)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(64 << 10):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


# --- the report -------------------------------------------------------------------------------------------------------

SITUATIONS: dict[str, Callable[..., float]] = {
    function.__name__: function for function in (first_block, past_dead_address, longest_gap, memory, cancelling)
}


def ask(place: Stage, client: str, situation: str, *arguments: str) -> str:
    """Run one situation in a process of its own, and return its figure or the name of its error."""
    url = f"{place.storage}/{place.files[0].name}"
    environment = {**os.environ, "SSL_CERT_FILE": str(place.ca)}
    command = [sys.executable, __file__, client, situation, url, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1].partition(":")[0].rpartition(".")[2]
    return f"{json.loads(done.stdout):.2f}"


def main() -> None:
    print("| situation | " + " | ".join(CLIENTS) + " |\n|" + "---|" * (len(CLIENTS) + 1))

    def row(place: Stage, title: str, situation: str, *arguments: str) -> None:
        figures = " | ".join(ask(place, name, situation, *arguments) for name in CLIENTS)
        print(f"| {title} | {figures} |", flush=True)

    with stage([64_000_000]) as place:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(place.ca.with_name("server.pem"), place.ca.with_name("server.key"))
        row(place, "no proxy: s to the first block", "first_block")
        for title, login, context in (
            ("a proxy: s to the first block", None, None),
            ("a proxy with a login", LOGIN, None),
            ("a proxy spoken to over TLS", None, tls),
        ):
            with proxy(login, context) as port:
                scheme, user = "https" if context else "http", f"{login}@" if login else ""
                row(place, title, "first_block", f"{scheme}://{user}localhost:{port}")
        row(place, "a silent IPv6 address first: s to the first block", "past_dead_address")
        row(place, f"MiB for {CONNECTIONS} connections", "memory")
    with stage([64_000_000], limit_bytes_per_second=SLOW_BYTES_PER_SECOND) as place:
        row(place, "200 kB/s: longest s without a block", "longest_gap")
        row(place, "200 kB/s: ms from the wish to stop to the closed socket", "cancelling")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    if len(sys.argv) > 3:
        print(json.dumps(SITUATIONS[sys.argv[2]](sys.argv[1], *sys.argv[3:])))
    else:
        main()
