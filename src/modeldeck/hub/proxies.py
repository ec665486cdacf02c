"""Which proxy a request goes through, by one rule for the Hub's client and the engine.

The environment names the proxies (``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``) and, in ``NO_PROXY``, what is reached
without one: host names with their subdomains, addresses and CIDR blocks, each with or without a port, or ``*``.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.request import getproxies, getproxies_environment, proxy_bypass

import httpx

_ENTRY = re.compile(
    r"(?:(?P<scheme>\w+)://)?"
    r"(?:\[(?P<bracketed>[^\]]+)\]|(?P<plain>[^:\[\]]+)|(?P<ipv6>[0-9a-fA-F:.]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(?:/\d+)?))"
    r"(?P<prefix>/\d+)?(?::(?P<port>\d+))?"
)
_DEFAULT_PORTS = {"http": 80, "https": 443}


def proxy_for(url: str | httpx.URL) -> str | None:
    """Return the address of the proxy that the environment names for a request, or ``None`` to connect directly.

    Examples
    --------
    >>> import os
    >>> os.environ |= {"HTTPS_PROXY": "proxy.example:3128", "NO_PROXY": "10.0.0.0/8"}  # doctest: +SKIP
    >>> proxy_for("https://huggingface.co"), proxy_for("https://10.1.2.3")  # doctest: +SKIP
    ('http://proxy.example:3128', None)
    """
    parsed = httpx.URL(url)
    proxies = getproxies()
    proxy = proxies.get(parsed.scheme) or proxies.get("all")
    if not proxy or is_exempt(parsed, proxies.get("no", "")):
        return None
    if not getproxies_environment() and proxy_bypass(parsed.host):  # the system's own exceptions on macOS and Windows
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def proxy_variable(url: str | httpx.URL) -> str:
    """Return the name of the setting that a request's proxy comes from, for messages."""
    for name in (f"{httpx.URL(url).scheme}_proxy", "all_proxy"):
        for spelling in (name, name.upper()):
            if os.environ.get(spelling):
                return spelling
    return "the system's proxy settings"


def is_exempt(url: str | httpx.URL, no_proxy: str) -> bool:
    """Return whether ``NO_PROXY`` says that an address is reached without a proxy. Other entries are ignored."""
    parsed = httpx.URL(url)
    return any(_matches(parsed, entry) for entry in re.split(r"[,\s]+", no_proxy) if entry)


def _matches(url: httpx.URL, entry: str) -> bool:
    if entry == "*":
        return True
    parts = _ENTRY.fullmatch(entry)
    if parts is None:
        return False
    port = url.port or _DEFAULT_PORTS.get(url.scheme)
    if parts["scheme"] not in (None, "all", url.scheme) or parts["port"] not in (None, str(port)):
        return False
    name = (parts["bracketed"] or parts["ipv6"] or parts["plain"] or "") + (parts["prefix"] or "")
    host = url.host.lower().rstrip(".")
    address = _address(host)
    if address is not None:
        try:
            return address in ip_network(name, strict=False)
        except ValueError:
            return False
    name = name.lower().removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


class ProxySettingError(httpx.TransportError):
    """The proxy that the environment names for a request cannot be used; its cause says why."""


@contextmanager
def unusable_names() -> Iterator[None]:
    """Raise what Python says of a name that cannot be looked up as the error for a server that cannot be reached."""
    try:
        yield
    except UnicodeError as error:
        raise httpx.ConnectError(str(error)) from error


class ProxyTransport(httpx.AsyncBaseTransport):
    """Sends each request directly or through the proxy that the environment names for it.

    Parameters
    ----------
    first
        An address that will be asked, so that settings for it that cannot be used are found at once.

    Raises
    ------
    OSError, ImportError, ValueError, httpx.InvalidURL
        When the environment's settings of certificates or proxies cannot be used.
    """

    def __init__(self, first: str) -> None:
        self._ssl_context: ssl.SSLContext = httpx.create_ssl_context()
        self._transports: dict[str | None, httpx.AsyncHTTPTransport] = {}
        self._transport_to(httpx.URL(first))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            transport = self._transport_to(request.url)
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise ProxySettingError(str(error)) from error
        with unusable_names():
            return await transport.handle_async_request(request)

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()

    def _transport_to(self, url: httpx.URL) -> httpx.AsyncHTTPTransport:
        proxy = proxy_for(url)
        if proxy not in self._transports:
            self._transports[proxy] = httpx.AsyncHTTPTransport(verify=self._ssl_context, proxy=proxy)
        return self._transports[proxy]
