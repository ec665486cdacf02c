"""The command ``modeldeck``: what the widget does, for shells, scripts and batch jobs.

Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted (what was fetched is kept).
"""

from __future__ import annotations

from modeldeck.cli.run import main

__all__ = ["main"]
