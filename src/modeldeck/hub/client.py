"""The Hub, asked asynchronously: search, listings, where a file's bytes are, and single ranges of them.

Everything that comes back is untrusted: bodies are bounded while they stream, JSON is checked by msgspec, redirects are
followed by hand, and the token goes to the endpoint's own origin only.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from http.cookiejar import CookieJar, DefaultCookiePolicy
from platform import python_version
from typing import Annotated, Any, Literal, TypeVar

import anyio
import httpx
import msgspec

from modeldeck import __version__
from modeldeck._errors import (
    ContentChangedError,
    InvalidRequestError,
    ModelDeckError,
    NetworkTimeoutError,
    RateLimitedError,
    ServerError,
)
from modeldeck._settings import Settings
from modeldeck._types import Gated, GGUFFile, ModelSummary, RepoListing, SearchPage, SearchQuery
from modeldeck.hub.errors import (
    UNUSABLE_SETTINGS,
    error_from_environment,
    error_from_exception,
    error_from_response,
    host_of,
    is_transient,
    not_a_hub_error,
    offline_mode_error,
)
from modeldeck.hub.ratelimit import RateLimits
from modeldeck.hub.urls import (
    authorization_headers,
    check_filename,
    check_repo_id,
    is_commit_hash,
    is_hub_url,
    is_same_origin,
    is_sha256,
    join_url,
    model_info_url,
    normalize_etag,
    resolve_url,
    search_url,
    tree_url,
)

MAX_JSON_BYTES = 32 * 2**20
MAX_RANGE_BYTES = 64 * 2**20
USER_AGENT = f"modeldeck/{__version__}; python/{python_version()}"

_MAX_REDIRECTS = 5
_MAX_TREE_PAGES = 200
_MAX_FILES = 100_000
_TIMEOUT = httpx.Timeout(connect=10.0, read=20.0, write=20.0, pool=30.0)
_CALL_TIMEOUT_SECONDS = 60.0
"""One answer, whole: a body that trickles in never trips the read timeout."""
_BACKOFF_SECONDS = (0.5, 1.5)
_MAX_PATIENCE_SECONDS = 5.0
"""A rate limit that ends later than this is told to the user rather than waited for."""
_NO_HEAD = (405, 501)
_ADDRESS_EXPIRED = (401, 403, 404, 410)
_JSON_HEADERS = {"Accept": "application/json", "Accept-Encoding": "gzip"}
"""No other packing: a few bytes of brotli or zstd can unpack to gigabytes before anybody can count them."""
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_LICENSE_TAG = "license:"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedFile:
    """A file at one commit, and where its bytes are now.

    ``sha256`` is the content's (``X-Linked-Etag``; a mirror may send it as its ``ETag``), ``None`` for small git files,
    whose ``etag`` is git's sha1. ``url`` may be signed and is good for about an hour: never store it, never log it.
    ``is_signed_elsewhere`` says that it leads away from the Hub, so that no token goes there and a 403 means: resolve
    again.
    """

    repo_id: str
    commit_hash: str
    filename: str
    size: int | None
    sha256: str | None
    etag: str | None
    url: str = field(repr=False)
    is_signed_elsewhere: bool


# --- what the Hub sends -----------------------------------------------------------------------------------------------

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Text = Annotated[str, msgspec.Meta(max_length=256)]
_Tags = Annotated[tuple[_Text, ...], msgspec.Meta(max_length=1000)]
_Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}\\Z")]
_GitHash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{40}\\Z")]


class _SearchRow(msgspec.Struct, kw_only=True):
    """One repository of a search. "Upstream API shape is not a contract": all but the id may be anything."""

    id: str
    downloads: Any = None
    likes: Any = None
    lastModified: Any = None  # noqa: N815
    gated: Any = None
    private: Any = None
    tags: Any = None
    pipeline_tag: Any = None
    gguf: Any = None


class _ModelInfo(_SearchRow, kw_only=True):
    sha: _GitHash
    cardData: Any = None  # noqa: N815


class _Lfs(msgspec.Struct):
    oid: _Digest
    size: _Count
    pointerSize: _Count | None = None  # noqa: N815


class _TreeEntry(msgspec.Struct):
    type: str
    path: str
    oid: _GitHash | None = None
    size: _Count | None = None
    lfs: _Lfs | None = None


# --- the client -------------------------------------------------------------------------------------------------------


class HubClient:
    """Asks one Hub. Its methods raise ``ModelDeckError`` only, and may be cancelled at any point.

    Parameters
    ----------
    settings
        Endpoint, token, and whether offline mode is on.
    transport
        In place of the network, for tests. Proxy settings of the environment do not reach it.

    Raises
    ------
    TLSError, ProxyError
        When the environment's settings of certificates or proxies cannot be used.
    """

    def __init__(self, settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._rate_limits = RateLimits()
        self._last_resolved: tuple[tuple[str, str, str], ResolvedFile] | None = None
        try:
            self._http = httpx.AsyncClient(
                transport=transport,
                headers={"User-Agent": USER_AGENT},
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                timeout=_TIMEOUT,
                follow_redirects=False,
            )
        except UNUSABLE_SETTINGS as error:
            raise error_from_environment(error) from error

    @property
    def settings(self) -> Settings:
        return self._settings

    async def aclose(self) -> None:
        await self._http.aclose()

    async def search(self, query: SearchQuery, cursor: str | None = None) -> SearchPage:
        """One page of GGUF repositories that match; ``cursor`` is the page before's ``next_cursor``."""
        first = search_url(self._settings.endpoint, query)
        if cursor is not None and not self._is_page_of(cursor, first):
            raise InvalidRequestError("The cursor is not of a search at this endpoint. Search again from the start.")
        rows, next_page = await self._get_json(cursor or first, list[_SearchRow])
        models = tuple(_summary(row) for row in rows if _is_repo_id(row.id))
        return SearchPage(
            query=query,
            models=models,
            next_cursor=next_page if next_page and self._is_page_of(next_page, first) else None,
        )

    async def listing(self, repo_id: str, revision: str = "main") -> RepoListing:
        """All files of a repository at the commit that ``revision`` means now, under its canonical id.

        Raises
        ------
        ServerError
            Also when a file's size and sha256 cannot belong to one git-lfs pointer.
        """
        info = await self._model_info(repo_id, revision)
        card = _optional(info.cardData, dict[str, Any]) or {}
        gguf = _optional(info.gguf, dict[str, Any]) or {}
        tags = _optional(info.tags, _Tags) or ()
        return RepoListing(
            repo_id=info.id,
            revision=revision,
            commit_hash=info.sha,
            files=await self._files(info.id, info.sha),
            gated=_optional(info.gated, _GATED),
            license=_license(tags) or _optional(card.get("license"), _Text),
            tags=tags,
            downloads=_optional(info.downloads, _Count),
            likes=_optional(info.likes, _Count),
            last_modified=_optional(info.lastModified, _Text),
            parameter_count=_optional(gguf.get("total"), _Count),
        )

    async def resolve(self, repo_id: str, revision: str, filename: str) -> ResolvedFile:
        """Commit, size, sha256 and address of a file, from the Hub's first answer: the storage tells none of them."""
        url = resolve_url(self._settings.endpoint, repo_id, revision, filename)
        context = _Context(repo_id=repo_id, revision=revision, filename=filename)

        async def ask(method: str) -> httpx.Response:
            async with self._open(
                method, url, {"Accept-Encoding": "identity"}, follows=self._follows_to_file
            ) as answer:
                has_no_head = method == "HEAD" and answer.status_code in _NO_HEAD
                if not (answer.is_success or answer.has_redirect_location or has_no_head):
                    raise self._error_from(answer, context)
                return answer

        answer = await self._retrying("resolvers", lambda: ask("HEAD"))
        if answer.status_code in _NO_HEAD:
            answer = await self._retrying("resolvers", lambda: ask("GET"))
        return await self._resolved(answer.headers, str(answer.url), context)

    async def fetch_range(self, repo_id: str, revision: str, filename: str, start: int, stop: int) -> bytes:
        """The bytes ``start`` to ``stop`` (exclusive) of a file, fewer only where the file ends."""
        if not 0 <= start < stop or stop - start > MAX_RANGE_BYTES:
            raise InvalidRequestError(f"A range must hold 1 to {MAX_RANGE_BYTES} bytes, not {start} to {stop}.")
        asked, known = (repo_id, revision, filename), self._last_resolved
        if known is None or known[0] != asked:
            return await self._read_range(await self._resolve_and_keep(*asked), start, stop)
        try:
            return await self._read_range(known[1], start, stop)
        except ServerError as error:
            if error.details.get("status_code") not in _ADDRESS_EXPIRED:
                raise
        return await self._read_range(await self._resolve_and_keep(*asked), start, stop)

    async def _resolve_and_keep(self, repo_id: str, revision: str, filename: str) -> ResolvedFile:
        """A header is read in several ranges: the address of the last file at a pinned commit is kept for the next."""
        resolved = await self.resolve(repo_id, revision, filename)
        if is_commit_hash(revision):
            self._last_resolved = (repo_id, revision, filename), resolved
        return resolved

    async def _read_range(self, resolved: ResolvedFile, start: int, stop: int) -> bytes:
        if resolved.size is not None and start >= resolved.size:
            raise InvalidRequestError(f"{resolved.filename!r} has {resolved.size} bytes: none at {start}.")
        return await self._retrying("resolvers", lambda: self._ask_for_range(resolved, start, stop))

    # --- answers ---

    async def _model_info(self, repo_id: str, revision: str) -> _ModelInfo:
        url = model_info_url(self._settings.endpoint, repo_id, revision)
        info, _ = await self._get_json(url, _ModelInfo, _Context(repo_id=repo_id, revision=revision))
        if not _is_repo_id(info.id):
            raise not_a_hub_error(self._settings.endpoint, "a model without a valid id")
        return info

    async def _files(self, repo_id: str, commit_hash: str) -> tuple[GGUFFile, ...]:
        first = tree_url(self._settings.endpoint, repo_id, commit_hash)
        page: str | None = first
        context = _Context(repo_id=repo_id, revision=commit_hash)
        files: dict[str, GGUFFile] = {}
        seen: set[str] = set()
        while page is not None:
            is_endless = page in seen or len(seen) >= _MAX_TREE_PAGES or len(files) > _MAX_FILES
            if is_endless or not self._is_page_of(page, first):
                raise not_a_hub_error(self._settings.endpoint, "a listing whose next page cannot be followed")
            seen.add(page)
            entries, page = await self._get_json(page, list[_TreeEntry], context)
            for entry in entries:
                if entry.type != "file" or not _is_filename(entry.path):
                    continue  # a name that could leave the cache is not offered
                if entry.path in files:
                    raise not_a_hub_error(self._settings.endpoint, f"a listing with two files {entry.path!r}")
                files[entry.path] = self._file(entry)
        return tuple(files.values())

    def _file(self, entry: _TreeEntry) -> GGUFFile:
        if entry.lfs is None:
            return GGUFFile(filename=entry.path, size=entry.size, oid=entry.oid)
        if not _is_consistent(entry, entry.lfs):
            raise ServerError(
                f"{host_of(self._settings.endpoint)} lists {entry.path!r} with a size and a sha256 that do not belong "
                "together. Try again later, or use another endpoint."
            )
        return GGUFFile(filename=entry.path, size=entry.lfs.size, sha256=entry.lfs.oid, oid=entry.oid)

    async def _resolved(self, headers: httpx.Headers, asked: str, context: _Context) -> ResolvedFile:
        endpoint = self._settings.endpoint
        repo_id, revision, filename = context.repo_id or "", context.revision or "", context.filename or ""
        # Some mirrors answer 200 and name the storage in Location all the same.
        has_target = "location" in headers
        commit_hash = headers.get("x-repo-commit", "").strip().lower()
        if not is_commit_hash(commit_hash):
            if not has_target and "html" in headers.get("content-type", "") and "x-linked-etag" not in headers:
                raise not_a_hub_error(endpoint, "a web page where a file should be")
            commit_hash = revision if is_commit_hash(revision) else (await self._model_info(repo_id, revision)).sha
        if is_commit_hash(revision) and commit_hash != revision:
            raise not_a_hub_error(endpoint, "a file of another commit than it was asked for")
        length = headers.get("x-linked-size")
        if length is None and not has_target and "content-encoding" not in headers:
            length = headers.get("content-length")  # with a target it may be the length of the redirect's own text
        etag = normalize_etag(headers.get("x-linked-etag") or headers.get("etag"))
        url = join_url(asked, headers["location"]) if has_target else asked
        if url is None:
            raise not_a_hub_error(endpoint, "an address that cannot be used")
        return ResolvedFile(
            repo_id=repo_id,
            commit_hash=commit_hash,
            filename=filename,
            size=self._size(length),
            sha256=etag if is_sha256(etag) and etag != normalize_etag(headers.get("x-xet-hash")) else None,
            etag=etag,
            url=url,
            is_signed_elsewhere=not is_same_origin(url, endpoint),
        )

    def _size(self, text: str | None) -> int | None:
        if text is None:
            return None
        if not re.fullmatch(r"\d{1,16}", text.strip()):
            raise not_a_hub_error(self._settings.endpoint, "a size that is no number")
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
                    f"{host_of(str(answer.url))} sent other bytes than it was asked for. Try again later."
                )
            if resolved.size is not None and total != resolved.size:
                raise ContentChangedError(f"{resolved.filename!r} has another size than before. List the files again.")
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise ServerError(f"{host_of(str(answer.url))} packed a part of a file. Use another endpoint.")
            body = await _read(answer, last - start + 1)
        if len(body) != last - start + 1:
            raise ServerError(f"{host_of(str(answer.url))} sent fewer bytes than it promised. Try again.")
        return body

    # --- requests ---

    async def _get_json(self, url: str, into: type[T], context: _Context | None = None) -> tuple[T, str | None]:
        """The body, checked, and the address of the next page if there is one."""

        async def ask() -> tuple[T, str | None]:
            async with self._open("GET", url, _JSON_HEADERS, follows=self._follows) as answer:
                if not answer.is_success:
                    raise self._error_from(answer, context or _Context())
                if answer.headers.get("content-encoding", "identity") not in ("identity", "gzip"):
                    raise not_a_hub_error(self._settings.endpoint, "JSON packed in a way nobody asked for")
                body = await _read(answer, MAX_JSON_BYTES)
                link = answer.links.get("next", {}).get("url")
                return self._decode(body, into), join_url(str(answer.url), link) if link else None

        return await self._retrying("api", ask)

    def _decode(self, body: bytes, into: type[T]) -> T:
        if len(body) > MAX_JSON_BYTES:
            raise not_a_hub_error(self._settings.endpoint, f"more than {MAX_JSON_BYTES} bytes of JSON")
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
        """An answer with its body still to be read; ``follows`` says of a redirect and its target whether to go on."""
        endpoint = self._settings.endpoint
        asked = url
        try:
            for _ in range(_MAX_REDIRECTS + 1):
                token = authorization_headers(asked, endpoint=endpoint, token=self._settings.token)
                async with self._http.stream(method, asked, headers={**headers, **token}) as answer:
                    if is_same_origin(answer.url, endpoint):
                        self._rate_limits.observe(answer.headers, now=time.monotonic())
                    target = join_url(asked, answer.headers["location"]) if answer.has_redirect_location else None
                    if target is None or not follows(answer, target):
                        yield answer
                        return
                    asked = target
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise error_from_exception(error, endpoint=asked) from error
        raise not_a_hub_error(endpoint, "redirects without end")

    async def _retrying(self, bucket: str, ask: Callable[[], Awaitable[T]]) -> T:
        """The outcome of ``ask``, tried again a few times over what may pass, and not before the rate limit allows."""
        if self._settings.is_offline:
            raise offline_mode_error()
        for pause in (*_BACKOFF_SECONDS, None):
            await self._respect_rate_limit(bucket)
            try:
                with anyio.fail_after(_CALL_TIMEOUT_SECONDS):
                    return await ask()
            except TimeoutError as error:
                raise error_from_exception(error, endpoint=self._settings.endpoint) from error
            except ModelDeckError as error:
                wait = _wait_seconds(error, pause)
                if wait is None:
                    raise
            await anyio.sleep(wait)
        raise AssertionError("the last try returns or raises")

    async def _respect_rate_limit(self, bucket: str) -> None:
        wait = self._rate_limits.wait_seconds(bucket, now=time.monotonic())
        if wait > _MAX_PATIENCE_SECONDS:
            raise RateLimitedError(
                f"The Hub allows no more requests for {round(wait)} s. Try again then; a token raises the limit.",
                retry_after_seconds=wait,
            )
        await anyio.sleep(wait)

    def _follows(self, _answer: httpx.Response, target: str) -> bool:
        """Only the Hub's own addresses: an API that sends elsewhere is not one."""
        return is_hub_url(target, self._settings.endpoint)

    def _follows_to_file(self, answer: httpx.Response, target: str) -> bool:
        """As far as the redirect that carries a large file's digest, or that leads away from the Hub."""
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
        )

    def _is_page_of(self, page: str, first: str) -> bool:
        """Whether an address from a ``Link`` header or a cursor is one of the list that ``first`` begins."""
        try:
            same_path = httpx.URL(page).path == httpx.URL(first).path
        except httpx.InvalidURL:
            return False
        return same_path and is_hub_url(page, self._settings.endpoint)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    """What a request was about, for the messages of its errors."""

    repo_id: str | None = None
    revision: str | None = None
    filename: str | None = None


