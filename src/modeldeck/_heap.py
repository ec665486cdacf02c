"""Give freed memory back to the system."""

from __future__ import annotations

import ctypes
import sys


def trim_heap() -> None:
    """Return memory that was freed to the system. The GNU C library keeps some hundred megabytes otherwise."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
