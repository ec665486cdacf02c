"""Names and addresses of the Hub, and the origin that may see the token. Pure.

Repository ids, revisions and filenames become paths below the cache directory. A name that could lead out of it, or
that means something else on another system, is refused here, once for every layer.
"""

from __future__ import annotations

import re
import sys
from urllib.parse import quote, urlencode

import httpx

from modeldeck._errors import InvalidRequestError, UnauthorizedError
from modeldeck._settings import not_an_endpoint
from modeldeck._types import MAX_PAGE_SIZE, SearchFilters, SearchQuery, SortKey

PUBLIC_HUB_ORIGINS = (("https", "huggingface.co", 443), ("https", "hf.co", 443))
"""A mirror may redirect to the public Hub. Such a redirect is followed, without the token."""

_MAX_PART_BYTES = 255
_MAX_PATH_BYTES = 1024
_MAX_PORT = 65_535
_REPO_ID = re.compile(r"(\b[\w\-.]{1,96}\b/)?\b[\w\-.]{1,96}\b", re.ASCII)
_COMMIT_HASH = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Also what breaks lines and turns the direction of text, so that a name is not shown as another one."""
_DRIVE = re.compile(r"[A-Za-z]:")
_BASIC = re.compile(r"Basic [A-Za-z0-9+/]+=*")
_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*]|[ .]$')
_RESERVED_ON_WINDOWS = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_NOT_IN_REVISION = re.compile(r"[\s~^:?*\[\\]|\.\.|@\{")

_SORT_KEYS: dict[SortKey, str] = {
    "trending": "trendingScore",
    "downloads": "downloads",
    "likes": "likes",
    "modified": "lastModified",
    "created": "createdAt",
}
_TASKS: dict[str, tuple[str, str]] = {
    "chat": ("filter", "conversational"),  # the tag of 89 % of the GGUF repositories; text-generation is on half
    "embedding": ("pipeline_tag", "feature-extraction"),
    "vision": ("pipeline_tag", "image-text-to-text"),
    "code": ("filter", "code"),
}
_FILTER_VALUE = re.compile(r"[\w.+/-]{1,96}", re.ASCII)
_EXPAND = ("downloads", "gated", "gguf", "lastModified", "likes", "pipeline_tag", "private", "tags")


# --- names ------------------------------------------------------------------------------------------------------------


def check_repo_id(repo_id: str) -> str:
    """Return a repository id that follows huggingface_hub's rules.

    The rules are written out here and in ``resolve_url``, and tested against huggingface_hub, because importing
    huggingface_hub takes a tenth of a second of the engine's start, and 5 MiB.

    Raises
    ------
    InvalidRequestError
        For anything but "owner/name", or "name" for the few repositories without an owner.
    """
    is_valid = (
        isinstance(repo_id, str)
        and _REPO_ID.fullmatch(repo_id) is not None
        and "--" not in repo_id
        and ".." not in repo_id
        and not repo_id.endswith(".git")
    )
    if not is_valid:
        raise InvalidRequestError(f"{_shown(repo_id)} is not a repository id. Write it as OWNER/NAME.")
    return repo_id


def check_revision(revision: str, *, platform: str = sys.platform) -> str:
    """Return a revision that is also a safe path below ``refs/``: a branch, a tag, ``refs/pr/1`` or a commit hash."""
    problem = _path_problem(revision, platform)
    if problem is None and _NOT_IN_REVISION.search(revision):
        problem = "git does not allow some of its characters"
    if problem:
        raise InvalidRequestError(f"{_shown(revision)} is not a revision: {problem}. Give a branch, a tag or a commit.")
    return revision


def check_filename(filename: str, *, platform: str = sys.platform) -> str:
    """Return a filename that stays inside the cache: a path inside the repository.

    Parameters
    ----------
    filename
        The name in the repository.
    platform
        The system, as in ``sys.platform``. Names that only Windows forbids are refused there and nowhere else.

    Raises
    ------
    InvalidRequestError
        If the name leads out of the cache, or cannot exist on this system.
    """
    problem = _path_problem(filename, platform)
    if problem:
        raise InvalidRequestError(f"{_shown(filename)} cannot be the name of a file in the cache: {problem}.")
    return filename


def is_commit_hash(text: object) -> bool:
    return isinstance(text, str) and _COMMIT_HASH.fullmatch(text) is not None


def is_sha256(text: object) -> bool:
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def check_blob_name(etag: str) -> str:
    """Return an etag that may name a blob: a sha256 (LFS) or a git sha1."""
    if not (is_sha256(etag) or is_commit_hash(etag)):
        raise InvalidRequestError(f"{_shown(etag)} is not a digest, so it cannot be the name of a file in the cache.")
    return etag


def normalize_etag(etag: str | None) -> str | None:
    """Return an ETag without weakness mark and quotes, in lower case. Mirrors differ in these."""
    if etag is None:
        return None
    return etag.strip().removeprefix("W/").strip('"').lower() or None


def _path_problem(path: object, platform: str) -> str | None:
    if not isinstance(path, str) or not path:
        return "it is empty or not text"
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "it has characters that are not valid text"
    if len(encoded) > _MAX_PATH_BYTES:
        return f"it is longer than {_MAX_PATH_BYTES} bytes"
    if _CONTROL.search(path) or "\\" in path:
        return "it has a control character or a backslash"
    if path.startswith("/") or _DRIVE.match(path):
        return "it is an absolute path"
    for part in path.split("/"):
        if part in ("", ".", ".."):
            return "it has an empty, '.' or '..' part"
        if platform == "win32" and (_NOT_ON_WINDOWS.search(part) or _RESERVED_ON_WINDOWS.fullmatch(part)):
            return f"Windows does not allow the name {part!r}"
        if len(part.encode()) > _MAX_PART_BYTES:
            return f"a part of it is longer than {_MAX_PART_BYTES} bytes"
    return None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


# --- addresses --------------------------------------------------------------------------------------------------------


def search_url(endpoint: str, query: SearchQuery) -> str:
    """Return the address of the first page of GGUF repositories that match. The Hub gives those of the next pages."""
    if query.sort not in _SORT_KEYS:
        raise InvalidRequestError(f"{_shown(query.sort)} is not a sort order. Choose one of {', '.join(_SORT_KEYS)}.")
    parameters = [("filter", "gguf")]
    if text := query.text.strip():
        parameters.append(("search", text))
    if query.author:
        parameters.append(("author", query.author))
    parameters += _filter_parameters(query.filters)
    parameters += [
        ("sort", _SORT_KEYS[query.sort]),
        ("direction", "-1"),
        ("limit", str(max(1, min(query.limit, MAX_PAGE_SIZE)))),
    ]
    # The names of the files are long, so only a search that looks at them asks for them.
    fields = (*_EXPAND, "siblings") if query.filters.quantization else _EXPAND
    parameters += [("expand[]", name) for name in fields]
    try:
        return f"{endpoint}/api/models?{urlencode(parameters)}"
    except UnicodeEncodeError as error:
        raise InvalidRequestError("The search text contains invalid characters. Type it again.") from error


def _filter_parameters(filters: SearchFilters) -> list[tuple[str, str]]:
    for name in ("task", "license", "language", "app", "quantization"):
        value = getattr(filters, name)
        if value is not None and not (isinstance(value, str) and _FILTER_VALUE.fullmatch(value)):
            raise InvalidRequestError(
                f"{_shown(value)} is not a {name} to filter by. Give one word, as the Hub writes it."
            )
    parameters: list[tuple[str, str]] = []
    if filters.task is not None:
        parameters.append(_TASKS.get(filters.task, ("pipeline_tag", filters.task)))
    if filters.license is not None:
        parameters.append(("filter", f"license:{filters.license}"))
    if filters.language is not None:
        parameters.append(("filter", filters.language))
    if filters.gated is not None:
        parameters.append(("gated", "true" if filters.gated else "false"))
    if filters.app is not None:
        parameters.append(("apps", filters.app))
    if sizes := _size_parameter(filters.min_parameters, filters.max_parameters):
        parameters.append(("num_parameters", sizes))
    return parameters


def _size_parameter(smallest: int | None, largest: int | None) -> str:
    """Return the bounds of the number of weights as the Hub takes them."""
    for name, count in (("min_parameters", smallest), ("max_parameters", largest)):
        if count is not None and (type(count) is not int or count < 0):
            raise InvalidRequestError(f"{name} is {_shown(count)}. Give a whole number of weights.")
    if smallest is not None and largest is not None and smallest > largest:
        raise InvalidRequestError("min_parameters is larger than max_parameters. Give them the other way round.")
    bounds = [f"min:{_in_units(smallest, round_up=False)}"] if smallest is not None else []
    bounds += [f"max:{_in_units(largest, round_up=True)}"] if largest is not None else []
    return ",".join(bounds)


def _in_units(count: int, *, round_up: bool) -> str:
    """Return a number of weights as the Hub takes it: whole billions or millions, rounded outwards."""
    if count % 10**9 == 0:
        return f"{count // 10**9}B"
    return f"{-(-count // 10**6) if round_up else count // 10**6}M"


def whoami_url(endpoint: str) -> str:
    return f"{endpoint}/api/whoami-v2"


def model_info_url(endpoint: str, repo_id: str, revision: str) -> str:
    return f"{endpoint}/api/models/{check_repo_id(repo_id)}/revision/{quote(check_revision(revision), safe='')}"


def tree_url(endpoint: str, repo_id: str, revision: str) -> str:
    """Return the address of the listing of all files. Without ``recursive`` the shards in a folder would be missing."""
    tree = f"{endpoint}/api/models/{check_repo_id(repo_id)}/tree/{quote(check_revision(revision), safe='')}"
    return f"{tree}?recursive=true&expand=false"


def resolve_url(endpoint: str, repo_id: str, revision: str, filename: str) -> str:
    """Return the address a file is downloaded from, by huggingface_hub's rules."""
    revision = quote(check_revision(revision), safe="")
    return f"{endpoint}/{check_repo_id(repo_id)}/resolve/{revision}/{quote(check_filename(filename))}"


