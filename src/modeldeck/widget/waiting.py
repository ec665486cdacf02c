"""Notebooks in which a cell cannot wait for a click, whatever the page does."""

from __future__ import annotations

import os
import sys


def why_no_cell_can_wait() -> str | None:
    """Return why a cell cannot wait for a click in this notebook, and what to do instead. Call it in a cell.

    ``None`` means that it can wait, or that this is not known.
    """
    if any(name.startswith("VOILA_") for name in os.environ):
        return (
            "Voilà shows its page when all cells have run, so nobody can press Load while a cell waits. Use "
            '`browser.observe(function, "llm")`, which calls the function when a model is loaded'
        )
    marimo = sys.modules.get("marimo")
    if marimo is not None and marimo.running_in_notebook():
        return (
            "marimo delivers clicks when no cell runs, so nobody can press Load while a cell waits. Keep the widget in "
            "a variable, `deck = mo.ui.anywidget(browser)`, and use `deck.llm` in another cell, which runs again when "
            "a model is loaded"
        )
    return None
