"""Asks the Hub: search, listings, the address of a file's bytes, and single ranges of them. Asynchronous.

Every answer is untrusted: bodies are bounded while they stream, JSON is checked by msgspec, redirects are followed by
hand, and the token goes to the endpoint's own origin only.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from platform import python_version
from typing import TypeVar

import anyio
import httpx
import msgspec

from modeldeck._backoff import backoff_seconds
from modeldeck._errors import (
    ContentChangedError,
    InvalidRequestError,
    ModelDeckError,
    NetworkTimeoutError,
    OfflineError,
    RateLimitedError,
    ServerError,
    UnauthorizedError,
)
from modeldeck._settings import Settings
from modeldeck._types import Account, GGUFFile, RepoListing, SearchPage, SearchQuery
from modeldeck._version import __version__
from modeldeck.hub.addresses import model_address
from modeldeck.hub.encodings import compressions
from modeldeck.hub.errors import (
    UNUSABLE_SETTINGS,
    error_from_environment,
    error_from_exception,
    error_from_response,
    host_of,
    is_transient,
    not_a_hub_error,
    offline_mode_error,
    refused_token_error,
)
from modeldeck.hub.proxies import ProxyTransport
from modeldeck.hub.ratelimit import RateLimits
from modeldeck.hub.redirects import MAX_REDIRECTS, is_page_of, next_page, redirect_target
from modeldeck.hub.sending import Sender
from modeldeck.hub.shapes import (
    ModelInfo,
    SearchRow,
    TreeEntry,
    WhoAmI,
    can_read_gated,
    file_of,
    gated_of,
    is_filename,
    is_repo_id,
    license_of,
    summary_of,
)
from modeldeck.hub.urls import (
    authorization_headers,
    check_endpoint,
    is_commit_hash,
    is_hub_url,
    is_same_origin,
    is_sha256,
    model_info_url,
    normalize_etag,
    resolve_url,
    search_url,
    tree_url,
    whoami_url,
)

MAX_RANGE_BYTES = 64 * 2**20
USER_AGENT = f"modeldeck/{__version__}; python/{python_version()}"

_MAX_TREE_PAGES = 200
_MAX_FILES = 100_000
_TIMEOUT = httpx.Timeout(connect=10.0, read=20.0, write=20.0, pool=30.0)
_MAX_TRIES = 3
_MAX_BACKOFF_SECONDS = 1.5
_MAX_PATIENCE_SECONDS = 5.0
"""A rate limit that lasts longer than this is reported to the user instead of waited for."""
_HEAD_IS_NOT_ALLOWED = (405, 501)
_ADDRESS_EXPIRED = (400, 401, 403, 404, 410)
_JSON_HEADERS = {"Accept": "application/json", "Accept-Encoding": "gzip"}
"""No other compression: a few bytes of brotli or zstd can unpack to gigabytes before they can be counted."""
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedFile:
    """A file at one commit, and the present address of its bytes.

    ``sha256`` is the content's (``X-Linked-Etag``; a mirror may send it as its ``ETag``), ``None`` for small git files,
    whose ``etag`` is git's sha1. ``is_linked`` says that the Hub itself tells size and sha256, in ``X-Linked-*``.
    Without it they are those of the answer: a mirror that follows redirects itself passes on the ETag of the storage,
    which may look like a sha256. ``url`` may be signed and is valid for about an hour: never store or log it.
    ``is_signed_elsewhere`` says that it leads away from the Hub. Then no token is sent there, and a 403 means that the
    file has to be resolved again.
    """

    repo_id: str
    commit_hash: str
    filename: str
    size: int | None
    sha256: str | None
    etag: str | None
    is_linked: bool
    url: str = field(repr=False)
    is_signed_elsewhere: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """How patient a client is, and how much it reads.

    Parameters
    ----------
    retry_seconds
        Bound of the first wait between two tries, in seconds; it doubles with each failure.
    call_seconds
        For one whole answer, in seconds. A body that trickles in never exceeds the time between two reads.
    json_bytes
        The largest JSON that is read.
    """

    retry_seconds: float = 0.5
    call_seconds: float = 60.0
    json_bytes: int = 32 * 2**20


DEFAULT_LIMITS = ClientLimits()


# --- the client -------------------------------------------------------------------------------------------------------


class HubClient:
    """Asks one Hub. Its methods raise only ``ModelDeckError`` and may be cancelled at any point.

    Parameters
    ----------
    settings
        Endpoint, token, and whether offline mode is on.
    limits
        Patience and sizes.
    transport
        Connections that are shared with other clients, and left open by them. By default the client makes its own.

    Raises
    ------
    InvalidRequestError
        When no request can be sent to the endpoint.
    TLSError, ProxyError
        When the environment's settings of certificates or proxies cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        limits: ClientLimits = DEFAULT_LIMITS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._rate_limits = RateLimits()
        self._last_resolved: tuple[tuple[str, str, str], ResolvedFile] | None = None
        check_endpoint(settings.endpoint)
        try:
            self._http = Sender(
                transport or ProxyTransport(settings.endpoint), headers={"User-Agent": USER_AGENT}, timeout=_TIMEOUT
            )
        except UNUSABLE_SETTINGS as error:
            raise error_from_environment(error) from error

    @property
    def settings(self) -> Settings:
        return self._settings

    async def aclose(self) -> None:
        await self._http.aclose()

    async def search(self, query: SearchQuery, cursor: str | None = None) -> SearchPage:
        """Return one page of the GGUF repositories that match.

        Parameters
        ----------
        query
            What to search for, and in which order. A model's address is searched for by its repository.
        cursor
            ``next_cursor`` of the page before.
        """
        address = model_address(query.text, self._settings.endpoint)
        text = query.text if address is None else address.repo_id
        first = search_url(self._settings.endpoint, replace(query, text=text))
        if cursor is not None and not is_page_of(cursor, first):
            raise InvalidRequestError(
                "The cursor does not belong to a search at this endpoint. Search again from the start."
            )
        rows, link = await self._get_json(cursor or first, list[SearchRow])
        return SearchPage(
            query=query,
            models=tuple(summary_of(row) for row in rows if is_repo_id(row.id)),
            next_cursor=link and next_page(*link, first=first, endpoint=self._settings.endpoint),
        )

    async def account(self) -> Account:
        """Return whose token is in use. Without a token the Hub is not asked."""
        if self._settings.token is None:
            return Account()
        try:
            found, _ = await self._get_json(whoami_url(self._settings.endpoint), WhoAmI)
        except UnauthorizedError as error:
            raise refused_token_error(self._settings.endpoint, **error.details) from error
        return Account(name=found.name, source=self._settings.token_source, can_read_gated=can_read_gated(found))

    async def listing(self, repo_id: str, revision: str = "main") -> RepoListing:
        """Return all files of a repository at the commit that ``revision`` means now, under its canonical id."""
        info = await self._model_info(repo_id, revision)
        return RepoListing(
            repo_id=info.id,
            revision=revision,
            commit_hash=info.sha,
            files=await self._files(info.id, info.sha),
            gated=gated_of(info),
            license=license_of(info),
        )

    async def resolve(self, repo_id: str, revision: str, filename: str) -> ResolvedFile:
        """Return commit, size, sha256 and address of a file. Only the Hub's first answer has them."""
        url = resolve_url(self._settings.endpoint, repo_id, revision, filename)
        context = _Context(repo_id=repo_id, revision=revision, filename=filename)

        async def ask(method: str) -> httpx.Response:
            async with self._open(
                method, url, {"Accept-Encoding": "identity"}, follows=self._follows_to_file
            ) as answer:
                is_refused_head = method == "HEAD" and answer.status_code in _HEAD_IS_NOT_ALLOWED
                if not (answer.is_success or answer.has_redirect_location or is_refused_head):
                    raise self._error_from(answer, context)
                return answer

        answer = await self._retrying("resolvers", lambda: ask("HEAD"))
        if answer.status_code in _HEAD_IS_NOT_ALLOWED:
            answer = await self._retrying("resolvers", lambda: ask("GET"))
        return await self._resolved(answer.headers, str(answer.url), context)

    async def read_text(self, repo_id: str, revision: str, filename: str, max_bytes: int) -> str:
        """Return the text of a small file, no more than ``max_bytes`` of it."""
        url = resolve_url(self._settings.endpoint, repo_id, revision, filename)
        context = _Context(repo_id=repo_id, revision=revision, filename=filename)

        async def ask() -> bytes:
            async with self._open(
                "GET", url, {"Accept-Encoding": "gzip"}, follows=lambda _answer, _target: True
            ) as answer:
                if not answer.is_success:
                    raise self._error_from(answer, context)
                if compressions(answer.headers.get("content-encoding")) - {"gzip"}:
                    raise not_a_hub_error(self._settings.endpoint, "a text with a compression that was not asked for")
                return await _read(answer, max_bytes)

        body = await self._retrying("resolvers", ask)
        return body[:max_bytes].decode("utf-8", errors="replace")

    async def fetch_range(self, repo_id: str, revision: str, filename: str, start: int, stop: int) -> bytes:
        """Return the bytes ``start`` to ``stop`` (exclusive) of a file, fewer only where the file ends."""
        if not 0 <= start < stop or stop - start > MAX_RANGE_BYTES:
            raise InvalidRequestError(
                f"The range {start} to {stop} cannot be read. Ask for 1 to {MAX_RANGE_BYTES} bytes at once."
            )
        asked, known = (repo_id, revision, filename), self._last_resolved
        is_known = known is not None and known[0] == asked
        resolved = known[1] if known is not None and is_known else await self._resolve_and_keep(*asked)
        try:
            return await self._read_range(resolved, start, stop)
        except ServerError as error:
            if not is_known or error.details.get("status_code") not in _ADDRESS_EXPIRED:
                raise
        except (OfflineError, NetworkTimeoutError) as error:
            # The Hub itself knows no other address, and a storage that was reached is not waited for twice.
            if not resolved.is_signed_elsewhere or isinstance(error.__cause__, httpx.ReadTimeout):
                raise
        return await self._read_range(await self._resolve_and_keep(*asked), start, stop)

    async def _resolve_and_keep(self, repo_id: str, revision: str, filename: str) -> ResolvedFile:
        """Resolve a file and keep its address, because a header is read in several ranges."""
        resolved = await self.resolve(repo_id, revision, filename)
        if is_commit_hash(revision):
            self._last_resolved = (repo_id, revision, filename), resolved
        return resolved

    async def _read_range(self, resolved: ResolvedFile, start: int, stop: int) -> bytes:
        if resolved.size is not None and start >= resolved.size:
            raise InvalidRequestError(
                f"{resolved.filename!r} has only {resolved.size} bytes, so byte {start} cannot be read."
            )
        return await self._retrying("resolvers", lambda: self._ask_for_range(resolved, start, stop))

    # --- answers ---

    async def _model_info(self, repo_id: str, revision: str) -> ModelInfo:
        url = model_info_url(self._settings.endpoint, repo_id, revision)
        info, _ = await self._get_json(url, ModelInfo, _Context(repo_id=repo_id, revision=revision))
        if not is_repo_id(info.id):
            raise not_a_hub_error(self._settings.endpoint, "a model without a valid id")
        return info

    async def _files(self, repo_id: str, commit_hash: str) -> tuple[GGUFFile, ...]:
        endpoint = self._settings.endpoint
        first = tree_url(endpoint, repo_id, commit_hash)
        page: str | None = first
        context = _Context(repo_id=repo_id, revision=commit_hash)
        files: dict[str, GGUFFile] = {}
        seen: set[str] = set()
        while page is not None:
            seen.add(page)
            entries, link = await self._get_json(page, list[TreeEntry], context)
            for entry in entries:
                if entry.type != "file" or not is_filename(entry.path):
                    continue  # a name that could leave the cache is not offered
                if entry.path in files:
                    raise not_a_hub_error(endpoint, f"a listing with two files {entry.path!r}")
                files[entry.path] = file_of(entry)
            page = link and next_page(*link, first=first, endpoint=endpoint)
            is_endless = page in seen or len(seen) >= _MAX_TREE_PAGES or len(files) > _MAX_FILES
            if link and (page is None or is_endless):
                raise not_a_hub_error(endpoint, "a listing whose next page cannot be followed")
        return tuple(files.values())

    async def _resolved(self, headers: httpx.Headers, asked: str, context: _Context) -> ResolvedFile:
        endpoint = self._settings.endpoint
        repo_id, revision, filename = context.repo_id or "", context.revision or "", context.filename or ""
        # Some mirrors answer 200 and still name the storage in Location.
        has_target = "location" in headers
        commit_hash = headers.get("x-repo-commit", "").strip().lower()
        if not is_commit_hash(commit_hash):
            if not has_target and "html" in headers.get("content-type", "") and "x-linked-etag" not in headers:
                raise not_a_hub_error(endpoint, "a web page where a file should be")
            commit_hash = revision if is_commit_hash(revision) else (await self._model_info(repo_id, revision)).sha
        if is_commit_hash(revision) and commit_hash != revision:
            raise not_a_hub_error(endpoint, "a file of another commit than the one asked for")
        length = headers.get("x-linked-size")
        if length is None and not has_target and not compressions(headers.get("content-encoding")):
            length = headers.get("content-length")  # with a target it may be the length of the redirect's own text
            length = None if length == "0" else length  # some servers say this to every HEAD
        etag = normalize_etag(headers.get("x-linked-etag") or headers.get("etag"))
        url = redirect_target(asked, headers["location"], endpoint=endpoint) if has_target else asked
        if url is None:
            raise not_a_hub_error(endpoint, "an address that cannot be used")
        return ResolvedFile(
            repo_id=repo_id,
            commit_hash=commit_hash,
            filename=filename,
            size=self._size(length),
            sha256=etag if is_sha256(etag) and etag != normalize_etag(headers.get("x-xet-hash")) else None,
            etag=etag,
            is_linked="x-linked-etag" in headers,
            url=url,
            is_signed_elsewhere=not is_same_origin(url, endpoint),
        )

    def _size(self, text: str | None) -> int | None:
        if text is None:
            return None
        if not re.fullmatch(r"\d{1,16}", text.strip()):
            raise not_a_hub_error(self._settings.endpoint, "a size that is not a number")
        return int(text)

    async def _ask_for_range(self, resolved: ResolvedFile, start: int, stop: int) -> bytes:
        wanted = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        context = _Context(repo_id=resolved.repo_id, revision=resolved.commit_hash, filename=resolved.filename)
        async with self._open("GET", resolved.url, wanted, follows=lambda _answer, _target: True) as answer:
            if answer.status_code == 200:
                raise ServerError(f"{host_of(str(answer.url))} does not serve parts of files. Use another endpoint.")
            if answer.status_code != 206:
                raise self._error_from(answer, context)
            match = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
            total = int(match[3]) if match and match[3] != "*" else resolved.size
            last = stop - 1 if total is None else min(stop, total) - 1
            if match is None or (int(match[1]), int(match[2])) != (start, last):
                raise ServerError(
                    f"{host_of(str(answer.url))} sent other bytes than the ones asked for. Try again later."
                )
            if resolved.size is not None and total != resolved.size:
                raise ContentChangedError(
                    f"The size of {resolved.filename!r} on the Hub has changed. List the files again."
                )
            if compressions(answer.headers.get("content-encoding")):
                raise ServerError(f"{host_of(str(answer.url))} compressed a part of a file. Use another endpoint.")
            body = await _read(answer, last - start + 1)
        if len(body) != last - start + 1:
            raise ServerError(f"{host_of(str(answer.url))} sent fewer bytes than it announced. Try again.")
        return body

    # --- requests ---

    async def _get_json(
        self, url: str, into: type[T], context: _Context | None = None
    ) -> tuple[T, tuple[str, str] | None]:
        """Return the checked body, and for the next page the address that answered with the link it gave."""

        async def ask() -> tuple[T, tuple[str, str] | None]:
            async with self._open("GET", url, _JSON_HEADERS, follows=self._follows) as answer:
                if not answer.is_success:
                    raise self._error_from(answer, context or _Context())
                if compressions(answer.headers.get("content-encoding")) - {"gzip"}:
                    raise not_a_hub_error(self._settings.endpoint, "JSON with a compression that was not asked for")
                body = await _read(answer, self._limits.json_bytes)
                link = answer.links.get("next", {}).get("url")
                return self._decode(body, into), (str(answer.url), link) if link else None

        return await self._retrying("api", ask)

    def _decode(self, body: bytes, into: type[T]) -> T:
        if len(body) > self._limits.json_bytes:
            raise not_a_hub_error(self._settings.endpoint, f"more than {self._limits.json_bytes} bytes of JSON")
        try:
            return msgspec.json.decode(body, type=into)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            what = "a web page where JSON should be" if body.lstrip()[:1] == b"<" else "JSON of an unknown shape"
            raise not_a_hub_error(self._settings.endpoint, what) from error

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        follows: Callable[[httpx.Response, str], bool],
    ) -> AsyncIterator[httpx.Response]:
        """Open an answer with its body still to be read; ``follows`` decides for a redirect and its target."""
        endpoint = self._settings.endpoint
        asked = url
        try:
            for _ in range(MAX_REDIRECTS + 1):
                token = authorization_headers(asked, endpoint=endpoint, token=self._settings.token)
                async with self._http.stream(method, asked, headers={**headers, **token}) as answer:
                    if is_same_origin(answer.url, endpoint):
                        self._rate_limits.observe(answer.headers, now=time.monotonic())
                    target = None
                    if answer.has_redirect_location:
                        target = redirect_target(asked, answer.headers["location"], endpoint=endpoint)
                    if target is None or not follows(answer, target):
                        yield answer
                        return
                    asked = target
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            storage_of = None if is_hub_url(asked, endpoint) else endpoint
            raise error_from_exception(error, endpoint=asked, storage_of=storage_of) from error
        raise not_a_hub_error(endpoint, "redirects without end")

    async def _retrying(self, bucket: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the outcome of ``ask``, repeated after passing failures and never before the rate limit allows it."""
        if self._settings.is_offline:
            raise offline_mode_error()
        for failures in range(1, _MAX_TRIES + 1):
            await self._respect_rate_limit(bucket)
            try:
                with anyio.fail_after(self._limits.call_seconds):
                    return await ask()
            except TimeoutError as error:
                raise error_from_exception(error, endpoint=self._settings.endpoint) from error
            except ModelDeckError as error:
                wait = _wait_seconds(error, failures, self._limits)
                if wait is None:
                    raise
            await anyio.sleep(wait)
        raise AssertionError("the last try returns or raises")

    async def _respect_rate_limit(self, bucket: str) -> None:
        wait = self._rate_limits.wait_seconds(bucket, now=time.monotonic())
        if wait > _MAX_PATIENCE_SECONDS:
            raise RateLimitedError(
                f"The Hub's rate limit is reached. Try again in {round(wait)} s; with a token the limit is higher.",
                retry_after_seconds=wait,
            )
        await anyio.sleep(wait)

    def _follows(self, _answer: httpx.Response, target: str) -> bool:
        """Follow only to a Hub: an API that sends a client elsewhere is not the Hub's."""
        return is_hub_url(target, self._settings.endpoint)

    def _follows_to_file(self, answer: httpx.Response, target: str) -> bool:
        """Follow up to the redirect that has a large file's digest or leads away from the Hub."""
        is_last = "x-linked-size" in answer.headers and is_sha256(normalize_etag(answer.headers.get("x-linked-etag")))
        return not is_last and is_hub_url(target, self._settings.endpoint)

    def _error_from(self, answer: httpx.Response, context: _Context) -> ModelDeckError:
        endpoint = self._settings.endpoint
        return error_from_response(
            answer.status_code,
            answer.headers,
            repo_id=context.repo_id,
            revision=context.revision,
            filename=context.filename,
            endpoint=endpoint,
            is_hub=is_hub_url(answer.url, endpoint),
            has_token="authorization" in answer.request.headers,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    """The names that a request is about, for the messages of its errors."""

    repo_id: str | None = None
    revision: str | None = None
    filename: str | None = None


# --- pure helpers -----------------------------------------------------------------------------------------------------


def _wait_seconds(error: ModelDeckError, failures: int, limits: ClientLimits) -> float | None:
    """Return the seconds until the next try, or ``None`` when there is not to be one."""
    if failures >= _MAX_TRIES or not is_transient(error):
        return None
    asked: float | None = error.details.get("retry_after_seconds")
    if asked is not None:
        return asked if asked <= _MAX_PATIENCE_SECONDS else None
    if isinstance(error, NetworkTimeoutError):
        return None  # it has taken enough time already
    return backoff_seconds(failures, base_seconds=limits.retry_seconds, cap_seconds=_MAX_BACKOFF_SECONDS)


async def _read(answer: httpx.Response, max_bytes: int) -> bytes:
    """Return the body, but no more than a little over ``max_bytes`` of it."""
    body = bytearray()
    async for data in answer.aiter_bytes():
        body += data
        if len(body) > max_bytes:
            break
    return bytes(body)
