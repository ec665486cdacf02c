"""Turns answers, exceptions and failures of the disk into modeldeck's errors. No I/O except that
the environment is asked for the proxy to name.

Only this module knows status codes, ``X-Error-Code``, httpx's exceptions and errno. Every message says what happened
and what to do next; none has a token or a signed address in it.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from modeldeck._errors import (
    DiskFullError,
    GatedError,
    ModelDeckError,
    NetworkError,
    NetworkTimeoutError,
    OfflineError,
    PermissionDeniedError,
    ProxyError,
    RateLimitedError,
    RemoteFileNotFoundError,
    RepoNotFoundError,
    RevisionNotFoundError,
    ServerError,
    StorageError,
    TLSError,
    UnauthorizedError,
)
from modeldeck.hub.proxies import ProxySettingError, proxy_for, proxy_variable
from modeldeck.hub.ratelimit import lower_names, parse_retry_after
from modeldeck.hub.urls import model_page_url

UNUSABLE_SETTINGS = (OSError, ImportError, ValueError, httpx.InvalidURL)
"""The exceptions of httpx for unusable settings of the environment: see ``error_from_environment``."""

_MAX_QUOTED = 200
_PERMANENT_5XX = (501, 505, 511)
_LOGIN_HINT = "log in with `hf auth login` or set HF_TOKEN"
_DISABLED = "Access to this resource is disabled."
_BAD_TOKEN = "Invalid credentials in Authorization header"
_PENDING = "awaiting a review"


# --- answers ----------------------------------------------------------------------------------------------------------


def error_from_response(
    status_code: int,
    headers: Mapping[str, str],
    *,
    repo_id: str | None,
    filename: str | None,
    endpoint: str,
    is_hub: bool,
    has_token: bool,
    revision: str | None = None,
) -> ModelDeckError:
    """Return the error for an answer that is not the wanted one.

    Parameters
    ----------
    endpoint
        The Hub's address as the user knows it. Messages name it, and the licence page is below it.
    is_hub
        Whether the Hub answered. ``False`` for the storage that a redirect led to, whose 403 means an expired address
        and not a missing permission.
    has_token
        Whether a token was sent.
    """
    fields = lower_names(headers)
    details: dict[str, Any] = {"status_code": status_code}
    if request_id := fields.get("x-request-id"):
        details["request_id"] = request_id[:_MAX_QUOTED]
    if status_code == 429:
        return _rate_limited(fields, details)
    if status_code == 407:
        return ProxyError("The proxy requires authentication. Add user and password to HTTPS_PROXY.", **details)
    if not is_hub:
        return _storage_answer(status_code, fields, details, endpoint)
    code = fields.get("x-error-code", "")
    reason = fields.get("x-error-message", "")
    host = host_of(endpoint)
    repository = f"repository {repo_id!r}" if repo_id else "repository"
    if code == "GatedRepo" and repo_id:
        return _gated(status_code, repo_id, endpoint, details, is_pending=_PENDING in reason)
    if reason == _DISABLED:
        return RepoNotFoundError(f"{host} has disabled the {repository}. Choose another one.", **details)
    if code == "RevisionNotFound" and repo_id:
        return RevisionNotFoundError(
            f"The {repository} has no revision {revision!r}. Use 'main', a tag or a full commit hash.",
            **details,
        )
    if code == "EntryNotFound" or (status_code == 404 and filename and code != "RepoNotFound"):
        what = f"no file {filename!r}" if filename else "no such file"
        return RemoteFileNotFoundError(
            f"The {repository} has {what} at this revision. List its files and choose one.", **details
        )
    if status_code == 401 and (reason == _BAD_TOKEN or not repo_id):
        if reason == _BAD_TOKEN:
            return refused_token_error(endpoint, **details)
        return UnauthorizedError(f"{host} requires a login: {_LOGIN_HINT}.", **details)
    if code == "RepoNotFound" or (status_code in (401, 404) and repo_id):
        return RepoNotFoundError(
            f"{host} has no public {repository}. Check the spelling of owner/name; if it is private, {_LOGIN_HINT}.",
            **details,
        )
    if status_code == 403 and not code and not reason and "html" in fields.get("content-type", ""):
        return not_a_hub_error(endpoint, "a web page that refuses the request (403)", **details)
    if status_code == 403 and not has_token:
        return UnauthorizedError(
            f"{host} does not let everybody read the {repository}{_quoted(reason)}. To read it, {_LOGIN_HINT}.",
            **details,
        )
    if status_code == 403:
        return UnauthorizedError(
            f"This token may not read the {repository} at {host}{_quoted(reason)}. Use a token with access to it.",
            **details,
        )
    if 300 <= status_code < 400:
        target = _origin_of(fields.get("location", ""))
        elsewhere = f" Its target is {target}: use that as the endpoint if you trust it." if target else ""
        return ServerError(f"{host} redirects to a server that modeldeck does not follow.{elsewhere}", **details)
    if status_code == 404:
        return ServerError(f"{host} does not answer like a Hub (404). Check the endpoint (HF_ENDPOINT).", **details)
    return _server_error(status_code, fields, details, host)


def refused_token_error(endpoint: str, **details: Any) -> UnauthorizedError:
    """Return the error for a token that the Hub does not know, or no longer."""
    return UnauthorizedError(
        f"{host_of(endpoint)} does not accept the token. Create a new one in your Hub settings, then {_LOGIN_HINT}.",
        **details,
    )


def not_a_hub_error(endpoint: str, what: str, **details: Any) -> ServerError:
    """Return the error for an answer that no Hub sends, such as a web page in place of JSON."""
    return ServerError(
        f"{host_of(endpoint)} sent {what}. Check that the endpoint (HF_ENDPOINT) is a Hugging Face Hub and that your "
        "network does not show a login page first.",
        **details,
    )


def _gated(status_code: int, repo_id: str, endpoint: str, details: dict[str, Any], *, is_pending: bool) -> GatedError:
    url = model_page_url(endpoint, repo_id)
    if status_code == 401:
        message = f"{repo_id} is gated. First {_LOGIN_HINT}, then accept its terms at {url}, and try again."
    elif is_pending:
        message = f"{repo_id} is gated, and its author has not decided on your request yet. Try again after that."
        details = {**details, "is_pending": True}
    else:
        message = f"{repo_id} is gated. Accept its terms at {url} or wait for approval, then try again."
    return GatedError(message, url=url, **details)


def _rate_limited(fields: dict[str, str], details: dict[str, Any]) -> RateLimitedError:
    seconds = parse_retry_after(fields, now=time.time())
    wait = "in a few minutes" if seconds is None else f"in {round(seconds)} s"
    return RateLimitedError(
        f"Too many requests. Try again {wait}; with a token the limit is higher ({_LOGIN_HINT}).",
        retry_after_seconds=seconds,
        **details,
    )


def _storage_answer(status_code: int, fields: dict[str, str], details: dict[str, Any], endpoint: str) -> ModelDeckError:
    host = host_of(endpoint)
    if status_code in (401, 403):
        return ServerError(
            f"The storage of {host} refused the download ({status_code}). Its address may have expired. Try again.",
            **details,
        )
    if status_code in (404, 410):
        return ServerError(f"The storage of {host} does not have the file ({status_code}). Try again later.", **details)
    return _server_error(status_code, fields, details, f"The storage of {host}", advice="Try again later")


def _server_error(
    status_code: int,
    fields: dict[str, str],
    details: dict[str, Any],
    host: str,
    *,
    advice: str = "Check the endpoint (HF_ENDPOINT)",
) -> ServerError:
    reason = _quoted(fields.get("x-error-message", ""))
    if (seconds := parse_retry_after(fields, now=time.time())) is not None:
        details["retry_after_seconds"] = seconds
    if status_code >= 500:
        return ServerError(f"{host} failed ({status_code}){reason}. Try again in a few minutes.", **details)
    if status_code >= 400:
        return ServerError(f"{host} refused the request ({status_code}){reason}. {advice}.", **details)
    return ServerError(f"{host} sent an unexpected answer ({status_code}). Try again.", **details)


def _quoted(reason: str) -> str:
    return f": {reason[:_MAX_QUOTED].rstrip('.')}" if reason else ""


# --- exceptions -------------------------------------------------------------------------------------------------------


def error_from_exception(exc: BaseException, *, endpoint: str, storage_of: str | None = None) -> ModelDeckError:
    """Return the error for a failed request: httpx's exceptions and the ``OSError`` below them.

    Parameters
    ----------
    endpoint
        The address that was asked. Only its host is in the message.
    storage_of
        The Hub that sent the request on to this address of its storage, or ``None`` if the Hub itself was asked.
    """
    if isinstance(exc, ModelDeckError):
        return exc
    if isinstance(exc, ProxySettingError) and isinstance(exc.__cause__, Exception):
        return error_from_environment(exc.__cause__)
    host = host_of(endpoint)
    causes = tuple(_chain(exc))
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in _TOO_MANY_FILES:
            return _too_many_files()
    if isinstance(exc, httpx.ProxyError):
        status = re.match(r"\d{3}\b", str(exc))
        return ProxyError(
            "The proxy did not forward the request. Check HTTPS_PROXY, HTTP_PROXY and NO_PROXY.",
            **({"status_code": int(status[0])} if status else {}),
        )
    if isinstance(exc, httpx.TimeoutException | TimeoutError):
        proxy = _proxy_of(endpoint)
        through = f" through the proxy {host_of(proxy)}" if proxy else ""
        return NetworkTimeoutError(f"{host} did not answer in time{through}. Check the connection and try again.")
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = cause.verify_message or "its certificate is not trusted"
            return TLSError(
                f"The secure connection to {host} failed: {reason}. If your network inspects traffic, set "
                "SSL_CERT_FILE to its certificate authority. Also check this machine's clock."
            )
    is_under_way = isinstance(exc, httpx.ReadError | httpx.WriteError)
    if not is_under_way and any(isinstance(cause, ssl.SSLError) and not _is_cut(cause) for cause in causes):
        return TLSError(
            f"The secure connection to {host} failed. Check whether its address must begin with http:// instead."
        )
    if isinstance(exc, httpx.ConnectError) and (proxy := _proxy_of(endpoint)):
        variable = proxy_variable(endpoint)
        return ProxyError(
            f"The proxy {host_of(proxy)} cannot be reached. Correct {variable}, or add {host} to NO_PROXY if no proxy "
            "is needed for it."
        )
    if isinstance(exc, httpx.ConnectError) and storage_of is not None:
        return OfflineError(
            f"{host_of(storage_of)} sends downloads to its storage at {httpx.URL(endpoint).host}, which cannot be "
            "reached. Check whether your network blocks it, or try again later."
        )
    if any(isinstance(cause, socket.gaierror | UnicodeError) for cause in causes):
        return OfflineError(
            f"The host name {host} was not found. Check the network connection and the endpoint (HF_ENDPOINT)."
        )
    if isinstance(exc, httpx.ConnectError | ConnectionRefusedError):
        return OfflineError(f"{host} cannot be reached. Check the network connection and the endpoint (HF_ENDPOINT).")
    if isinstance(exc, httpx.RemoteProtocolError) and not _is_cut(exc):
        return ServerError(f"{host} does not speak HTTP. Check the endpoint (HF_ENDPOINT).")
    if isinstance(exc, httpx.DecodingError):
        return ServerError(f"{host} sent data that cannot be decompressed. Try again.")
    if isinstance(exc, httpx.LocalProtocolError | httpx.InvalidURL | httpx.UnsupportedProtocol):
        return ServerError(f"{host} sent an address or a header that cannot be used. Check the endpoint (HF_ENDPOINT).")
    return OfflineError(f"The connection to {host} was lost. Check the network connection and try again.")


def _proxy_of(url: str) -> str | None:
    try:
        return proxy_for(url)
    except httpx.InvalidURL:
        return None


def error_from_environment(exc: Exception) -> NetworkError:
    """Return the error for a setting of the environment that no client can be made with. It has no value in it."""
    if isinstance(exc, OSError):  # ssl.SSLError, too
        return TLSError(
            "The certificate authorities in SSL_CERT_FILE or SSL_CERT_DIR cannot be read. Correct these settings or "
            "unset them."
        )
    if isinstance(exc, ImportError):
        return ProxyError(
            "ALL_PROXY, HTTPS_PROXY or HTTP_PROXY names a SOCKS proxy. Install `httpx[socks]`, or set an HTTP proxy.",
            is_setting=True,
        )
    return ProxyError(
        "A proxy setting cannot be used. Check ALL_PROXY, HTTPS_PROXY and HTTP_PROXY, which look like "
        "http://host:port, and NO_PROXY, which lists hosts.",
        is_setting=True,
    )


def is_transient(error: ModelDeckError) -> bool:
    """Return whether the same request may succeed later by itself.

    Lost connections, timeouts, stalls, rate limits and most 5xx are passing failures. Wrong names, missing permissions,
    certificates, malformed answers, failures of the disk and unusable settings are not.
    """
    if isinstance(error, OfflineError):
        return not error.details.get("is_offline_mode", False)
    if error.details.get("is_setting"):
        return False
    if isinstance(error, ServerError | ProxyError):
        status_code = error.details.get("status_code")
        if status_code is None:
            return isinstance(error, ProxyError)
        return status_code in (408, 425) or (500 <= status_code < 600 and status_code not in _PERMANENT_5XX)
    return isinstance(error, RateLimitedError) or (isinstance(error, NetworkError) and not isinstance(error, TLSError))


def offline_mode_error() -> OfflineError:
    """Return the error for a request in offline mode."""
    return OfflineError(
        "Offline mode is on, so the Hub was not asked. Models in the cache still load. To go online, unset "
        "HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE, and restart the kernel or the program: they are read once.",
        is_offline_mode=True,
    )


def host_of(url: str) -> str:
    """Return host and port of an address, for messages: without path, query and user."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return ""
    return parsed.netloc.decode("ascii", "replace")


