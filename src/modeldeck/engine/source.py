"""Where the bytes of a file come from: its current address, and answers whose head was checked."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import anyio
import httpx

from modeldeck._errors import ContentChangedError, ModelDeckError, ProxyError, ServerError
from modeldeck._types import GGUFFile
from modeldeck.engine.connection import DIRECT_BODY, WAIT_SECONDS, DirectBody
from modeldeck.engine.network import Consumer
from modeldeck.engine.threads import DiskThreads
from modeldeck.hub.client import USER_AGENT, HubClient, ResolvedFile
from modeldeck.hub.encodings import compressions
from modeldeck.hub.errors import error_from_exception, error_from_response, host_of, is_transient, not_a_hub_error
from modeldeck.hub.redirects import MAX_REDIRECTS, redirect_target
from modeldeck.hub.sending import Sender
from modeldeck.hub.urls import authorization_headers, is_hub_url, is_same_origin

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class DoubtfulAddressError(Exception):
    """The address may be at fault: its signature expired, its content is old, or what answers is not the storage.

    Resolve again before believing it.
    """

    def __init__(self, cause: ModelDeckError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class WrongRangeError(Exception):
    """The server sent bytes that were not requested, so it cannot be trusted with ranges."""

    def __init__(self, cause: ModelDeckError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Body(Protocol):
    """A checked answer: bytes from ``start`` to ``stop``. ``is_whole`` if the server ignored the range."""

    start: int
    stop: int | None
    is_whole: bool

    @property
    def wait_seconds(self) -> float | None:
        """Seconds from the request to the answer's head, or ``None`` if the connection does not say."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the bytes."""

    async def receive(self, consumer: Consumer, threads: DiskThreads) -> None:
        """Give the bytes to a consumer on a thread, until it wants no more."""


async def feed(chunks: AsyncIterator[bytes], consumer: Consumer, threads: DiskThreads) -> None:
    """Give chunks to a consumer, each on a thread, until it wants no more."""
    async for chunk in chunks:
        await give(memoryview(chunk), consumer, threads)
        if consumer.wanted <= 0:
            break


async def give(block: memoryview, consumer: Consumer, threads: DiskThreads) -> None:
    """Give a block to a consumer on a thread. A cancellation stops a consumer that waits."""
    call = threads.submit_waiting(consumer.consume, block)
    try:
        await asyncio.shield(call)
    except asyncio.CancelledError:
        consumer.stop()
        await threads.finish(call)
        raise


@dataclass(slots=True)
class HTTPBody:
    """The checked answer of a server."""

    start: int
    stop: int | None
    is_whole: bool
    response: httpx.Response = field(repr=False)

    @property
    def wait_seconds(self) -> float | None:
        """Seconds from the request to the answer's head, or ``None`` if the connection does not say."""
        return self.response.extensions.get(WAIT_SECONDS)

    def chunks(self) -> AsyncIterator[bytes]:
        return self.response.aiter_raw()

    async def receive(self, consumer: Consumer, threads: DiskThreads) -> None:
        """Give the bytes to a consumer: on the connection's own thread, or through httpx."""
        direct: DirectBody | None = self.response.extensions.get(DIRECT_BODY)
        if direct is not None:
            await direct.receive(consumer)
            return
        await feed(self.chunks(), consumer, threads)


