"""What an answer, an exception or the disk means, as one of modeldeck's errors. Pure.

The one place that knows status codes, ``X-Error-Code``, httpx's exceptions and errno. Every message says what to do
next; none carries a token or a signed address.
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
from modeldeck.hub.ratelimit import lower_names, parse_retry_after
from modeldeck.hub.urls import model_page_url

UNUSABLE_SETTINGS = (OSError, ImportError, ValueError, httpx.InvalidURL)
"""What httpx raises when it makes a client with such settings of the environment: see ``error_from_environment``."""

_MAX_QUOTED = 200
_PERMANENT_5XX = (501, 505, 511)
_LOGIN_HINT = "log in with `hf auth login` or set HF_TOKEN"
_DISABLED = "Access to this resource is disabled."
_BAD_TOKEN = "Invalid credentials in Authorization header"


# --- answers ----------------------------------------------------------------------------------------------------------


def error_from_response(
    status_code: int,
    headers: Mapping[str, str],
    *,
    repo_id: str | None,
    filename: str | None,
    endpoint: str,
    is_hub: bool,
    revision: str | None = None,
) -> ModelDeckError:
    """The error that an answer other than the wanted one stands for.

    Parameters
    ----------
    endpoint
        The Hub's address as the user knows it: it is in the messages, and the licence page is below it.
    is_hub
        Whether the Hub answered. ``False`` for the storage that a redirect led to: its 403 is an expired address, not a
        missing right.
    """
    fields = lower_names(headers)
    details: dict[str, Any] = {"status_code": status_code}
    if request_id := fields.get("x-request-id"):
        details["request_id"] = request_id[:_MAX_QUOTED]
    if status_code == 429:
        return _rate_limited(fields, details)
    if not is_hub:
        return _storage_answer(status_code, fields, details, endpoint)
    code = fields.get("x-error-code", "")
    reason = fields.get("x-error-message", "")
    host = host_of(endpoint)
    repository = f"repository {repo_id!r}" if repo_id else "repository"
    if code == "GatedRepo" and repo_id:
        return _gated(status_code, repo_id, endpoint, details)
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
            f"The {repository} has {what} at this revision. List its files and choose one of them.", **details
        )
    if status_code == 401 and (reason == _BAD_TOKEN or not repo_id):
        return UnauthorizedError(
            f"{host} does not accept the token. Make a new one in its settings, then {_LOGIN_HINT}."
            if reason == _BAD_TOKEN
            else f"{host} wants to know who asks: {_LOGIN_HINT}.",
            **details,
        )
    if code == "RepoNotFound" or (status_code in (401, 404) and repo_id):
        return RepoNotFoundError(
            f"{host} has no public {repository}. Check the spelling of owner/name; if it is private, {_LOGIN_HINT}.",
            **details,
        )
    if status_code == 403:
        return UnauthorizedError(
            f"{host} does not let this token read the {repository}{_quoted(reason)}. Use a token that may.",
            **details,
        )
    if status_code == 407:
        return ProxyError("The proxy wants a login. Put user and password into HTTPS_PROXY.", **details)
    if 300 <= status_code < 400:
        target = host_of(fields.get("location", ""))
        elsewhere = f" It sends to {target}: use that address as the endpoint if you trust it." if target else ""
        return ServerError(f"{host} sends requests elsewhere, which modeldeck does not follow.{elsewhere}", **details)
    if status_code == 404:
        return ServerError(f"{host} does not answer as a Hub does (404). Check the endpoint (HF_ENDPOINT).", **details)
    return _server_error(status_code, fields, details, host)


def not_a_hub_error(endpoint: str, what: str, *, status_code: int | None = None) -> ServerError:
    """The answer is not what a Hub sends, such as a web page where JSON should be."""
    details = {} if status_code is None else {"status_code": status_code}
    return ServerError(
        f"{host_of(endpoint)} sent {what}. Check that the endpoint (HF_ENDPOINT) is a Hugging Face Hub, and that no "
        "login page of a network stands before it.",
        **details,
    )


def _gated(status_code: int, repo_id: str, endpoint: str, details: dict[str, Any]) -> GatedError:
    url = model_page_url(endpoint, repo_id)
    if status_code == 401:
        message = f"{repo_id} is gated: accept its terms at {url}, then {_LOGIN_HINT}, and try again."
    else:
        message = f"{repo_id} is gated: accept its terms (or wait for approval) at {url}, then try again."
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
            f"The storage of {host} refused the download ({status_code}); its address may have expired. Try again.",
            **details,
        )
    if status_code in (404, 410):
        return ServerError(f"The storage of {host} has lost the file ({status_code}). Try again later.", **details)
    return _server_error(status_code, fields, details, f"The storage of {host}")


def _server_error(status_code: int, fields: dict[str, str], details: dict[str, Any], host: str) -> ServerError:
    reason = _quoted(fields.get("x-error-message", ""))
    if (seconds := parse_retry_after(fields, now=time.time())) is not None:
        details["retry_after_seconds"] = seconds
    if status_code >= 500:
        return ServerError(f"{host} has a problem ({status_code}){reason}. Try again in a few minutes.", **details)
    if status_code >= 400:
        return ServerError(f"{host} refused the request ({status_code}){reason}. Check the endpoint.", **details)
    return ServerError(f"{host} gave an answer ({status_code}) that does not fit the request. Try again.", **details)


def _quoted(reason: str) -> str:
    return f": {reason[:_MAX_QUOTED]}" if reason else ""


# --- exceptions -------------------------------------------------------------------------------------------------------


def error_from_exception(exc: BaseException, *, endpoint: str) -> ModelDeckError:
    """The error that a failed request stands for: httpx's exceptions, and the ``OSError`` below them.

    Parameters
    ----------
    endpoint
        The address that was asked; only its host is in the message.
    """
    if isinstance(exc, ModelDeckError):
        return exc
    host = host_of(endpoint)
    causes = tuple(_chain(exc))
    if isinstance(exc, httpx.ProxyError):
        status = re.match(r"\d{3}\b", str(exc))
        return ProxyError(
            "The proxy did not pass the request on. Check HTTPS_PROXY, HTTP_PROXY and NO_PROXY.",
            **({"status_code": int(status[0])} if status else {}),
        )
    if isinstance(exc, httpx.TimeoutException | TimeoutError):
        return NetworkTimeoutError(f"{host} did not answer in time. Check the connection and try again.")
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = cause.verify_message or "its certificate is not trusted"
            return TLSError(
                f"The secure connection to {host} failed: {reason}. If your network inspects traffic, set "
                "SSL_CERT_FILE to its certificate authority; check the clock, too."
            )
    is_under_way = isinstance(exc, httpx.ReadError | httpx.WriteError)
    if not is_under_way and any(isinstance(cause, ssl.SSLError) and not _is_cut(cause) for cause in causes):
        return TLSError(f"The secure connection to {host} failed. Check that its address begins with the right scheme.")
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return OfflineError(f"The name {host} was not found. Check the network connection, and HF_ENDPOINT.")
    if isinstance(exc, httpx.ConnectError | ConnectionRefusedError):
        return OfflineError(f"{host} cannot be reached. Check the network connection, and HTTPS_PROXY if it is set.")
    if isinstance(exc, httpx.RemoteProtocolError) and not _is_cut(exc):
        return ServerError(f"{host} does not speak HTTP. Check the endpoint (HF_ENDPOINT).")
    if isinstance(exc, httpx.DecodingError):
        return ServerError(f"{host} sent data that cannot be unpacked. Try again.")
    if isinstance(exc, httpx.LocalProtocolError | httpx.InvalidURL | httpx.UnsupportedProtocol):
        return ServerError(f"{host} gave an address or a header that cannot be used. Check the endpoint (HF_ENDPOINT).")
    return OfflineError(f"The connection to {host} was lost. Check the network connection and try again.")


def error_from_environment(exc: Exception) -> NetworkError:
    """The error that a setting of the environment stands for when no client can be made with it. No value is in it."""
    if isinstance(exc, OSError):  # ssl.SSLError, too
        return TLSError(
            "The certificate authorities that SSL_CERT_FILE or SSL_CERT_DIR name cannot be read. Correct these "
            "settings, or unset them."
        )
    if isinstance(exc, ImportError):
        return ProxyError(
            "ALL_PROXY, HTTPS_PROXY or HTTP_PROXY names a SOCKS proxy. Install `httpx[socks]` for that, or set an HTTP "
            "proxy.",
            is_setting=True,
        )
    return ProxyError(
        "A proxy setting cannot be used. Check ALL_PROXY, HTTPS_PROXY and HTTP_PROXY, which look like "
        "http://host:port, and NO_PROXY, which lists hosts.",
        is_setting=True,
    )


def is_transient(error: ModelDeckError) -> bool:
    """Whether the same request may succeed later without anybody doing anything.

    A lost connection, a timeout, a stall, a rate limit and most 5xx pass. Wrong names, missing rights, certificates,
    nonsense answers and the disk do not, nor does what the environment's settings forbid.
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
    """Offline mode was asked for, so no request is made."""
    return OfflineError(
        "Offline mode is on, so the Hub is not asked. Models in the cache load; unset HF_HUB_OFFLINE to go online.",
        is_offline_mode=True,
    )


