"""Finds the Chromium of this machine."""

import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

HOW_TO_INSTALL = (
    "The browser tests need Chromium or Google Chrome on the PATH.\n"
    "Debian: apt-get install chromium · Fedora: dnf install chromium · macOS: brew install --cask chromium"
)


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)
