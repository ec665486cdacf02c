"""Decides which answer a request gets, on the hub's origin and on the CDN's. No sockets are involved."""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import itertools
import json
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qs, quote, unquote, urlencode

from tools.localhub import documents
from tools.localhub.catalogue import EPOCH, Blob, Catalogue, Commit, Repo
from tools.localhub.messages import (
    HTTPAnswer,
    HTTPRequest,
    body_answer,
    json_answer,
    redirect_answer,
    text_answer,
)

_PUBLIC_HUB = "https://huggingface.co"
_CDN_PREFIX = "/xet-bridge-local/"
_REPO_ROUTES = {"revision", "tree", "paths-info", "refs", "resolve"}
_LIST_LIMIT = 1000
_WINDOW_SECONDS = 300
_AUTHENTICATE = ("WWW-Authenticate", 'Bearer realm="Authentication required", charset="UTF-8"')


@dataclass(slots=True)
class RateWindow:
    """A fixed window with a quota of requests; further ones are refused until it ends."""

    quota: int
    seconds: float = _WINDOW_SECONDS
    started_at: float = 0.0
    taken: int = 0

    def take(self, now: float) -> tuple[bool, int, int]:
        """Count a request. Return whether it is allowed, how many remain, and the seconds until the window ends."""
        if now - self.started_at >= self.seconds:
            self.started_at, self.taken = now, 0
        self.taken += 1
        left = self.seconds - (now - self.started_at)
        return self.taken <= self.quota, max(0, self.quota - self.taken), max(1, round(left))


@dataclass(frozen=True, slots=True)
class LocalAccount:
    """Whose a token is. ``can_read_gated`` is told of fine-grained tokens only."""

    name: str = "local-user"
    can_read_gated: bool | None = None

    def document(self) -> dict[str, object]:
        """What ``/api/whoami-v2`` answers."""
        token: dict[str, object] = {"displayName": "local", "createdAt": EPOCH, "role": "read"}
        if self.can_read_gated is not None:
            permissions = {"canReadGatedRepos": self.can_read_gated, "global": [], "scoped": []}
            token.update(role="fineGrained", fineGrained=permissions)
        auth = {"type": "access_token", "accessToken": token}
        return {"type": "user", "id": "0" * 24, "name": self.name, "isPro": False, "orgs": [], "auth": auth}


