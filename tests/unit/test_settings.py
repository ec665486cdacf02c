"""The endpoint and the token, as people write them into the environment."""

import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest
from huggingface_hub import constants

from modeldeck._errors import InvalidRequestError
from modeldeck._settings import resolve_settings
from modeldeck.hub.urls import authorization_headers

HUB = "https://hub.example"


@pytest.mark.parametrize(
    ("written", "endpoint"),
    [
        (HUB, HUB),
        (f"{HUB}/", HUB),
        (f"  {HUB}/ \r\n", HUB),
        (f"\ufeff {HUB}\u200b \u2060", HUB),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("https://mirror.example/api/hf/", "https://mirror.example/api/hf"),
        ("https://user:secret@hub.example:8443/hf", "https://hub.example:8443/hf"),
        ("", "https://huggingface.co"),
        (" \n", "https://huggingface.co"),
    ],
)
@pytest.mark.parametrize("is_argument", [True, False])
def test_an_endpoint_is_taken_as_it_is_meant(
    monkeypatch: pytest.MonkeyPatch, written: str, endpoint: str, is_argument: bool
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "https://huggingface.co" if is_argument else written)
    assert resolve_settings(endpoint=written if is_argument else None).endpoint == endpoint


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("hub.example", "is not a web address"),
        ("ftp://hub.example", "is not a web address"),
        ("https://hub .example", "is not a web address"),
        ("https://hub.exa\nmple", "is not a web address"),
        ("https://hub.example:port", "is not a web address"),
        ("https://hub.example:99999", "is not a web address"),
        ("https://[::1", "is not a web address"),
        ("https://user:sec/ret@hub.example:80", "is not a web address"),
        ("https://user:secret@hub.example:port", "is not a web address"),
        ("https://hub..example", "is not a web address"),
        ("https://.hub.example", "is not a web address"),
        (f"https://user:secret@{'h' * 64}.example", "is not a web address"),
        ("https://user:sec\udce9ret@hub.example", "is not UTF-8"),
        ("http://", "has no host name"),
        ("https:///models", "has no host name"),
        ("https://:8080", "has no host name"),
        ("https://user:secret@", "has no host name"),
        ("user:secret@hub.example", "is not a web address"),
        ("https://user:12/secret@hub.example", "must be written as %2F"),
        ("https://hub.example?x=1", "has a query"),
        ("https://hub.example#top", "has a query or a fragment"),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_refused_with_the_reason(written: str, problem: str) -> None:
    with pytest.raises(InvalidRequestError, match=problem) as caught:
        resolve_settings(endpoint=written)
    assert "HF_ENDPOINT" in caught.value.message
    assert "sec" not in caught.value.message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None, "a traceback would show the password"


@pytest.mark.parametrize(
    ("written", "credentials"),
    [
        ("https://user:secret@hub.example", b"user:secret"),
        ("https://user%40corp:s%2Fe%3Acret@hub.example", b"user@corp:s/e:cret"),
        ("https://user@hub.example", b"user:"),
        ("https://:secret@hub.example", b":secret"),
        ("https://us\u00e9r:secret@hub.example", "us\u00e9r:secret".encode()),
    ],
)
def test_user_and_password_become_basic_authentication_for_the_endpoint_only(written: str, credentials: bytes) -> None:
    settings = resolve_settings(endpoint=written, token="hf_token")
    headers = authorization_headers(f"{HUB}/api", endpoint=settings.endpoint, token=settings.token)
    assert headers == {"Authorization": f"Basic {b64encode(credentials).decode()}"}
    assert authorization_headers("https://cdn.example", endpoint=settings.endpoint, token=settings.token) == {}
    assert "secret" not in repr(settings)
    assert settings.token is not None
    assert settings.token not in repr(settings)


@pytest.mark.parametrize(
    ("token", "is_disabled", "expected"),
    [
        (None, False, "hf_stored"),
        (None, True, None),
        (True, True, "hf_stored"),
        (True, False, "hf_stored"),
        (False, False, None),
        ("hf_given", True, "hf_given"),
    ],
)
def test_an_implicit_token_can_be_disabled(
    monkeypatch: pytest.MonkeyPatch, token: str | bool | None, is_disabled: bool, expected: str | None
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_stored")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", is_disabled)
    assert resolve_settings(endpoint=HUB, token=token).token == expected


@pytest.mark.parametrize(
    ("endpoint", "token", "variable", "is_stored", "source"),
    [
        (HUB, "hf_given", "hf_variable", True, "argument"),
        (HUB, None, "hf_variable", True, "environment"),
        (HUB, None, "", True, "file"),
        (HUB, None, "", False, None),
        (HUB, False, "hf_variable", True, None),
        ("https://user:secret@hub.example", None, "hf_variable", True, "endpoint"),
    ],
)
def test_it_is_known_where_the_token_was_found(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    endpoint: str,
    token: str | bool | None,
    variable: str,
    is_stored: bool,
    source: str | None,
) -> None:
    stored = tmp_path / "token"
    if is_stored:
        stored.write_text("hf_stored")
    monkeypatch.setenv("HF_TOKEN", variable)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(stored))
    settings = resolve_settings(endpoint=endpoint, token=token)
    assert settings.token_source == source
    assert (settings.token is None) == (source is None)


TOKENS = """
import sys
from modeldeck._settings import resolve_settings
settings = resolve_settings(endpoint="https://hub.example")
print("huggingface_hub.utils" in sys.modules)
from huggingface_hub import get_token
print(settings.token == get_token(), settings.token)
"""


@pytest.mark.parametrize(
    ("environment", "content", "expected"),
    [
        ({}, None, "None"),
        ({"HF_TOKEN": ""}, None, "None"),
        ({"HF_TOKEN": " hf_a\n"}, None, "hf_a"),
        ({"HUGGING_FACE_HUB_TOKEN": "hf_b"}, None, "hf_b"),
        ({}, "hf_c\n", "hf_c"),
        ({}, "", "None"),
        ({"HF_TOKEN": "hf_a"}, "hf_c", "hf_a"),
    ],
)
def test_the_token_is_the_one_of_huggingface_hub(
    tmp_path: Path, environment: dict[str, str], content: str | None, expected: str
) -> None:
    """It is asked only if it may know one, because importing what it needs for an answer takes long."""
    if content is not None:
        (tmp_path / "token").write_text(content)
    child = subprocess.run(
        [sys.executable, "-c", TOKENS],
        env={"HF_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    was_asked, *same = child.stdout.split()
    assert same == ["True", expected]
    assert was_asked == str(any(environment.values()) or content is not None)