def model_page_url(endpoint: str, repo_id: str) -> str:
    """Return the address of the page on which people accept a licence."""
    return f"{endpoint}/{repo_id}"


# --- origins ----------------------------------------------------------------------------------------------------------


def origin_of(url: str | httpx.URL) -> tuple[str, str, int] | None:
    """Return scheme, host and port, or ``None`` for anything but a web address.

    The parser is the one that also sends the request, so that an address cannot mean one host here and another there.
    """
    try:
        parsed = httpx.URL(url)
        host = parsed.host
    except (httpx.InvalidURL, UnicodeError):  # as are the errors of internationalized names
        return None
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    if parsed.scheme not in ("http", "https") or not host or port > _MAX_PORT or "\\" in str(url):
        return None
    return parsed.scheme, host.lower(), port


def check_endpoint(endpoint: str) -> str:
    """Return an endpoint that requests can be sent to. Its name may be one that httpx refuses or cannot decode."""
    if origin_of(endpoint) is None:
        raise not_an_endpoint(endpoint, "is not a web address")
    return endpoint


def join_url(base: str, reference: str) -> str | None:
    """Return the web address that a ``Location`` or ``Link`` header means, or ``None`` when it does not mean one."""
    try:
        joined = httpx.URL(base).join(reference)
    except (httpx.InvalidURL, ValueError):
        return None
    return str(joined) if origin_of(joined) and "\\" not in reference else None


def is_same_origin(url: str | httpx.URL, other: str | httpx.URL) -> bool:
    origin = origin_of(url)
    return origin is not None and origin == origin_of(other)


def is_hub_url(url: str | httpx.URL, endpoint: str) -> bool:
    """Return whether an address is at the endpoint or at the public Hub, so that its answers are a Hub's answers."""
    return is_same_origin(url, endpoint) or origin_of(url) in PUBLIC_HUB_ORIGINS


def authorization_headers(url: str | httpx.URL, *, endpoint: str, token: str | None) -> dict[str, str]:
    """Return the header with the token for the endpoint's own origin, and no header for any other address.

    A token that begins with ``Basic`` is sent as it is: see `modeldeck._settings.Settings`.

    Raises
    ------
    UnauthorizedError
        When the token has characters that a header may not have. The token is not in the message.
    """
    if not token or not is_same_origin(url, endpoint):
        return {}
    token = token.strip()
    is_basic = _BASIC.fullmatch(token) is not None
    if not is_basic and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise UnauthorizedError(
            "The token contains invalid characters. Copy it again from your Hub settings into HF_TOKEN."
        )
    return {"Authorization": token if is_basic else f"Bearer {token}"}