@dataclass(slots=True, kw_only=True)
class Site:
    """The hub's two origins as functions of a request.

    Parameters
    ----------
    tokens : dict of str to set of str
        The bearer tokens this hub knows, each with the gated repositories it may read.
    accounts : dict of str to LocalAccount
        Whose the tokens are; those that are not in it have an account like any other.
    pending : set of (str, str)
        Tokens with the gated repositories that their accounts have asked for and wait for.
    tree_page_size : int
        Entries of a page of ``/tree``.
    signature_seconds : float
        How long a signed CDN address is good for.
    rate_limits : mapping of str to int
        Requests in five minutes of the buckets "api", "resolvers" and "pages".
    path : str
        Serve the hub below this path, as a mirror does that passes on the answers of the Hub behind it unchanged: its
        redirects do not have the path, and its next pages are at the public Hub.
    """

    catalogue: Catalogue
    tokens: dict[str, set[str]] = field(default_factory=dict)
    accounts: dict[str, LocalAccount] = field(default_factory=dict)
    pending: set[tuple[str, str]] = field(default_factory=set)
    tree_page_size: int = 1000
    signature_seconds: float = 3600.0
    rate_limits: Mapping[str, int] = field(default_factory=dict)
    path: str = ""
    endpoint: str = ""
    cdn_origin: str = ""
    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    _windows: dict[str, RateWindow] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def expire_signatures(self) -> None:
        """Make every address signed until now invalid, as if its time were over."""
        self._secret = secrets.token_bytes(32)

    def answer(self, request: HTTPRequest) -> HTTPAnswer:
        if request.method not in ("GET", "HEAD", "POST"):
            return _error(405, "Method not allowed")
        if request.origin == "cdn":
            return self._cdn(request)
        if not request.raw_path.startswith(f"{self.path}/"):
            return _error(404, "Not found")
        return self._hub(replace(request, target=request.target.removeprefix(self.path)))

    # --- the CDN ------------------------------------------------------------------------------------------------------

    def signed_url(self, repo_id: str, filename: str, blob: Blob) -> str:
        path = f"{_CDN_PREFIX}{quote(repo_id)}/{blob.xet_hash}"
        expires = f"{time.time() + self.signature_seconds:.3f}"
        disposition = f"inline; filename*=UTF-8''{quote(filename.rpartition('/')[2])}"
        return f"{self.cdn_origin}{path}?" + urlencode(
            {
                "X-Xet-Cas-Uid": "public",
                "response-content-disposition": disposition,
                "Expires": expires,
                "Signature": self._signature(path, expires),
            }
        )

    def _signature(self, path: str, expires: str) -> str:
        return hmac.new(self._secret, f"{path} {expires}".encode(), hashlib.sha256).hexdigest()

    def _cdn(self, request: HTTPRequest) -> HTTPAnswer:
        query = parse_qs(request.query)
        expires, signature = query.get("Expires", [""])[0], query.get("Signature", [""])[0]
        blob = self.catalogue.blob(request.raw_path.rpartition("/")[2])
        if blob is None or not request.raw_path.startswith(_CDN_PREFIX):
            return _xml_error(404, "NoSuchKey", "The specified key does not exist.")
        if not hmac.compare_digest(signature, self._signature(request.raw_path, expires)):
            return _xml_error(403, "AccessDenied", "Access denied")
        if float(expires) < time.time():
            return _xml_error(403, "AccessDenied", "HTTPRequest has expired")
        headers = (
            ("ETag", f'"{blob.xet_hash}"'),
            ("Accept-Ranges", "bytes"),
            ("Content-Type", "application/octet-stream"),
            ("Cache-Control", "public, max-age=31536000"),
        )
        return body_answer(request, blob.body, headers)

    # --- the hub ------------------------------------------------------------------------------------------------------

    def _hub(self, request: HTTPRequest) -> HTTPAnswer:
        segments = request.raw_path.strip("/").split("/")
        bucket = _bucket(segments)
        quota = self.rate_limits.get(bucket, 1_000_000)
        is_allowed, remaining, reset = self._windows.setdefault(bucket, RateWindow(quota)).take(time.monotonic())
        if not is_allowed:
            answer = _error(429, "We had to rate limit you. Retry later or log in.")
        elif request.token is not None and request.token not in self.tokens and bucket != "resolvers":
            answer = _error(401, "Invalid credentials in Authorization header")
        elif segments == ["api", "whoami-v2"]:
            answer = self._whoami(request)
        elif segments[:2] == ["api", "models"]:
            answer = self._api(request, segments[2:])
        elif segments[:3] == ["api", "resolve-cache", "models"]:
            answer = self._resolve_cache(request, segments[3:])
        elif segments[0] == "api":
            answer = _error(404, "Not found")
        else:
            answer = self._page_or_resolve(request, segments)
        headers = (
            ("RateLimit", f'"{bucket}";r={remaining};t={reset}'),
            ("RateLimit-Policy", f'"fixed window";"{bucket}";q={quota};w={_WINDOW_SECONDS}'),
            ("X-HTTPRequest-Id", f"Root=local-{next(self._numbers)}"),
        )
        return replace(answer, headers=answer.headers + headers)

    def _whoami(self, request: HTTPRequest) -> HTTPAnswer:
        if request.token is None:
            return _error(401, "Invalid username or password.", headers=[_AUTHENTICATE])
        return json_answer(self.accounts.get(request.token, LocalAccount()).document())

    def _repo(self, request: HTTPRequest, raw_id: str) -> Repo | HTTPAnswer:
        """Return the repository, the redirect to its present id, or the error."""
        repo_id = unquote(raw_id)
        repo = self.catalogue.get(repo_id)
        if repo is not None:
            return repo
        canonical = self.catalogue.canonical_id(repo_id)
        if canonical is not None:
            pattern = rf"(?<=/){re.escape(raw_id)}(?=[/?]|$)"
            return redirect_answer(re.sub(pattern, quote(canonical), request.target, count=1), 307)
        if request.token is None or request.token not in self.tokens:
            # The Hub sends no code here, and huggingface_hub then decides by the https:// of the address.
            code = None if self.endpoint.startswith("https://") else "RepoNotFound"
            return _error(401, "Invalid username or password.", code, headers=[_AUTHENTICATE])
        return _error(404, "Repository not found", "RepoNotFound")

    def _split_repo(self, segments: list[str], routes: Iterable[str]) -> tuple[str, list[str]]:
        """Split a path into a repository id, of one part (legacy) or two, and the rest."""
        is_legacy = len(segments) == 1 or (segments[1] in routes and self.catalogue.get("/".join(segments[:2])) is None)
        cut = 1 if is_legacy else 2
        return "/".join(segments[:cut]), segments[cut:]

    def _api(self, request: HTTPRequest, segments: list[str]) -> HTTPAnswer:
        if not segments:
            return self._search(request)
        repo_id, rest = self._split_repo(segments, _REPO_ROUTES)
        repo = self._repo(request, repo_id)
        if isinstance(repo, HTTPAnswer):
            return repo
        match rest:
            case ["refs"]:
                return json_answer(documents.refs(repo))
            case [] | ["revision", _]:
                revision = unquote(rest[1]) if rest else "main"
            case ["tree" | "paths-info", raw_revision, *_]:
                revision = unquote(raw_revision)
            case _:
                return _error(404, "Not found")
        found = repo.resolve(revision)
        if found is None:
            return _error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        commit_hash, commit = found
        if rest[:1] == ["tree"]:
            return self._tree(request, commit, unquote("/".join(rest[2:])))
        if rest[:1] == ["paths-info"]:
            return _paths_info(request, commit)
        return _info(request, repo, commit_hash)

    def _search(self, request: HTTPRequest) -> HTTPAnswer:
        query = parse_qs(request.query)
        first = {name: values[0] for name, values in query.items()}
        sort = first.get("sort", "trendingScore")
        expand = _words(query, "expand", "expand[]")
        unknown = sorted(set(expand) - documents.EXPANDABLE)
        offset = _offset_of(first.get("cursor"))
        limit = first.get("limit", str(_LIST_LIMIT))
        if not documents.is_sortable(sort):
            return _error(400, f'"sort" must not be {sort}')
        if unknown:
            return _error(400, f'"expand" must not have {", ".join(unknown)}')
        if expand and ("full" in first or "cardData" in first or "config" in first):
            return _error(400, '"expand" must not exist together with "full", "cardData" or "config"')
        sizes = documents.parse_sizes(first["num_parameters"]) if "num_parameters" in first else (None, None)
        if sizes is None:
            return _error(400, '"num_parameters" is invalid')
        if offset is None or not limit.isdecimal() or int(limit) == 0:
            return _error(400, '"cursor" or "limit" is invalid')
        gated = first.get("gated")
        found = documents.select(
            self.catalogue.all(),
            documents.ListQuery(
                search=first.get("search", ""),
                filters=_words(query, "filter"),
                author=first.get("author"),
                pipeline_tag=first.get("pipeline_tag"),
                gated=None if gated is None else gated.lower() == "true",
                apps=_words(query, "apps"),
                min_parameters=sizes[0],
                max_parameters=sizes[1],
                sort=sort,
                is_ascending=first.get("direction") == "1",
            ),
        )
        stop = offset + min(int(limit), _LIST_LIMIT)
        fields = documents.list_fields(is_full=_flag(first, "full"), expand=expand)
        page = [documents.document(repo, repo.refs["main"], fields=fields) for repo in found[offset:stop]]
        return json_answer(page, headers=self._next_link(request, stop) if stop < len(found) else ())

    def _tree(self, request: HTTPRequest, commit: Commit, folder: str) -> HTTPAnswer:
        query = {name: values[0] for name, values in parse_qs(request.query).items()}
        entries = documents.tree(commit, folder.strip("/"), recursive=_flag(query, "recursive"))
        if entries is None or folder.strip("/") in commit.files:
            return _error(404, f"{folder} does not exist on the given revision", "EntryNotFound")
        offset = _offset_of(query.get("cursor"))
        if offset is None:
            return _error(400, '"cursor" is invalid')
        limit = query.get("limit", "")
        stop = offset + min(int(limit) if limit.isdecimal() and int(limit) else _LIST_LIMIT, self.tree_page_size)
        return json_answer(entries[offset:stop], headers=self._next_link(request, stop) if stop < len(entries) else ())

    def _next_link(self, request: HTTPRequest, offset: int) -> list[tuple[str, str]]:
        query = {name: values for name, values in parse_qs(request.query).items() if name != "cursor"}
        cursor = base64.urlsafe_b64encode(json.dumps({"offset": offset}).encode()).decode()
        hub = _PUBLIC_HUB if self.path else self.endpoint
        url = f"{hub}{request.raw_path}?{urlencode({**query, 'cursor': [cursor]}, doseq=True)}"
        return [("Link", f'<{url}>; rel="next"')]

    def _page_or_resolve(self, request: HTTPRequest, segments: list[str]) -> HTTPAnswer:
        repo_id, rest = self._split_repo(segments, {"resolve"})
        if not repo_id:
            return text_answer("modeldeck local hub", content_type="text/html")
        repo = self._repo(request, repo_id)
        if isinstance(repo, HTTPAnswer):
            return repo
        if not rest:
            return _page(repo)
        if rest[0] != "resolve" or len(rest) < 3:
            return _error(404, "Not found")
        return self._resolve(request, repo, unquote(rest[1]), unquote("/".join(rest[2:])))

    def _access_error(self, request: HTTPRequest, repo: Repo) -> HTTPAnswer | None:
        if repo.is_disabled:
            return _error(403, "Access to this resource is disabled.")
        is_known = request.token is not None and request.token in self.tokens
        if repo.gated:
            restricted = f"Access to model {repo.repo_id} is restricted"
            if not is_known:
                message = f"{restricted}. You must have access to it and be authenticated to access it. Please log in."
                return _error(401, message, "GatedRepo", headers=[_AUTHENTICATE])
            token = request.token or ""
            if (token, repo.repo_id) in self.pending:
                message = f"Your request to access model {repo.repo_id} is awaiting a review from the repo authors."
                return _error(403, message, "GatedRepo")
            if self.accounts.get(token, LocalAccount()).can_read_gated is False:
                advice = "Please enable access to public gated repositories in your fine-grained token settings"
                return _error(403, f"{advice} to view this repository.")
            if repo.repo_id not in self.tokens[token]:
                where = f"{self.endpoint}/{repo.repo_id}"
                message = f"{restricted} and you are not in the authorized list. Visit {where} to ask for access."
                return _error(403, message, "GatedRepo")
        elif request.token is not None and not is_known:
            return _error(401, "Invalid credentials in Authorization header")
        return None

    def _resolve(self, request: HTTPRequest, repo: Repo, revision: str, filename: str) -> HTTPAnswer:
        refused = self._access_error(request, repo)
        if refused is not None:
            return refused
        found = repo.resolve(revision)
        if found is None:
            return _error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        commit_hash, commit = found
        blob = commit.files.get(filename)
        if blob is None:
            return _error(404, "Entry not found", "EntryNotFound", headers=[("X-Repo-Commit", commit_hash)])
        linked = (
            ("X-Repo-Commit", commit_hash),
            ("X-Linked-Size", str(blob.size)),
            ("X-Linked-Etag", f'"{blob.sha256 if blob.is_lfs else blob.oid}"'),
        )
        if not blob.is_lfs:
            target = f"/api/resolve-cache/models/{repo.repo_id}/{commit_hash}/{quote(filename)}"
            return redirect_answer(target, 307, linked)
        headers = (*linked, ("Accept-Ranges", "bytes"), ("Cache-Control", "no-store"))
        return redirect_answer(self.signed_url(repo.repo_id, filename, blob), 302, headers)

    def _resolve_cache(self, request: HTTPRequest, segments: list[str]) -> HTTPAnswer:
        if len(segments) < 4:
            return _error(404, "Not found")
        repo = self._repo(request, "/".join(segments[:2]))
        if isinstance(repo, HTTPAnswer):
            return repo
        refused = self._access_error(request, repo)
        if refused is not None:
            return refused
        commit_hash, filename = segments[2], unquote("/".join(segments[3:]))
        commit = repo.commits.get(commit_hash)
        blob = None if commit is None else commit.files.get(filename)
        if blob is None:
            return _error(404, "Entry not found", "EntryNotFound")
        headers = (
            ("X-Repo-Commit", commit_hash),
            ("ETag", f'"{blob.oid}"'),
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Accept-Ranges", "bytes"),
        )
        return body_answer(request, blob.body, headers)


