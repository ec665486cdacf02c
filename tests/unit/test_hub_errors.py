import errno
import json
import socket
import ssl
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

import httpx
import pytest

from modeldeck import _errors
from modeldeck._errors import ModelDeckError
from modeldeck.hub.errors import (
    error_from_exception,
    error_from_os_error,
    error_from_response,
    is_transient,
    offline_mode_error,
)

ENDPOINT = "https://huggingface.co"
RECORDED = {
    item["case"]: item for item in json.loads((Path(__file__).parents[1] / "data/http/errors.json").read_text())
}


def answered(status_code: int, headers: dict[str, str] | None = None, **changes: Any) -> ModelDeckError:
    about = {"repo_id": "o/n", "filename": "m.gguf", "endpoint": ENDPOINT, "is_hub": True, "has_token": True, **changes}
    return error_from_response(status_code, headers or {}, **about)


@pytest.mark.parametrize(
    ("case", "code", "next_step"),
    [
        ("nonexistent repo, anonymous (API and resolve)", "repo_not_found", "HF_TOKEN"),
        ("nonexistent repo, authenticated", "repo_not_found", "spelling"),
        ("missing file in an existing repo", "file_not_found", "List its files"),
        ("bad revision", "revision_not_found", "'main'"),
        ("gated repo, anonymous, resolve", "gated", f"{ENDPOINT}/o/n"),
        ("gated repo, logged in without grant, resolve", "gated", f"{ENDPOINT}/o/n"),
        ("invalid token", "unauthorized", "HF_TOKEN"),
        ("hf-mirror.com from outside China", "server_error", "huggingface.co"),
    ],
)
def test_recorded_answers(case: str, code: str, next_step: str) -> None:
    item = RECORDED[case]
    error = answered(item["status"], item["headers"])
    assert error.code == code
    assert next_step in error.message
    assert error.status_code == item["status"]
    assert not is_transient(error)


@pytest.mark.parametrize("case", ["bad revision", "missing file in an existing repo"])
def test_a_repository_keeps_its_spelling(case: str) -> None:
    item = RECORDED[case]
    error = answered(item["status"], item["headers"], repo_id="Qwen/Qwen3-GGUF")
    assert error.message.startswith("The repository 'Qwen/Qwen3-GGUF' has no ")


def test_the_target_of_a_redirect_is_told_with_its_scheme() -> None:
    """It may be all that differs."""
    location = {"Location": "https://user:secret@mirror.example/api/models?Signature=secret"}
    message = answered(301, location, endpoint="http://mirror.example").message
    assert "Its target is https://mirror.example: use that as the endpoint" in message
    assert "Its target" not in answered(301, {"Location": "/elsewhere"}).message


def test_a_disabled_repository_is_told() -> None:
    error = answered(403, RECORDED["disabled repo"]["headers"])
    assert error.code == "repo_not_found"
    assert "disabled" in error.message


def test_what_the_hub_says_is_a_part_of_one_sentence() -> None:
    message = answered(403, {"X-Error-Message": "Please enable access."}).message
    assert ": Please enable access. Use a token" in message


@pytest.mark.parametrize("has_token", [False, True])
def test_a_refusal_speaks_of_the_token_only_if_one_was_sent(has_token: bool) -> None:
    error = answered(403, {"X-Error-Message": "Not for you."}, has_token=has_token)
    assert error.code == "unauthorized"
    assert error.message.startswith("This token") is has_token
    assert ("HF_TOKEN" in error.message) is not has_token


def test_a_web_page_that_refuses_the_request_is_not_the_hub_s() -> None:
    """A company's network sends it instead of the Hub's answer."""
    error = answered(403, {"Content-Type": "text/html; charset=utf-8"})
    assert (error.code, error.status_code) == ("server_error", 403)
    assert "web page" in error.message
    assert not is_transient(error)
    hub_s_own = {"Content-Type": "text/html", "X-Error-Code": "GatedRepo"}
    assert answered(403, hub_s_own).code == "gated"


def test_the_licence_page_is_a_detail_of_the_error() -> None:
    error = answered(403, {"X-Error-Code": "GatedRepo"}, endpoint="http://127.0.0.1:8000")
    assert error.url == "http://127.0.0.1:8000/o/n"


@pytest.mark.parametrize(
    ("status_code", "headers", "changes", "code", "passes"),
    [
        (401, {}, {}, "repo_not_found", False),
        (401, {}, {"repo_id": None, "filename": None}, "unauthorized", False),
        (403, {}, {}, "unauthorized", False),
        (404, {}, {}, "file_not_found", False),
        (404, {}, {"filename": None}, "repo_not_found", False),
        (404, {}, {"repo_id": None, "filename": None}, "server_error", False),
        (404, {"X-Error-Code": "RepoNotFound"}, {}, "repo_not_found", False),
        (400, {}, {}, "server_error", False),
        (407, {}, {}, "proxy", False),
        (407, {}, {"is_hub": False}, "proxy", False),
        (408, {}, {}, "server_error", True),
        (429, {}, {}, "rate_limited", True),
        (429, {}, {"is_hub": False}, "rate_limited", True),
        (500, {}, {}, "server_error", True),
        (501, {}, {}, "server_error", False),
        (502, {}, {}, "server_error", True),
        (503, {}, {"is_hub": False}, "server_error", True),
        (522, {}, {}, "server_error", True),
        (403, {}, {"is_hub": False}, "server_error", False),
        (403, {"X-Error-Code": "GatedRepo"}, {"is_hub": False}, "server_error", False),
        (404, {}, {"is_hub": False}, "server_error", False),
        (400, {}, {"is_hub": False}, "server_error", False),
        (416, {}, {"is_hub": False}, "server_error", False),
        (200, {}, {}, "server_error", False),
    ],
)
def test_every_other_status(
    status_code: int, headers: dict[str, str], changes: dict[str, Any], code: str, passes: bool
) -> None:
    error = answered(status_code, headers, **changes)
    assert error.code == code
    assert error.status_code == status_code
    assert is_transient(error) is passes
    assert error.message.endswith(".")


