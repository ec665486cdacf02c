"""The one way to get an engine: which one serves a cache directory, and where it runs."""

from __future__ import annotations

import os

from modeldeck._errors import EngineLostError
from modeldeck._notices import INLINE_NOTICE
from modeldeck._settings import Settings
from modeldeck._types import EngineLimits
from modeldeck.service.discovery import find_place
from modeldeck.service.engine_client import EngineClient
from modeldeck.service.launch import ProcessHome

INLINE_VARIABLE = "MODELDECK_INLINE"


def connect_engine(
    settings: Settings, *, inline: bool | None = None, limits: EngineLimits | None = None
) -> EngineClient:
    """Join the engine of these settings' cache directory, or start it.

    Blocks for a moment: an engine takes some tenths of a second to start. Where no process can be started, the engine
    runs inline, and the client's ``notice`` says so.

    Parameters
    ----------
    settings
        The cache directory decides which engine it is.
    inline
        ``True`` for an engine on a thread of this process, which ends with it; ``False`` for a process of its own;
        ``None`` for the process unless the variable MODELDECK_INLINE is set to something other than 0.
    limits
        Limits to set when connected. ``None`` leaves the engine's own.

    Raises
    ------
    InvalidRequestError
        When the engine refuses the limits.
    """
    notice = None
    if not (is_inline_by_default() if inline is None else inline):
        try:
            return EngineClient(ProcessHome(find_place(settings.cache_dir), settings.cache_dir), limits=limits)
        except EngineLostError as error:
            notice = f"{error.message} {INLINE_NOTICE}"
    from modeldeck.service.inline import InlineHome  # brings the engine itself, which other clients never need

    return EngineClient(InlineHome(settings.cache_dir), notice=notice, limits=limits)


def is_inline_by_default() -> bool:
    """Whether MODELDECK_INLINE asks for an engine inside this process."""
    return os.environ.get(INLINE_VARIABLE, "0") not in ("", "0")
