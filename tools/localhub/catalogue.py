"""Repositories and what the Hub's API says about them. Pure: no sockets, no clock.

The shapes of the documents follow the Hub's, field by field: what is optional there is absent here when unknown.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from modeldeck._types import Gated
from tools.localhub.messages import Body, Source

EPOCH = "2026-01-01T00:00:00.000Z"
_HASH_BLOCK_BYTES = 1 << 20
_LFS_SUFFIXES = (".gguf", ".gguf_file", ".bin", ".safetensors", ".imatrix", ".dat")


@dataclass(frozen=True, slots=True)
class Blob:
    """The content of a file with its three names: sha256, git's oid, and the Xet hash."""

    source: Source
    size: int
    sha256: str
    oid: str
    is_lfs: bool

    @classmethod
    def of(cls, filename: str, source: Source, sha256: str | None = None) -> Blob:
        """Read a source once. ``sha256`` spares the reading of a large file whose digest is known."""
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        is_lfs = filename.endswith(_LFS_SUFFIXES)
        sha256 = sha256 or _digest(hashlib.sha256(), source)
        oid = (
            git_oid(pointer_text(sha256, size))
            if is_lfs
            else _digest(hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False), source)
        )
        return cls(source, size, sha256, oid, is_lfs)

    @property
    def xet_hash(self) -> str:
        """64 hex digits like a sha256, and never equal to it: what the CDN has as ETag."""
        return hashlib.sha256(b"xet " + self.sha256.encode()).hexdigest()

    @property
    def pointer_size(self) -> int:
        return len(pointer_text(self.sha256, self.size))

    @property
    def body(self) -> Body:
        return Body(self.source, self.size, 0, self.size)


def pointer_text(sha256: str, size: int) -> bytes:
    """What git stores for a file in LFS."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def front_matter(files: Mapping[str, Blob]) -> dict[str, str]:
    """The plain ``name: value`` lines at the top of a README.md, such as its license."""
    readme = files.get("README.md")
    if readme is None:
        return {}
    opening, *lines = readme.body.read().decode("utf-8", "replace").splitlines() or [""]
    if opening != "---":
        return {}
    pairs = (line.partition(":") for line in itertools.takewhile(lambda line: line != "---", lines))
    return {name: value.strip() for name, colon, value in pairs if colon and value.strip()}


def _digest(hasher: hashlib._Hash, source: Source) -> str:
    if isinstance(source, bytes):
        hasher.update(source)
        return hasher.hexdigest()
    with source.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


@dataclass(frozen=True, slots=True)
class Commit:
    """The files of a repository at one moment. Its hash is a digest of their names and contents."""

    files: Mapping[str, Blob]

    @property
    def commit_hash(self) -> str:
        listing = "".join(f"{path}\0{blob.oid}\n" for path, blob in sorted(self.files.items()))
        return hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Repo:
    """One model repository with its history. ``refs`` maps branches, ``git_tags`` maps tags to commits."""

    repo_id: str
    commits: Mapping[str, Commit]
    refs: Mapping[str, str]
    git_tags: Mapping[str, str] = field(default_factory=dict)
    gated: Gated = False
    is_disabled: bool = False
    tags: tuple[str, ...] = ()
    likes: int = 0
    downloads: int = 0
    license: str | None = None
    pipeline_tag: str | None = None
    library_name: str | None = None
    gguf: Mapping[str, Any] | None = None
    last_modified: str = EPOCH
    created_at: str = EPOCH

    @property
    def all_tags(self) -> tuple[str, ...]:
        automatic = []
        if any(path.endswith(".gguf") for path in self.head.files):
            automatic.append("gguf")
        if self.gguf and "chat_template" in self.gguf:
            automatic.append("conversational")
        if self.license:
            automatic.append(f"license:{self.license}")
        return tuple(dict.fromkeys((*automatic, *self.tags, "region:us")))

    @property
    def head(self) -> Commit:
        return self.commits[self.refs["main"]]

    def resolve(self, revision: str) -> tuple[str, Commit] | None:
        """The commit a branch, a tag or a commit hash means."""
        commit_hash = self.refs.get(revision) or self.git_tags.get(revision) or revision
        commit = self.commits.get(commit_hash)
        return None if commit is None else (commit_hash, commit)


class Catalogue:
    """All repositories by id. Repositories are immutable; changing one puts another in its place."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._repos: dict[str, Repo] = {}
        self._aliases: dict[str, str] = {}
        self._blobs: dict[str, Blob] = {}

    def put(self, repo: Repo, aliases: Iterable[str] = ()) -> None:
        with self._lock:
            self._repos[repo.repo_id] = repo
            self._aliases.update({alias.lower(): repo.repo_id for alias in (repo.repo_id, *aliases)})
            for commit in repo.commits.values():
                self._blobs.update({blob.xet_hash: blob for blob in commit.files.values()})

    def get(self, repo_id: str) -> Repo | None:
        return self._repos.get(repo_id)

    def canonical_id(self, repo_id: str) -> str | None:
        """The id that a legacy, renamed or wrongly-cased one stands for."""
        return self._aliases.get(repo_id.lower())

    def blob(self, xet_hash: str) -> Blob | None:
        return self._blobs.get(xet_hash)

    def all(self) -> tuple[Repo, ...]:
        with self._lock:
            return tuple(self._repos.values())

    def commit(self, repo_id: str, changes: Mapping[str, Blob | None], branch: str = "main") -> str:
        """Add a commit in which some files are new, changed or (``None``) gone; older commits stay."""
        repo = self._repos[repo_id]
        files = {**repo.commits[repo.refs[branch]].files, **changes}
        commit = Commit({path: blob for path, blob in files.items() if blob is not None})
        commit_hash = commit.commit_hash
        self.put(replace(repo, commits={**repo.commits, commit_hash: commit}, refs={**repo.refs, branch: commit_hash}))
        return commit_hash

    def rewrite(self, repo_id: str, filename: str, blob: Blob) -> None:
        """Change a file in every commit that has it, under the same commit hashes: what no honest Hub does."""
        repo = self._repos[repo_id]
        commits = {
            commit_hash: Commit({path: blob if path == filename else old for path, old in commit.files.items()})
            for commit_hash, commit in repo.commits.items()
        }
        self.put(replace(repo, commits=commits))


