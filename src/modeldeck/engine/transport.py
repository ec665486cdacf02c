"""The engine's httpx transport: direct over its own connections, or through a proxy."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpcore
import httpx

from modeldeck.engine.connection import DirectPool
from modeldeck.engine.network import MAX_THREADS, ThreadedBackend, drop_spare_buffers
from modeldeck.hub.errors import UNUSABLE_SETTINGS, error_from_environment
from modeldeck.hub.proxies import proxy_for, unusable_names

KEEP_ALIVE_SECONDS = 30.0
MAX_IDLE_CONNECTIONS = 32
_HTTPCORE_ERRORS = (
    *(httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError),
    *(httpcore.ProxyError, httpcore.UnsupportedProtocol),
)


class EngineTransport(httpx.AsyncBaseTransport):
    """Sends each request directly, or through the proxy that the environment names for its address.

    The environment is read once for each address, and again after `hang_up`. All clients of one engine share the
    transport, so closing a client leaves it open. `shut_down` closes it.
    """

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="modeldeck-connection")
        self._make_ssl_context = (lambda: ssl_context) if ssl_context else _default_ssl_context
        # Reading the certificate authorities takes a tenth of a second, so it begins before it is needed.
        self._ssl_context = self._threads.submit(self._make_ssl_context)
        self._transports: dict[str | None, httpx.AsyncBaseTransport] = {}
        self._proxies: dict[tuple[str, bytes], str | None] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            transport = self._transport_to(request.url, await self._certificates())
        except UNUSABLE_SETTINGS as error:
            raise error_from_environment(error) from error
        with unusable_names():
            return await transport.handle_async_request(request)

    async def aclose(self) -> None:
        """Keep the connections for the other clients."""

    async def hang_up(self) -> None:
        """Close the idle connections, and free their memory."""
        transports = list(self._transports.values())
        self._transports.clear()
        self._proxies.clear()
        for transport in transports:
            await transport.aclose()
        drop_spare_buffers()

    async def shut_down(self) -> None:
        """Close all connections and end the threads."""
        await self.hang_up()
        self._threads.shutdown(wait=True)

    async def _certificates(self) -> ssl.SSLContext:
        """Return the certificate authorities, again from the disk if they could not be read before."""
        known = self._ssl_context
        if known.done() and (known.cancelled() or known.exception() is not None):
            self._ssl_context = self._threads.submit(self._make_ssl_context)
        return await asyncio.wrap_future(self._ssl_context)

    def _transport_to(self, url: httpx.URL, ssl_context: ssl.SSLContext) -> httpx.AsyncBaseTransport:
        address = (url.scheme, url.netloc)
        if address not in self._proxies:  # reading it takes half a millisecond
            self._proxies[address] = proxy_for(url)
        proxy = self._proxies[address]
        if proxy not in self._transports:
            self._transports[proxy] = _transport(ssl_context, proxy, self._threads)
        return self._transports[proxy]


def _default_ssl_context() -> ssl.SSLContext:
    context = httpx.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _transport(ssl_context: ssl.SSLContext, proxy: str | None, threads: ThreadPoolExecutor) -> httpx.AsyncBaseTransport:
    """Return a transport over our own connections, or, through a plain proxy, over our own streams.

    A proxy that itself uses TLS needs TLS inside TLS, and SOCKS a protocol of its own: those are httpx's.
    """
    if proxy is not None and not proxy.startswith("http:"):
        limits = httpx.Limits(
            max_connections=None, max_keepalive_connections=MAX_IDLE_CONNECTIONS, keepalive_expiry=KEEP_ALIVE_SECONDS
        )
        return httpx.AsyncHTTPTransport(verify=ssl_context, limits=limits, proxy=proxy)
    backend = ThreadedBackend(threads)
    if proxy is None:
        return PooledTransport(
            DirectPool(ssl_context, backend, max_idle=MAX_IDLE_CONNECTIONS, keep_alive_seconds=KEEP_ALIVE_SECONDS)
        )
    parsed = httpx.Proxy(proxy)
    return PooledTransport(
        httpcore.AsyncHTTPProxy(
            str(parsed.url),
            proxy_auth=parsed.raw_auth,
            proxy_headers=parsed.headers.raw,
            ssl_context=ssl_context,
            max_connections=None,
            max_keepalive_connections=MAX_IDLE_CONNECTIONS,
            keepalive_expiry=KEEP_ALIVE_SECONDS,
            network_backend=backend,
        )
    )


class PooledTransport(httpx.AsyncBaseTransport):
    """httpx over a pool of httpcore. httpx has no argument for the streams of a pool, so its own transport cannot."""

    def __init__(self, pool: httpcore.AsyncConnectionPool) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        asked = httpcore.Request(
            request.method, url, headers=request.headers.raw, content=request.stream, extensions=request.extensions
        )
        with _as_httpx_errors():
            answer = await self._pool.handle_async_request(asked)
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer.stream), extensions=answer.extensions
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, stream: object) -> None:
        assert isinstance(stream, AsyncIterable)
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx_errors():
            async for block in self._stream:
                yield block

    async def aclose(self) -> None:
        if hasattr(self._stream, "aclose"):
            await self._stream.aclose()


@contextmanager
def _as_httpx_errors() -> Iterator[None]:
    """Raise httpcore's exceptions as httpx's, which have the same names."""
    try:
        yield
    except _HTTPCORE_ERRORS as error:
        raise getattr(httpx, type(error).__name__)(str(error)) from error