class Source(ABC):
    """One file at a pinned commit, wherever its bytes come from. Any number of connections may use it at once.

    Parameters
    ----------
    listed
        What the listing said about the file. The source must agree.
    revision
        The revision of the file, until it is pinned to a commit.

    Attributes
    ----------
    generation : int
        How often the address was found.
    """

    is_sequential = False
    """Whether each gap of the file is fetched in one request, over one connection."""

    def __init__(self, listed: GGUFFile, revision: str) -> None:
        self._listed = listed
        self._revision = revision
        self._lock = anyio.Lock()
        self._resolved: ResolvedFile | None = None
        self._found_size: int | None = None
        self.generation = 0

    @abstractmethod
    async def _locate(self, revision: str) -> ResolvedFile:
        """Find the present address of the file."""

    @abstractmethod
    def open(self, start: int, stop: int | None, *, timeouts: httpx.Timeout) -> AbstractAsyncContextManager[Body]:
        """Request a range and check the answer's head. A ``stop`` of ``None`` requests the whole file."""

    @property
    def filename(self) -> str:
        return self._listed.filename

    @property
    def is_storage(self) -> bool:
        """Whether the bytes come from the Hub's storage, and not from the endpoint itself."""
        return False

    @property
    def is_resolved(self) -> bool:
        return self._resolved is not None

    @property
    def commit_hash(self) -> str | None:
        return None if self._resolved is None else self._resolved.commit_hash

    def pin(self, commit_hash: str) -> None:
        """Use the file at this commit, whatever the revision means later."""
        self._revision = commit_hash

    @property
    def resolved(self) -> ResolvedFile:
        assert self._resolved is not None, "resolve() comes first"
        return self._resolved

    @property
    def size(self) -> int | None:
        if self._listed.size is not None:
            return self._listed.size
        if self._resolved is not None and self._resolved.size is not None:
            return self._resolved.size
        return self._found_size

    def learn_size(self, size: int) -> None:
        """Note the size that the file itself turned out to have, as the Hub did not say."""
        self._found_size = size

    @property
    def digest(self) -> str | None:
        """The sha256, or git's sha1 for a file that is not in LFS, or ``None`` if neither is known."""
        resolved = self._resolved
        if self._listed.sha256 is not None:
            return self._listed.sha256
        if resolved is not None and resolved.sha256 is not None:
            return resolved.sha256
        if resolved is not None and resolved.etag is not None and re.fullmatch(r"[0-9a-f]{40}", resolved.etag):
            return resolved.etag
        return self._listed.oid

    async def resolve(self) -> None:
        """Get the address from the Hub, unless it is known.

        Raises
        ------
        ContentChangedError
            If commit, size or digest differ from what the listing or an earlier answer said.
        """
        await self.resolve_again(0)

    async def resolve_again(self, doubted: int) -> None:
        """Get a fresh address, unless another connection did since generation ``doubted``."""
        async with self._lock:
            if self.generation != doubted:
                return
            pinned = self._revision if self._resolved is None else self._resolved.commit_hash
            fresh = await self._locate(pinned)
            self._compare(fresh)
            self._resolved = fresh
            self.generation += 1

    def _compare(self, fresh: ResolvedFile) -> None:
        listed = self._listed
        answers = [answer for answer in (self._resolved, fresh) if answer is not None]
        # What the Hub does not say itself overrules nothing that it listed: the digest of the file decides at the end.
        sizes = {listed.size, *(a.size for a in answers if a.is_linked or listed.size is None)} - {None}
        digests = {listed.sha256, *(a.sha256 for a in answers if a.is_linked or listed.sha256 is None)} - {None}
        commits = {answer.commit_hash for answer in answers}
        is_same_content = listed.sha256 is not None and fresh.sha256 == listed.sha256 and len(digests) == 1
        if len(digests) > 1 or len(commits) > 1 or (len(sizes) > 1 and not is_same_content):
            raise ContentChangedError(
                f"{self.filename} on {self.where} is no longer the file that was listed. "
                "List the repository again and start the download from there."
            )

    @property
    @abstractmethod
    def where(self) -> str:
        """The name of the place that the bytes come from, for messages."""


