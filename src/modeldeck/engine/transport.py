"""The engine's httpx transport: directly over its own connections, or through a proxy."""

from __future__ import annotations

import ssl
from urllib.request import getproxies, proxy_bypass

import httpx

from modeldeck.engine.connection import DirectPool
from modeldeck.engine.network import AsyncioBackend

KEEP_ALIVE_SECONDS = 30.0
MAX_IDLE_CONNECTIONS = 32


class EngineTransport(httpx.AsyncBaseTransport):
    """Sends each request directly or through the proxy that the environment names for its address.

    It is shared by all clients of one engine, so closing a client leaves it open; `shut_down` closes it.
    """

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._ssl_context = ssl_context
        self._transports: dict[str | None, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._transport_to(request.url).handle_async_request(request)

    async def aclose(self) -> None:
        """Leave the connections to the other clients."""

    async def shut_down(self) -> None:
        transports = list(self._transports.values())
        self._transports.clear()
        for transport in transports:
            await transport.aclose()

    def _transport_to(self, url: httpx.URL) -> httpx.AsyncHTTPTransport:
        proxy = _proxy_for(url)
        if proxy not in self._transports:
            if self._ssl_context is None:
                self._ssl_context = httpx.create_ssl_context()
                self._ssl_context.set_alpn_protocols(["http/1.1"])
            self._transports[proxy] = _transport(self._ssl_context, proxy)
        return self._transports[proxy]


def _transport(ssl_context: ssl.SSLContext, proxy: str | None) -> httpx.AsyncHTTPTransport:
    """httpx's transport, which maps httpcore's exceptions for us, with our own connections below it.

    httpx has no argument for that. Through a proxy it makes its own connections, over our transports.
    """
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=MAX_IDLE_CONNECTIONS, keepalive_expiry=KEEP_ALIVE_SECONDS
    )
    transport = httpx.AsyncHTTPTransport(verify=ssl_context, limits=limits, proxy=proxy)
    if proxy is None:
        transport._pool = DirectPool(
            ssl_context=ssl_context,
            max_connections=None,
            max_keepalive_connections=MAX_IDLE_CONNECTIONS,
            keepalive_expiry=KEEP_ALIVE_SECONDS,
        )
    else:
        transport._pool._network_backend = AsyncioBackend()
    return transport


def _proxy_for(url: httpx.URL) -> str | None:
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(url.netloc.decode("ascii")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
