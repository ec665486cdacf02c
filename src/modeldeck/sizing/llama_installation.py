"""llama-cpp-python's installation by another program, which tells of it in a file while it runs.

The file is a JSON object. ``state`` is one of `InstallationState`, ``remaining_seconds`` an estimate or null, and
``message`` says after a failure what happened and what to do. The program writes it again every few seconds and removes
it at the end, so that a file which has been left behind soon counts for nothing.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal

import msgspec

STATUS_VARIABLE = "MODELDECK_LLAMA_STATUS"
_ABANDONED_SECONDS = 60.0

InstallationState = Literal["downloading", "building", "installing", "failed"]


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """How far the installation is."""

    state: InstallationState
    remaining_seconds: float | None = None
    message: str | None = None

    @property
    def is_running(self) -> bool:
        return self.state != "failed"


def read_installation() -> Installation | None:
    """Return what the file says that `STATUS_VARIABLE` names. ``None`` when nothing is being installed."""
    name = os.environ.get(STATUS_VARIABLE)
    if not name:
        return None
    path = Path(name)
    try:
        age_seconds = time.time() - path.stat().st_mtime
        installation = msgspec.json.decode(path.read_bytes(), type=Installation)
    except (OSError, msgspec.DecodeError):
        return None
    if installation.is_running and age_seconds > _ABANDONED_SECONDS:
        return None
    return installation