def _bucket(segments: list[str]) -> str:
    """Return which of the Hub's rate limits counts a request."""
    if segments[:2] == ["api", "resolve-cache"] or "resolve" in segments[1:3]:
        return "resolvers"
    return "api" if segments[0] == "api" else "pages"


def _info(request: HTTPRequest, repo: Repo, commit_hash: str) -> HTTPAnswer:
    query = parse_qs(request.query)
    with_blobs = _flag({name: values[0] for name, values in query.items()}, "blobs")
    expand = _words(query, "expand", "expand[]")
    unknown = sorted(set(expand) - documents.EXPANDABLE)
    if unknown:
        return _error(400, f'"expand" must not have {", ".join(unknown)}')
    if expand:
        return json_answer(documents.document(repo, commit_hash, fields=expand, with_blobs=with_blobs))
    return json_answer(documents.document(repo, commit_hash, with_blobs=with_blobs))


def _paths_info(request: HTTPRequest, commit: Commit) -> HTTPAnswer:
    if "json" in request.headers.get("content-type", ""):
        try:
            data = json.loads(request.body)
        except ValueError:
            data = None
        paths = data.get("paths", []) if isinstance(data, dict) else []
    else:
        paths = parse_qs(request.body.decode("utf-8", "replace")).get("paths", [])
    folders = {entry["path"]: entry for entry in documents.tree(commit, recursive=True) or []}
    return json_answer([folders[path] for path in paths if isinstance(path, str) and path in folders])


