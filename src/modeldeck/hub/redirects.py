"""Where an answer sends on to: redirects and next pages, kept at the user's own endpoint. Pure.

The client and the engine follow redirects by hand, with `redirect_target` for the address and
`modeldeck.hub.urls.authorization_headers` for the token, which goes to the endpoint's own origin only.
"""

from __future__ import annotations

import re

import httpx

from modeldeck.hub.urls import is_hub_url, is_same_origin, join_url

MAX_REDIRECTS = 5

_HUB_PATH = re.compile(r"/api/(models|resolve-cache)/|/[^/]+(/[^/]+)?/resolve/")
"""The paths that a Hub redirects to when a repository was renamed, and for small files."""


def redirect_target(asked: str, location: str, *, endpoint: str) -> str | None:
    """Return the address that a redirect leads to, or ``None`` when that is not a web address.

    A mirror often serves a Hub below a path of its own and passes the Hub's redirects on as they are. The address of a
    renamed repository, which would lead out of that path or to the public Hub, is therefore taken at the endpoint.

    Parameters
    ----------
    asked
        The address that answered.
    location
        The ``Location`` header.
    endpoint
        The address of the Hub that the user chose, with its path.

    Examples
    --------
    >>> mirror = "https://mirror.example/hf"
    >>> redirect_target(f"{mirror}/api/models/old", "/api/models/o/new", endpoint=mirror)
    'https://mirror.example/hf/api/models/o/new'
    """
    target = join_url(asked, location)
    if target is None or not is_hub_url(target, endpoint) or _is_below(target, endpoint):
        return target
    path = _raw_path(target)
    # A mirror that sends the very same request on to the public Hub would send it there again.
    if not _HUB_PATH.match(path) or path == _raw_path(asked).removeprefix(_folder(endpoint)):
        return target
    return f"{endpoint}{path}"


def next_page(asked: str, link: str, *, first: str, endpoint: str) -> str | None:
    """Return the address of the next page of a list, or ``None`` when the link does not lead to one.

    A mirror passes on the ``Link`` header of the Hub behind it. Of such an address only the query is taken: the page is
    asked for at the endpoint.

    Parameters
    ----------
    asked
        The address that answered.
    link
        The address that its ``Link`` header names as the next page.
    first
        The address of the list's first page.
    """
    page = join_url(asked, link)
    if page is None:
        return None
    if is_page_of(page, first):
        return page
    list_path = _path(first).removeprefix(_folder(endpoint))
    if not _path(page).endswith(list_path):
        return None
    return f"{first.partition('?')[0]}?{_raw_path(page).partition('?')[2]}"


def is_page_of(page: str, first: str) -> bool:
    """Return whether an address is one of the pages of the list that ``first`` begins."""
    try:
        return is_same_origin(page, first) and _path(page) == _path(first)
    except httpx.InvalidURL:
        return False


def _is_below(url: str, endpoint: str) -> bool:
    return is_same_origin(url, endpoint) and _path(url).startswith(f"{_folder(endpoint)}/")


def _folder(endpoint: str) -> str:
    return _path(endpoint).rstrip("/")


def _path(url: str) -> str:
    return _raw_path(url).partition("?")[0]


def _raw_path(url: str) -> str:
    """Return path and query as they are sent."""
    return httpx.URL(url).raw_path.decode("ascii")
