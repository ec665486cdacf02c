"""What the Hub's API says about repositories, as JSON-ready values. Pure.

The shapes follow the Hub's, field by field: what is optional there is left out here when it is unknown.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from tools.localhub.catalogue import Blob, Commit, Repo

_LIST_FIELDS = ("likes", "trendingScore", "private", "downloads", "tags", "pipeline_tag", "library_name", "createdAt",
                "modelId")  # fmt: skip
_FULL_FIELDS = (*_LIST_FIELDS, "author", "gated", "lastModified", "sha", "siblings")
_INFO_FIELDS = (*_FULL_FIELDS, "disabled", "widgetData", "model-index", "config", "cardData", "gguf", "spaces",
                "usedStorage")  # fmt: skip
_EXPANDABLE_NAMES = (
    "author baseModels cardData childrenModelCount config createdAt disabled downloads downloadsAllTime evalResults "
    "gated gguf inference inferenceProviderMapping lastModified library_name likes mask_token model-index "
    "pipeline_tag private resourceGroup safetensors sha siblings spaces tags transformersInfo trendingScore "
    "usedStorage widgetData"
)
EXPANDABLE = frozenset(_EXPANDABLE_NAMES.split())
_APPS = {"llama.cpp", "lmstudio", "jan", "ollama"}
"""Applications that run the GGUF files of a repository."""
_SORT_FIELDS = {"downloads", "likes", "lastModified", "createdAt", "trendingScore", "id"}


def document(
    repo: Repo, commit_hash: str, *, fields: Iterable[str] = _INFO_FIELDS, with_blobs: bool = False
) -> dict[str, Any]:
    """Return what the API says of a repository at a commit, reduced to some fields. Unknown fields are left out."""
    commit = repo.commits[commit_hash]
    everything: dict[str, Any] = {
        "author": repo.repo_id.rpartition("/")[0] or None,
        "cardData": {"license": repo.license, "tags": list(repo.tags)} if repo.license else None,
        "config": {},
        "createdAt": repo.created_at,
        "disabled": repo.is_disabled,
        "downloads": repo.downloads,
        "downloadsAllTime": repo.downloads,
        "gated": repo.gated,
        "gguf": repo.gguf,
        "lastModified": repo.last_modified,
        "library_name": repo.library_name,
        "likes": repo.likes,
        "modelId": repo.repo_id,
        "pipeline_tag": repo.pipeline_tag,
        "private": False,
        "sha": commit_hash,
        "siblings": [sibling(path, blob, with_blobs=with_blobs) for path, blob in sorted(commit.files.items())],
        "spaces": [],
        "tags": list(repo.all_tags),
        "trendingScore": repo.likes,
        "usedStorage": sum(
            {blob.sha256: blob.size for one in repo.commits.values() for blob in one.files.values()}.values()
        ),
    }
    identity = {"_id": hashlib.sha256(repo.repo_id.encode()).hexdigest()[:24], "id": repo.repo_id}
    return identity | {name: everything[name] for name in fields if everything.get(name) is not None}


def sibling(path: str, blob: Blob, *, with_blobs: bool) -> dict[str, Any]:
    if not with_blobs:
        return {"rfilename": path}
    entry: dict[str, Any] = {"rfilename": path, "blobId": blob.oid, "size": blob.size}
    if blob.is_lfs:
        entry["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": blob.pointer_size}
    return entry


def tree_entry(path: str, blob: Blob | None) -> dict[str, Any]:
    """Return a row of the tree: a folder if there is no blob. With ``xetHash``, huggingface_hub would use Xet."""
    if blob is None:
        oid = hashlib.sha1(f"tree {path}".encode(), usedforsecurity=False).hexdigest()
        return {"type": "directory", "oid": oid, "size": 0, "path": path}
    entry: dict[str, Any] = {"type": "file", "oid": blob.oid, "size": blob.size}
    if blob.is_lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": blob.pointer_size}
    return entry | {"path": path}


def tree(commit: Commit, folder: str = "", *, recursive: bool = False) -> list[dict[str, Any]] | None:
    """Return the entries below a folder in the order of their paths, or ``None`` for a folder that does not exist."""
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, Blob | None] = {}
    for path, blob in commit.files.items():
        if not path.startswith(prefix):
            continue
        for parent in PurePosixPath(path).parents:
            if str(parent) != "." and str(parent).startswith(prefix):
                entries[str(parent)] = None
        entries[path] = blob
    if folder and not entries:
        return None
    return [
        tree_entry(path, blob)
        for path, blob in sorted(entries.items())
        if recursive or "/" not in path.removeprefix(prefix)
    ]


def refs(repo: Repo) -> dict[str, Any]:
    def rows(kind: str, names: Mapping[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in names.items()]

    return {"tags": rows("tags", repo.git_tags), "branches": rows("heads", repo.refs), "converts": []}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """The parameters of ``GET /api/models`` that this hub knows."""

    search: str = ""
    filters: tuple[str, ...] = ()
    author: str | None = None
    pipeline_tag: str | None = None
    gated: bool | None = None
    apps: tuple[str, ...] = ()
    min_parameters: int | None = None
    max_parameters: int | None = None
    sort: str = "trendingScore"
    is_ascending: bool = False


def select(repos: Iterable[Repo], query: ListQuery) -> list[Repo]:
    """Return the repositories that match, in order, and ties by their ids, so that pages do not overlap."""

    def matches(repo: Repo) -> bool:
        return (
            query.search.lower() in repo.repo_id.lower()
            and set(query.filters) <= {*repo.all_tags, repo.pipeline_tag, repo.library_name}
            and (query.author is None or repo.repo_id.rpartition("/")[0].lower() == query.author.lower())
            and (query.pipeline_tag is None or repo.pipeline_tag == query.pipeline_tag)
            and (query.gated is None or bool(repo.gated) is query.gated)
            and all(app in _APPS and "context_length" in (repo.gguf or {}) for app in query.apps)
            and _has_size(repo, query)
        )

    def rank(repo: Repo) -> Any:
        keys = {
            "likes": repo.likes,
            "trendingScore": repo.likes,
            "lastModified": repo.last_modified,
            "createdAt": repo.created_at,
            "id": repo.repo_id,
        }
        return keys.get(query.sort, repo.downloads)

    found = sorted(filter(matches, repos), key=lambda repo: repo.repo_id)
    return sorted(found, key=rank, reverse=not query.is_ascending)


def _has_size(repo: Repo, query: ListQuery) -> bool:
    if query.min_parameters is None and query.max_parameters is None:
        return True
    total = (repo.gguf or {}).get("total")
    return total is not None and (query.min_parameters or 0) <= total <= (query.max_parameters or total)


def parse_sizes(text: str) -> tuple[int | None, int | None] | None:
    """Return the bounds of ``min:1B,max:900M``, or ``None`` for a text that the Hub would refuse."""
    bounds: dict[str, int] = {}
    for part in text.split(","):
        match = re.fullmatch(r"(min|max):(\d+(?:\.\d+)?)([KMBT]?)", part)
        if match is None:
            return None
        bounds[match[1]] = round(float(match[2]) * 10 ** (3 * " KMBT".index(match[3] or " ")))
    return bounds.get("min"), bounds.get("max")


def list_fields(*, is_full: bool, expand: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the fields of a row of the list: those that ``expand`` names, or else the usual ones."""
    return tuple(expand) or (_FULL_FIELDS if is_full else _LIST_FIELDS)


def is_sortable(name: str) -> bool:
    return name in _SORT_FIELDS