def test_a_rate_limit_says_how_long() -> None:
    assert answered(429, {"Retry-After": "7"}).retry_after_seconds == 7.0
    assert answered(429, {"RateLimit": '"api";r=0;t=55'}).retry_after_seconds == 55.0
    assert "in 7 s" in answered(429, {"Retry-After": "7"}).message
    dated = answered(503, {"Retry-After": formatdate(time() + 60, usegmt=True)})
    assert 50 < dated.retry_after_seconds <= 60


def test_the_servers_words_are_cut_and_the_request_id_is_kept() -> None:
    error = answered(500, {"X-Error-Message": "x" * 10_000, "X-Request-Id": "Root=1-6a7fb6e7"})
    assert len(error.message) < 400
    assert error.request_id == "Root=1-6a7fb6e7"


REQUEST = httpx.Request("GET", "https://cdn.example/x?Signature=secret")


def caused_by(exc: Exception, cause: BaseException) -> Exception:
    exc.__cause__ = cause
    return exc


def certificate_error() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("exc", "code", "passes"),
    [
        (httpx.ConnectTimeout("x"), "timeout", True),
        (httpx.ReadTimeout("x"), "timeout", True),
        (httpx.PoolTimeout("x"), "timeout", True),
        (TimeoutError(), "timeout", True),
        (httpx.ConnectError("refused"), "offline", True),
        (caused_by(httpx.ConnectError("x"), socket.gaierror(-2, "Name or service not known")), "offline", True),
        (caused_by(httpx.ConnectError("x"), certificate_error()), "tls", False),
        (caused_by(httpx.ConnectError("x"), ssl.SSLError(1, "wrong version number")), "tls", False),
        (
            caused_by(httpx.ConnectError("x"), ssl.SSLEOFError(8, "EOF occurred in violation of protocol")),
            "offline",
            True,
        ),
        (caused_by(httpx.ReadError("x"), ssl.SSLError(1, "decryption failed or bad record mac")), "offline", True),
        (ssl.SSLError(1, "decryption failed or bad record mac"), "tls", False),
        (httpx.ReadError("reset"), "offline", True),
        (ConnectionResetError(104, "reset"), "offline", True),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), "offline", True),
        (
            httpx.RemoteProtocolError(
                "peer closed connection without sending complete message body (received 1 bytes, expected 2)"
            ),
            "offline",
            True,
        ),
        (httpx.RemoteProtocolError("illegal status line"), "server_error", False),
        (httpx.DecodingError("bad gzip"), "server_error", False),
        (httpx.ProxyError("407 Proxy Authentication Required"), "proxy", False),
        (httpx.ProxyError("502 Bad Gateway"), "proxy", True),
        (httpx.ProxyError("x"), "proxy", True),
        (httpx.UnsupportedProtocol("x"), "server_error", False),
        (httpx.InvalidURL("x"), "server_error", False),
        (httpx.LocalProtocolError("Illegal header value b'Bearer hf_secret'"), "server_error", False),
    ],
)
def test_exceptions(exc: Exception, code: str, passes: bool) -> None:
    error = error_from_exception(exc, endpoint="https://user:pw@cdn.example:8443/x?Signature=secret")
    assert error.code == code
    assert is_transient(error) is passes
    assert "cdn.example:8443" in error.message or code == "proxy"
    assert "secret" not in error.message
    assert "pw" not in error.message


def test_our_own_errors_pass_through() -> None:
    error = _errors.StalledError("x")
    assert error_from_exception(error, endpoint=ENDPOINT) is error
    assert is_transient(error)


def test_a_chain_of_causes_may_be_a_circle() -> None:
    first, second = httpx.ReadError("a"), OSError("b")
    first.__cause__, second.__cause__ = second, first
    assert error_from_exception(first, endpoint=ENDPOINT).code == "offline"


def test_offline_mode_is_no_passing_failure() -> None:
    assert offline_mode_error().code == "offline"
    assert "HF_HUB_OFFLINE" in offline_mode_error().message
    assert not is_transient(offline_mode_error())


@pytest.mark.parametrize(
    "error",
    [_errors.DiskFullError("x"), _errors.IntegrityError("x"), _errors.RepoNotFoundError("x"), _errors.GatedError("x")],
)
def test_what_does_not_pass_by_itself(error: ModelDeckError) -> None:
    assert not is_transient(error)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (errno.ENOSPC, "disk_full", "full"),
        (errno.EDQUOT, "disk_full", "quota"),
        (errno.EROFS, "permission_denied", "read-only"),
        (errno.EACCES, "permission_denied", "No permission"),
        (errno.EPERM, "permission_denied", "No permission"),
        (errno.ENOENT, "storage", "Download the model again"),
        (errno.ENOTDIR, "storage", "directory"),
        (errno.EIO, "storage", "failed"),
    ],
)
def test_the_disks_failures_are_told_apart(number: int, code: str, word: str) -> None:
    error = error_from_os_error(OSError(number, "text", "/home/someone/secret"), needed_bytes=5, free_bytes=3)
    assert error.code == code
    assert word in error.message
    assert "/home" not in error.message
    if code == "disk_full":
        assert (error.needed_bytes, error.free_bytes) == (5, 3)
