"""The engine's httpx transport: direct over its own connections, or through a proxy."""

from __future__ import annotations

import asyncio
import ssl
from concurrent.futures import ThreadPoolExecutor

import httpx

from modeldeck.engine.connection import DirectPool
from modeldeck.engine.network import MAX_THREADS, ThreadedBackend, drop_spare_buffers
from modeldeck.hub.errors import UNUSABLE_SETTINGS, error_from_environment
from modeldeck.hub.proxies import proxy_for

KEEP_ALIVE_SECONDS = 30.0
MAX_IDLE_CONNECTIONS = 32


class EngineTransport(httpx.AsyncBaseTransport):
    """Sends each request directly, or through the proxy that the environment names for its address.

    The environment is read once for each address, and again after `hang_up`. All clients of one engine share the
    transport, so closing a client leaves it open. `shut_down` closes it.
    """

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="modeldeck-connection")
        # Reading the certificate authorities takes a tenth of a second, so it begins before it is needed.
        self._ssl_context = self._threads.submit(lambda: ssl_context or _default_ssl_context())
        self._transports: dict[str | None, httpx.AsyncHTTPTransport] = {}
        self._proxies: dict[tuple[str, bytes], str | None] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            transport = self._transport_to(request.url, await asyncio.wrap_future(self._ssl_context))
        except UNUSABLE_SETTINGS as error:
            raise error_from_environment(error) from error
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

    def _transport_to(self, url: httpx.URL, ssl_context: ssl.SSLContext) -> httpx.AsyncHTTPTransport:
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


def _transport(ssl_context: ssl.SSLContext, proxy: str | None, threads: ThreadPoolExecutor) -> httpx.AsyncHTTPTransport:
    """Return httpx's transport, which maps httpcore's exceptions, with our own connections below it.

    httpx has no argument for that. Through a proxy it opens its own connections, over our streams. Only a proxy that
    itself uses TLS needs TLS inside TLS, and so httpcore's own streams.
    """
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=MAX_IDLE_CONNECTIONS, keepalive_expiry=KEEP_ALIVE_SECONDS
    )
    transport = httpx.AsyncHTTPTransport(verify=ssl_context, limits=limits, proxy=proxy)
    backend = ThreadedBackend(threads)
    if proxy is None:
        transport._pool = DirectPool(
            ssl_context=ssl_context,
            max_connections=None,
            max_keepalive_connections=MAX_IDLE_CONNECTIONS,
            keepalive_expiry=KEEP_ALIVE_SECONDS,
            network_backend=backend,
        )
    elif not proxy.startswith("https:"):
        transport._pool._network_backend = backend
    return transport
