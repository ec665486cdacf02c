"""Sends requests over a transport, without a word in anybody's log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx


class Sender:
    """Sends requests as httpx's client does, which logs each address whole.

    A notebook that shows the log's level INFO would show the storage's signed addresses. No redirect is followed, and
    no cookie is kept.

    Parameters
    ----------
    transport
        Closed by `aclose`.
    headers, timeout
        For every request that has none of its own.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: httpx.Timeout | None = None,
    ) -> None:
        self._transport = transport
        self._client = httpx.AsyncClient(transport=transport, headers=headers, timeout=timeout)

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, *, headers: Mapping[str, str], timeout: httpx.Timeout | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Send a request and open its answer, whose body is still to be read."""
        request = self._client.build_request(method, url, headers=headers, timeout=timeout or self._client.timeout)
        answer = await self._transport.handle_async_request(request)
        answer.request = request
        try:
            yield answer
        finally:
            await answer.aclose()

    async def aclose(self) -> None:
        await self._client.aclose()