# --- pure helpers -----------------------------------------------------------------------------------------------------

_GATED = Literal["auto", "manual"] | bool


def _wait_seconds(error: ModelDeckError, pause: float | None) -> float | None:
    """Seconds until the next try, or ``None`` for no next try. Full jitter, or what the server asked for."""
    if pause is None or not is_transient(error):
        return None
    asked: float | None = error.details.get("retry_after_seconds")
    if asked is not None:
        return asked if asked <= _MAX_PATIENCE_SECONDS else None
    if isinstance(error, NetworkTimeoutError):
        return None  # it has cost enough time already
    return random.uniform(0, pause)


async def _read(answer: httpx.Response, max_bytes: int) -> bytes:
    """The body, but no more than a little over ``max_bytes`` of it."""
    body = bytearray()
    async for data in answer.aiter_bytes():
        body += data
        if len(body) > max_bytes:
            break
    return bytes(body)


def _optional(value: object, wanted: Any) -> Any:
    """The value if it is of the wanted type, else ``None``: decoration must not cost the row it decorates."""
    if value is None:
        return None
    try:
        return msgspec.convert(value, wanted)
    except msgspec.ValidationError:
        return None


def _is_repo_id(text: str) -> bool:
    try:
        check_repo_id(text)
    except InvalidRequestError:
        return False
    return True