def _origin_of(url: str) -> str:
    """Return scheme, host and port of an address, for messages, or nothing if it has no host."""
    host = host_of(url)
    return f"{httpx.URL(url).scheme}://{host}" if host else ""


def _chain(exc: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = exc
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _is_cut(exc: BaseException) -> bool:
    """Return whether a protocol or TLS failure is only a connection that ended early."""
    if isinstance(exc, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return True
    text = str(exc).lower()
    return "disconnected" in text or "closed connection" in text or "eof occurred" in text


# --- the disk ---------------------------------------------------------------------------------------------------------


def error_from_os_error(
    exc: OSError, *, needed_bytes: int | None = None, free_bytes: int | None = None
) -> StorageError:
    """Return the error for a failed operation in the cache. It has no path in it, because notebooks are shared.

    Parameters
    ----------
    needed_bytes, free_bytes
        What is known about the space, for the details of a full disk.
    """
    room = {"needed_bytes": needed_bytes, "free_bytes": free_bytes}
    if exc.errno == errno.ENOSPC:
        return DiskFullError(
            "The disk with the cache is full. Remove files, or set HF_HUB_CACHE to another disk.", **room
        )
    if exc.errno == errno.EDQUOT:
        return DiskFullError(
            "Your disk quota for the cache is used up. Remove files, or ask for a larger quota.", **room
        )
    if exc.errno == errno.EROFS:
        return PermissionDeniedError("The cache is on a read-only disk. Set HF_HUB_CACHE to a writable directory.")
    if exc.errno in (errno.EACCES, errno.EPERM):
        return PermissionDeniedError(
            "No permission to read or write the cache. Ask its owner for access, or set HF_HUB_CACHE to a directory "
            "you own."
        )
    if exc.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return StorageError("The cache has a file where a directory belongs, or the reverse. Check HF_HUB_CACHE.")
    if exc.errno == errno.ENOENT:
        return StorageError("A file of the cache was deleted. Download the model again.")
    if exc.errno in _TOO_MANY_FILES:
        return _too_many_files()
    reason = exc.strerror or type(exc).__name__
    return StorageError(f"The disk with the cache failed: {reason}. Check it, or set HF_HUB_CACHE to another disk.")


_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)


def _too_many_files() -> StorageError:
    """Return the error for the system's limit of open files and connections."""
    return StorageError(
        "Too many files and connections are open. Close some programs or notebooks, or raise the limit (`ulimit -n`), "
        "then try again.",
        is_file_limit=True,
    )
