"""Where the Hub is, who asks, and where files go: huggingface_hub's own settings unless given."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from modeldeck._errors import InvalidRequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Resolved settings. The token is kept out of ``repr``."""

    endpoint: str
    cache_dir: Path
    token: str | None = field(default=None, repr=False)
    is_offline: bool = False


def resolve_settings(
    *, endpoint: str | None = None, cache_dir: str | Path | None = None, token: str | bool | None = None
) -> Settings:
    """Fill in what is not given from huggingface_hub (HF_ENDPOINT, HF_TOKEN, HF_HUB_CACHE, HF_HUB_OFFLINE …).

    Parameters
    ----------
    token
        A token, ``None`` or ``True`` for the one huggingface_hub knows, ``False`` for none.

    Raises
    ------
    InvalidRequestError
        When the endpoint is not an http(s) address, or the cache is to be in a home directory that there is not.
    """
    from huggingface_hub import constants

    address = (endpoint or constants.ENDPOINT).rstrip("/")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequestError(
            f"The endpoint {address!r} is no web address. Give one like https://huggingface.co or unset HF_ENDPOINT."
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
            f"The cache cannot be at {str(cache_dir)!r}: there is no such home directory. Set HF_HUB_CACHE."
        ) from error


def _resolve_token(token: str | bool | None) -> str | None:
    if isinstance(token, str):
        return token
    if token is False:
        return None
    from huggingface_hub import get_token

    return get_token()