def _is_filename(text: str) -> bool:
    try:
        check_filename(text)
    except InvalidRequestError:
        return False
    return True


def _license(tags: tuple[str, ...]) -> str | None:
    return next((tag.removeprefix(_LICENSE_TAG) for tag in tags if tag.startswith(_LICENSE_TAG)), None)


def _is_consistent(entry: _TreeEntry, lfs: _Lfs) -> bool:
    """Whether size and sha256 make the git-lfs pointer whose git hash the entry has.

    References
    ----------
    https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
    """
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{lfs.oid}\nsize {lfs.size}\n".encode()
    if entry.size not in (None, lfs.size) or lfs.pointerSize not in (None, len(pointer)):
        return False
    blob = b"blob %d\0" % len(pointer) + pointer
    return entry.oid is None or entry.oid == sha1(blob, usedforsecurity=False).hexdigest()


def _summary(row: _SearchRow) -> ModelSummary:
    gguf: dict[str, Any] = _optional(row.gguf, dict[str, Any]) or {}
    tags: tuple[str, ...] = _optional(row.tags, _Tags) or ()
    gated: Gated = _optional(row.gated, _GATED)
    return ModelSummary(
        repo_id=row.id,
        downloads=_optional(row.downloads, _Count),
        likes=_optional(row.likes, _Count),
        last_modified=_optional(row.lastModified, _Text),
        gated=gated,
        is_private=_optional(row.private, bool),
        tags=tags,
        license=_license(tags),
        pipeline_tag=_optional(row.pipeline_tag, _Text),
        architecture=_optional(gguf.get("architecture"), _Text),
        parameter_count=_optional(gguf.get("total"), _Count),
        context_length=_optional(gguf.get("context_length"), _Count),
        has_chat_template="chat_template" in gguf if gguf else None,
    )