# --- documents --------------------------------------------------------------------------------------------------------

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
_SORT_FIELDS = {"downloads", "likes", "lastModified", "createdAt", "trendingScore", "id"}


def document(
    repo: Repo, commit_hash: str, *, fields: Iterable[str] = _INFO_FIELDS, with_blobs: bool = False
) -> dict[str, Any]:
    """What the API says of a repository at a commit, reduced to some fields. Unknown fields are left out."""
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
    """A row of the tree; a folder without a blob. No ``xetHash``: huggingface_hub would then ask for Xet, not HTTP."""
    if blob is None:
        oid = hashlib.sha1(f"tree {path}".encode(), usedforsecurity=False).hexdigest()
        return {"type": "directory", "oid": oid, "size": 0, "path": path}
    entry: dict[str, Any] = {"type": "file", "oid": blob.oid, "size": blob.size}
    if blob.is_lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": blob.pointer_size}
    return entry | {"path": path}


def tree(commit: Commit, folder: str = "", *, recursive: bool = False) -> list[dict[str, Any]] | None:
    """The entries below a folder, in the order of their paths; ``None`` when there is no such folder."""
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
    sort: str = "trendingScore"
    is_ascending: bool = False


def select(repos: Iterable[Repo], query: ListQuery) -> list[Repo]:
    """The repositories that match, in order. Ties are in the order of their ids, so that pages do not overlap."""

    def matches(repo: Repo) -> bool:
        return (
            query.search.lower() in repo.repo_id.lower()
            and set(query.filters) <= {*repo.all_tags, repo.pipeline_tag, repo.library_name}
            and (query.author is None or repo.repo_id.rpartition("/")[0].lower() == query.author.lower())
            and (query.pipeline_tag is None or repo.pipeline_tag == query.pipeline_tag)
            and (query.gated is None or bool(repo.gated) is query.gated)
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


def list_fields(*, is_full: bool, expand: Iterable[str] = ()) -> tuple[str, ...]:
    """Which fields a row of the list has: ``expand`` returns only what it names."""
    return tuple(expand) or (_FULL_FIELDS if is_full else _LIST_FIELDS)


def is_sortable(name: str) -> bool:
    return name in _SORT_FIELDS


def scan_folder(folder: Path) -> dict[str, dict[str, Path]]:
    """The files of each ``OWNER/NAME`` below a folder. Names that start with a dot are not served."""
    repos: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob("*/*/**/*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") for part in parts):
            repos.setdefault("/".join(parts[:2]), {})["/".join(parts[2:])] = path
    return repos
