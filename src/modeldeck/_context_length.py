"""The context length that a caller asks for: checked in one place, with one message."""

from __future__ import annotations

import operator

from modeldeck._errors import InvalidRequestError
from modeldeck._types import DEFAULT_N_CTX

MAX_N_CTX = 1 << 30


def read_n_ctx(n_ctx: object, *, default: int = DEFAULT_N_CTX, own: int | None = None) -> int:
    """Return a context length in tokens.

    Parameters
    ----------
    n_ctx
        What the caller passed. ``None`` means ``default``, and 0 means ``own`` where the caller may ask for that.
    default
        In tokens.
    own
        The model's own context length in tokens; 0 while it is not known.

    Raises
    ------
    InvalidRequestError
        When it is not a whole number of tokens in the allowed range.

    Examples
    --------
    >>> read_n_ctx(None), read_n_ctx(512), read_n_ctx(0, own=8192)
    (4096, 512, 8192)
    """
    if n_ctx is None:
        return default
    try:
        tokens = None if isinstance(n_ctx, bool) else operator.index(n_ctx)  # type: ignore[arg-type]
    except TypeError:
        tokens = None
    if tokens == 0 and own is not None:
        return own
    if tokens is None or not 1 <= tokens <= MAX_N_CTX:
        advice = "" if own is None else f", or 0 for the model's own {own or ''}".rstrip()
        allowed = f"a whole number of tokens from 1 to {MAX_N_CTX}{advice}"
        raise InvalidRequestError(f"n_ctx must be {allowed}, not {n_ctx!r}.")
    return tokens