def _page(repo: Repo) -> HTTPAnswer:
    """Return the page of a repository for people, where they accept the licence of a gated one."""
    name = html.escape(repo.repo_id)
    gate = "<p>This model is gated: log in and accept its licence to read its files.</p>" if repo.gated else ""
    license_name = html.escape(repo.license or "none")
    text = f"<!doctype html><title>{name}</title><h1>{name}</h1><p>License: {license_name}</p>{gate}"
    return text_answer(text, content_type="text/html")


def _error(status: int, message: str, code: str | None = None, headers: Iterable[tuple[str, str]] = ()) -> HTTPAnswer:
    extra = [*headers, ("X-Error-Message", message)]
    if code is not None:
        extra.append(("X-Error-Code", code))
    return json_answer({"error": message}, status, extra)


def _xml_error(status: int, code: str, message: str) -> HTTPAnswer:
    text = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return text_answer(text, status, content_type="application/xml")


def _words(query: Mapping[str, list[str]], *names: str) -> tuple[str, ...]:
    """Return the values of a parameter that may be repeated or joined with commas."""
    values = itertools.chain.from_iterable(query.get(name, ()) for name in names)
    return tuple(word for value in values for word in value.split(",") if word)


def _flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "").lower() in ("true", "1")


def _offset_of(cursor: str | None) -> int | None:
    if cursor is None:
        return 0
    try:
        offset = json.loads(base64.urlsafe_b64decode(cursor))["offset"]
    except (ValueError, KeyError, TypeError):
        return None
    return offset if isinstance(offset, int) and offset >= 0 else None
