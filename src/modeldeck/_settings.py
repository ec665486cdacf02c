"""The Hub's address, the token and the cache directory: huggingface_hub's own settings unless given."""

from __future__ import annotations

import os
import re
import sys
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from modeldeck._errors import InvalidRequestError
from modeldeck._types import EngineLimits, TokenSource

DEFAULT_ENDPOINT = "https://huggingface.co"
_INVISIBLE = "\ufeff\u200b\u2060"
"""Characters that come along when a name or an address is copied from a page or a chat."""
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Resolved settings. The token is not in ``repr``.

    ``endpoint`` has no user and no password in it. Where the given one had, ``token`` is not a token but the whole
    ``"Basic …"`` of the ``Authorization`` header: like a token, it lives in memory only and goes to the endpoint only.
    """

    endpoint: str
    cache_dir: Path
    token: str | None = field(default=None, repr=False)
    is_offline: bool = False
    token_source: TokenSource | None = None


def resolve_settings(
    *, endpoint: str | None = None, cache_dir: str | Path | None = None, token: str | bool | None = None
) -> Settings:
    """Return the settings, from huggingface_hub where they are not given (HF_ENDPOINT, HF_TOKEN, HF_HUB_CACHE …).

    Parameters
    ----------
    token
        A token, ``None`` or ``True`` for the one huggingface_hub knows, ``False`` for none. With
        ``HF_HUB_DISABLE_IMPLICIT_TOKEN`` ``None`` means none.

    Raises
    ------
    InvalidRequestError
        When the endpoint is not an http(s) address, or the cache is in a home directory that does not exist.
    """
    try:
        from huggingface_hub import constants
    except ValueError as error:
        raise InvalidRequestError(
            f"huggingface_hub cannot read its environment variables: {error}. Correct HF_ENDPOINT, or the other "
            "variable that has this value."
        ) from error

    address, basic = _split_credentials(
        without_margins(endpoint or "") or without_margins(constants.ENDPOINT) or DEFAULT_ENDPOINT
    )
    found, source = (basic, "endpoint") if basic else _resolve_token(token)
    return Settings(
        endpoint=address,
        cache_dir=_absolute(Path(cache_dir or constants.HF_HUB_CACHE)),
        token=found,
        is_offline=bool(constants.HF_HUB_OFFLINE),
        token_source=source,
    )


def without_margins(text: str) -> str:
    """Return a text without the spaces around it, also those that cannot be seen."""
    return re.sub(rf"^[\s{_INVISIBLE}]+|[\s{_INVISIBLE}]+$", "", text)


def _split_credentials(text: str) -> tuple[str, str | None]:
    """Return the endpoint without user and password, and these as the value of a header."""
    shown = without_login(text)
    try:
        parts = urlsplit(text)
        port = parts.port
        (parts.hostname or "").encode("idna")  # as it is looked up: a part of a name has 1 to 63 characters
    except ValueError:
        raise not_an_endpoint(shown, "is not a web address") from None
    if parts.scheme not in ("http", "https") or re.search(r"[\s\\\x00-\x1f]", text):
        raise not_an_endpoint(shown, "is not a web address")
    if not parts.hostname:
        raise not_an_endpoint(shown, "has no host name")
    if "@" in parts.path:
        raise not_an_endpoint(shown, "has a password with a slash, which must be written as %2F")
    if parts.query or parts.fragment:
        raise not_an_endpoint(shown, "has a query or a fragment")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    netloc = host if port is None else f"{host}:{port}"
    return f"{parts.scheme}://{netloc}{parts.path}".rstrip("/"), _basic_authorization(parts, shown)


def without_login(address: str) -> str:
    """Return an address without the user and the password in it, whatever else is wrong with it."""
    return re.sub(r"^([\w+.-]+://)?.*@", r"\1", address, flags=re.DOTALL)


def _basic_authorization(parts: SplitResult, shown: str) -> str | None:
    if not parts.username and not parts.password:
        return None
    credentials = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    try:
        return f"Basic {b64encode(credentials.encode()).decode()}"
    except UnicodeEncodeError:
        raise not_an_endpoint(shown, "has a user or a password that is not UTF-8") from None


def not_an_endpoint(shown: str, problem: str) -> InvalidRequestError:
    """Return the error for an endpoint that cannot be asked. What is shown of it has no password."""
    return InvalidRequestError(
        f"The endpoint {shown!r} {problem}. Set HF_ENDPOINT to an address like https://huggingface.co, or unset it."
    )


def check_limits(limits: EngineLimits) -> EngineLimits:
    """Return the limits, or refuse those that no engine could keep.

    Raises
    ------
    InvalidRequestError
        When these are not limits, or one is not a whole number, or is less than 1.
    """
    if not isinstance(limits, EngineLimits):
        raise InvalidRequestError(f"limits must be an EngineLimits or None, not {limits!r}.")
    for what, count in {
        "downloads at once (max_active_jobs)": limits.max_active_jobs,
        "connections (max_connections)": limits.max_connections,
    }.items():
        if type(count) is not int or count < 1:
            raise InvalidRequestError(f"The number of {what} must be a whole number of at least 1, not {count!r}.")
    rate = limits.bandwidth_bytes_per_second
    if rate is not None and (type(rate) is not int or rate < 1):
        raise InvalidRequestError(
            "The bandwidth (bandwidth_bytes_per_second) must be a whole number of at least 1 byte per second, or None "
            f"for no limit, not {rate!r}."
        )
    return limits


def _absolute(cache_dir: Path) -> Path:
    try:
        found = cache_dir.expanduser().absolute()
        str(found).encode()
        return found
    except UnicodeEncodeError:
        raise InvalidRequestError(
            f"The cache cannot be at {str(cache_dir)!a}: this Python reads names of files as "
            f"{sys.getfilesystemencoding()}, which cannot read this name. Set PYTHONUTF8=1 or a UTF-8 locale such as "
            "LC_ALL=C.UTF-8 and start again, or set HF_HUB_CACHE."
        ) from None
    except RuntimeError as error:
        raise InvalidRequestError(
            f"The cache cannot be at {str(cache_dir)!r}, because that home directory does not exist. Set HF_HUB_CACHE."
        ) from error


def _resolve_token(token: str | bool | None) -> tuple[str | None, TokenSource | None]:
    """Return the token with the place where it was found."""
    from huggingface_hub import constants

    if isinstance(token, str):
        return (token, "argument") if token else (token, None)
    is_unwanted = token is False or (token is None and constants.HF_HUB_DISABLE_IMPLICIT_TOKEN)
    source = None if is_unwanted else _likely_source(Path(constants.HF_TOKEN_PATH))
    if source is None:
        return None, None
    from huggingface_hub import get_token  # here, because its import takes long

    found = get_token()
    return found, source if found else None


def _likely_source(token_path: Path) -> TokenSource | None:
    """Return where huggingface_hub looks for a token first, of the places that may have one."""
    if any(os.environ.get(name) for name in _TOKEN_VARIABLES):
        return "environment"
    if os.path.exists(token_path):
        return "file"
    return "colab" if "google.colab" in sys.modules else None