def host_of(url: str) -> str:
    """Host and port of an address, for messages: no path, no query, no user."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return ""
    return parsed.netloc.decode("ascii", "replace")


def _chain(exc: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = exc
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _is_cut(exc: BaseException) -> bool:
    """Whether a protocol or TLS failure is only a connection that ended early."""
    if isinstance(exc, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return True
    text = str(exc).lower()
    return "disconnected" in text or "closed connection" in text or "eof occurred" in text


# --- the disk ---------------------------------------------------------------------------------------------------------


def error_from_os_error(
    exc: OSError, *, needed_bytes: int | None = None, free_bytes: int | None = None
) -> StorageError:
    """The error that a failed operation in the cache stands for. No path is in it: notebooks are shared.

    Parameters
    ----------
    needed_bytes, free_bytes
        What is known of the room, for the details of a full disk.
    """
    room = {"needed_bytes": needed_bytes, "free_bytes": free_bytes}
    if exc.errno == errno.ENOSPC:
        return DiskFullError(
            "The disk of the cache is full. Remove files, or set HF_HUB_CACHE to another disk.", **room
        )
    if exc.errno == errno.EDQUOT:
        return DiskFullError("Your disk quota for the cache is used up. Remove files, or ask for more room.", **room)
    if exc.errno == errno.EROFS:
        return PermissionDeniedError(
            "The cache is on a read-only disk. Set HF_HUB_CACHE to a directory that can be written."
        )
    if exc.errno in (errno.EACCES, errno.EPERM):
        return PermissionDeniedError(
            "You may not write to the cache or not read all of it. Ask its owner for the right, or set HF_HUB_CACHE to "
            "your own directory."
        )
    if exc.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return StorageError("A file stands in the cache where a directory belongs, or the reverse. Check HF_HUB_CACHE.")
    if exc.errno == errno.ENOENT:
        return StorageError("A file is no longer in the cache: somebody deleted it. Download the model again.")
    reason = exc.strerror or type(exc).__name__
    return StorageError(f"The disk of the cache failed: {reason}. Check it, or set HF_HUB_CACHE to another one.")
