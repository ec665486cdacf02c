"""What a licence allows, in the few kinds that people choose a model by, and where its text is."""

from __future__ import annotations

from typing import Literal, TypeAlias

LicenceKind: TypeAlias = Literal["permissive", "share_alike", "non_commercial", "own_terms"]

_PERMISSIVE = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "isc": "ISC",
    "unlicense": "Unlicense",
    "cc0-1.0": "CC0-1.0",
    "cc-by-4.0": "CC-BY-4.0",
    "cdla-permissive-2.0": "CDLA-Permissive-2.0",
}
_SHARE_ALIKE = {
    "gpl-3.0": "GPL-3.0-only",
    "agpl-3.0": "AGPL-3.0-only",
    "lgpl-3.0": "LGPL-3.0-only",
    "cc-by-sa-4.0": "CC-BY-SA-4.0",
}
_NON_COMMERCIAL = {
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0",
    "cc-by-nc-nd-4.0": "CC-BY-NC-ND-4.0",
}
_KINDS: dict[LicenceKind, dict[str, str]] = {
    "permissive": _PERMISSIVE,
    "share_alike": _SHARE_ALIKE,
    "non_commercial": _NON_COMMERCIAL,
}


def licence_kind(identifier: str | None) -> LicenceKind | None:
    """Return what the licence with the Hub's identifier allows; a licence without a standard text has terms of its
    own."""
    if identifier is None:
        return None
    return next((kind for kind, licences in _KINDS.items() if identifier.lower() in licences), "own_terms")


def licence_url(identifier: str | None, repo_page: str) -> str | None:
    """Return where to read the licence: its standard text, or the page of the repository."""
    if identifier is None:
        return None
    spdx = next((licences[identifier.lower()] for licences in _KINDS.values() if identifier.lower() in licences), None)
    return repo_page if spdx is None else f"https://spdx.org/licenses/{spdx}.html"