class HubSource(Source):
    """A file on the Hub: over HTTP, from its storage or from the endpoint itself."""

    def __init__(
        self,
        *,
        hub: HubClient,
        http: Sender,
        endpoint: str,
        token: str | None,
        repo_id: str,
        revision: str,
        listed: GGUFFile,
    ) -> None:
        super().__init__(listed, revision)
        self._hub = hub
        self._http = http
        self._endpoint = endpoint
        self._token = token
        self._repo_id = repo_id

    @property
    def where(self) -> str:
        return host_of(self._endpoint)

    @property
    def is_storage(self) -> bool:
        return self.resolved.is_signed_elsewhere and self.size is not None

    async def _locate(self, revision: str) -> ResolvedFile:
        return await self._hub.resolve(self._repo_id, revision, self.filename)

    @asynccontextmanager
    async def open(self, start: int, stop: int | None, *, timeouts: httpx.Timeout) -> AsyncIterator[Body]:
        """Request a range and check the answer's head. A ``stop`` of ``None`` requests the whole file.

        Raises
        ------
        DoubtfulAddressError, WrongRangeError
            See their descriptions.
        ModelDeckError
            For every other failure, also while the body is read.
        """
        asked = self.resolved.url
        try:
            for _ in range(MAX_REDIRECTS + 1):
                headers = {"Accept-Encoding": "identity", "User-Agent": USER_AGENT}
                if stop is not None:
                    headers["Range"] = f"bytes={start}-{stop - 1}"
                headers |= authorization_headers(asked, endpoint=self._endpoint, token=self._token)
                async with self._http.stream("GET", asked, headers=headers, timeout=timeouts) as response:
                    if response.has_redirect_location:
                        target = redirect_target(asked, response.headers["location"], endpoint=self._endpoint)
                        if target is None:
                            what = "a redirect to something that is not a web address"
                            raise DoubtfulAddressError(self._not_a_file(asked, what))
                        asked = target
                        continue
                    yield self._checked(response, start, stop)
                    return
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise self._unreachable(exc, asked) from exc
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
            raise self._failure(exc, asked) from exc
        raise DoubtfulAddressError(self._not_a_file(asked, "redirects without end"))

    def _unreachable(self, exc: Exception, asked: str) -> Exception:
        """Return the error for an address that does not answer. The Hub may know another address of its storage."""
        if is_same_origin(asked, self._endpoint):
            return error_from_exception(exc, endpoint=asked)
        return DoubtfulAddressError(error_from_exception(exc, endpoint=asked, storage_of=self._endpoint))

    def _failure(self, exc: Exception, asked: str) -> Exception:
        """Return the error for an answer that failed. One that is not HTTP may come from something in between."""
        error = error_from_exception(exc, endpoint=asked)
        if is_transient(error) or not isinstance(error, ServerError | ProxyError):
            return error
        if isinstance(error, ServerError) and not is_same_origin(asked, self._endpoint):
            is_answer = isinstance(exc, httpx.RemoteProtocolError)
            what = "an answer that is not HTTP" if is_answer else "an address or a header that cannot be used"
            error = self._not_a_file(asked, what)
        return DoubtfulAddressError(error)

    def _not_a_file(self, asked: str, what: str) -> ServerError:
        if is_same_origin(asked, self._endpoint):
            return not_a_hub_error(asked, what)
        return ServerError(
            f"The storage of {self.where} at {host_of(asked)} sent {what}. Check that your network does not show a "
            "login page first, or try again later."
        )

    def _checked(self, response: httpx.Response, start: int, stop: int | None) -> Body:
        host = host_of(str(response.url))
        if response.status_code not in (200, 206):
            raise self._refusal(response)
        if compressions(response.headers.get("content-encoding")):
            raise WrongRangeError(
                ServerError(f"{host} sends the file compressed. Use another endpoint.", status_code=502)
            )
        if "text/html" in response.headers.get("content-type", "") and not self.filename.endswith((".html", ".htm")):
            raise DoubtfulAddressError(self._not_a_file(str(response.url), "a web page where a file should be"))
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if match is None:
            if response.status_code == 206:
                raise WrongRangeError(_bad_range(host))
            return self._checked_whole(response, host)
        first, last = int(match[1]), int(match[2])
        total = None if match[3] == "*" else int(match[3])
        if total is not None and self.size is None:
            self.learn_size(total)
        if total is not None and self.size is not None and total != self.size:
            raise DoubtfulAddressError(self._changed_size(total, host))
        if stop is None or first != start or last < first:
            raise WrongRangeError(_bad_range(host))
        if _body_length(response) not in (None, last + 1 - first):
            raise WrongRangeError(_bad_range(host))
        return HTTPBody(start=first, stop=last + 1, is_whole=False, response=response)

    def _checked_whole(self, response: httpx.Response, host: str) -> Body:
        length = _body_length(response)
        if length is not None and self.size is not None and length != self.size:
            raise DoubtfulAddressError(self._changed_size(length, host))
        return HTTPBody(start=0, stop=length, is_whole=True, response=response)

    def _changed_size(self, found: int, host: str) -> ContentChangedError:
        return ContentChangedError(
            f"{host} serves {self.filename} with {found} bytes, but the Hub promised {self.size}. "
            "List the repository again. If that does not help, its server is broken."
        )

    def _refusal(self, response: httpx.Response) -> Exception:
        error = error_from_response(
            response.status_code,
            response.headers,
            repo_id=self._repo_id,
            revision=self.resolved.commit_hash,
            filename=self.filename,
            endpoint=self._endpoint,
            is_hub=is_hub_url(response.url, self._endpoint),
            has_token="authorization" in response.request.headers,
        )
        if response.status_code == 416:
            return DoubtfulAddressError(self._changed_size(_total_of(response), host_of(str(response.url))))
        if is_transient(error) or is_same_origin(response.url, self._endpoint):
            return error
        return DoubtfulAddressError(error)


def _body_length(response: httpx.Response) -> int | None:
    """Return the length that the body has by its head. That of a chunked body does not count (RFC 9112, 6.3)."""
    text = "" if "transfer-encoding" in response.headers else response.headers.get("content-length", "")
    return int(text) if re.fullmatch(r"\d{1,18}", text) else None


def _total_of(response: httpx.Response) -> int:
    match = re.fullmatch(r"bytes \*/(\d{1,18})", response.headers.get("content-range", ""))
    return int(match[1]) if match else 0


def _bad_range(host: str) -> ServerError:
    return ServerError(f"{host} sent bytes that were not requested. Try again later.", status_code=502)
