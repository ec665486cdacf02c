"""The Hub's address, the token and the cache directory: huggingface_hub's own settings unless given."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from modeldeck._errors import InvalidRequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Resolved settings. The token is not in ``repr``."""

    endpoint: str
    cache_dir: Path
    token: str | None = field(default=None, repr=False)
    is_offline: bool = False


def resolve_settings(
    *, endpoint: str | None = None, cache_dir: str | Path | None = None, token: str | bool | None = None
) -> Settings:
    """Return the settings, from huggingface_hub where they are not given (HF_ENDPOINT, HF_TOKEN, HF_HUB_CACHE …).

    Parameters
    ----------
    token
        A token, ``None`` or ``True`` for the one huggingface_hub knows, ``False`` for none.

    Raises
    ------
    InvalidRequestError
        When the endpoint is not an http(s) address, or the cache is in a home directory that does not exist.
    """
    from huggingface_hub import constants

    address = (endpoint or constants.ENDPOINT).rstrip("/")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequestError(
            f"The endpoint {address!r} is not a web address. Set HF_ENDPOINT to one like https://huggingface.co, or "
            "unset it."
        )
    return Settings(
        endpoint=address,
        cache_dir=_absolute(Path(cache_dir or constants.HF_HUB_CACHE)),
        token=_resolve_token(token),
        is_offline=bool(constants.HF_HUB_OFFLINE),
    )


def _absolute(cache_dir: Path) -> Path:
    try:
        return cache_dir.expanduser().absolute()
    except RuntimeError as error:
        raise InvalidRequestError(
            f"The cache cannot be at {str(cache_dir)!r}, because that home directory does not exist. Set HF_HUB_CACHE."
        ) from error


def _resolve_token(token: str | bool | None) -> str | None:
    if isinstance(token, str):
        return token
    if token is False:
        return None
    from huggingface_hub import get_token

    return get_token()
