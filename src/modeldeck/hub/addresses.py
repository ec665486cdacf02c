"""A model as people name it: ``OWNER/NAME:LABEL``, or an address copied from a browser or another tool. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

import httpx

from modeldeck._errors import InvalidRequestError
from modeldeck._settings import without_margins
from modeldeck.hub.urls import check_endpoint, check_repo_id

_PUBLIC_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_PLAIN = re.compile(r"(?P<repo_id>[\w.-]+/[\w.-]+)(:(?P<selector>.*))?", re.ASCII | re.DOTALL)
_IN_FILE_SYSTEM = re.compile(
    r"(?P<owner>[^/]*)/(?P<name>[^/:@]*)(@(?P<revision>refs/(pr/\d+|convert/\w+)(?=[/:]|$)|[^/:]*))?"
    r"(:(?P<label>[^/]*))?(/(?P<filename>.*))?",
    re.ASCII | re.DOTALL,
)
_NOT_OWNERS = frozenset(
    [
        "api",
        "blog",
        "chat",
        "collections",
        "datasets",
        "docs",
        "enterprise",
        "join",
        "learn",
        "login",
        "models",
        "new",
        "organizations",
        "papers",
        "posts",
        "pricing",
        "search",
        "settings",
        "spaces",
        "tasks",
    ]
)
"""First parts of the paths of the Hub's other pages."""
_FILE_PAGES = ("blob", "resolve", "raw", "blame", "edit")
_FOLDER_PAGES = ("tree", "commits", "commit")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAddress:
    """The repository that a text names, and what else it names.

    Attributes
    ----------
    repo_id : str
        ``"owner/name"``.
    selector : str or None
        A label, or the path of a file.
    revision : str or None
        A branch, a tag or a commit.
    """

    repo_id: str
    selector: str | None = None
    revision: str | None = None


def model_address(text: str, endpoint: str) -> ModelAddress | None:
    """Return what a text names, or ``None`` when it does not name a model of this Hub.

    Parameters
    ----------
    text
        ``OWNER/NAME`` or ``OWNER/NAME:LABEL``, alone, after ``hf.co/`` or ``hf://``, or as the address of a page or a
        file at the public Hub or at the endpoint.
    endpoint
        The Hub's address, with its path if it has one.

    Raises
    ------
    InvalidRequestError
        When no request can be sent to the endpoint.

    Examples
    --------
    >>> model_address("https://huggingface.co/o/n/blob/main/m-Q4_K_M.gguf", "https://hub.example")
    ModelAddress(repo_id='o/n', selector='m-Q4_K_M.gguf', revision='main')
    >>> model_address(" hf.co/o/n:Q4_K_M", "https://hub.example")
    ModelAddress(repo_id='o/n', selector='Q4_K_M', revision=None)
    """
    text = without_margins(text)
    if text.lower().startswith("hf://"):
        return _of_file_system(text[len("hf://") :])
    parts = _path_at_hub(text, endpoint)
    if parts is not None:
        return _of_page(*parts)
    plain = _PLAIN.fullmatch(text)
    return None if plain is None else _checked(plain["repo_id"], plain["selector"])


def is_web_address(text: str) -> bool:
    """Return whether a text is meant as an address, of whatever server."""
    return "://" in text


def _path_at_hub(text: str, endpoint: str) -> tuple[list[str], str | None] | None:
    """Return the parts of an address's path below the Hub, and the file that its query shows."""
    base = httpx.URL(check_endpoint(endpoint))
    if not is_web_address(text):
        host = text.partition("/")[0].lower()
        if "/" not in text or host not in (*_PUBLIC_HOSTS, base.netloc.decode("ascii")):
            return None
        text = f"{base.scheme if host not in _PUBLIC_HOSTS else 'https'}://{text}"
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeEncodeError):
        return None
    path = url.raw_path.decode("ascii").partition("?")[0]
    if url.scheme not in ("http", "https") or "\\" in text:
        return None
    host = url.raw_host.decode("ascii")  # as it is sent: not every name that begins with xn-- can be decoded
    if host in _PUBLIC_HOSTS and url.port is None:
        below = path
    elif (url.raw_host, url.port) == (base.raw_host, base.port):
        folder = base.raw_path.decode("ascii").rstrip("/")
        if not path.startswith(f"{folder}/"):
            return None
        below = path.removeprefix(folder)
    else:
        return None
    return below.removeprefix("/").split("/"), url.params.get("show_file_info")


def _of_page(parts: list[str], shown_file: str | None) -> ModelAddress | None:
    if len(parts) < 2 or parts[0] in _NOT_OWNERS:
        return None
    name, _, selector = unquote(parts[1]).partition(":")
    rest = [unquote(part) for part in parts[2:] if part]
    revision = rest[1] if len(rest) > 1 and rest[0] in (*_FILE_PAGES, *_FOLDER_PAGES) else None
    filename = "/".join(rest[2:]) if revision is not None and rest[0] in _FILE_PAGES else None
    return _checked(f"{unquote(parts[0])}/{name}", selector or filename or shown_file or None, revision)


def _of_file_system(path: str) -> ModelAddress | None:
    """Return what a path of huggingface_hub's file system names: ``OWNER/NAME@REVISION/FILE``."""
    found = _IN_FILE_SYSTEM.fullmatch(path.removeprefix("models/"))
    if found is None or found["owner"] in _NOT_OWNERS:
        return None
    selector = found["label"] or found["filename"] or None
    return _checked(f"{found['owner']}/{found['name']}", selector, unquote(found["revision"] or "") or None)


def _checked(repo_id: str, selector: str | None, revision: str | None = None) -> ModelAddress | None:
    try:
        check_repo_id(repo_id)
    except InvalidRequestError:
        return None
    return ModelAddress(repo_id=repo_id, selector=selector, revision=revision)
