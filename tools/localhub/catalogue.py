"""The repositories that the hub serves, with their commits and files. No sockets, no clock."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modeldeck._types import Gated
from tools.localhub.messages import FileContent, Payload

EPOCH = "2026-01-01T00:00:00.000Z"
_HASH_BLOCK_BYTES = 1 << 20
_LFS_SUFFIXES = (".gguf", ".gguf_file", ".bin", ".safetensors", ".imatrix", ".dat")


@dataclass(frozen=True, slots=True)
class Blob:
    """The content of a file with its three names: sha256, git's oid, and the Xet hash."""

    source: FileContent
    size: int
    sha256: str
    oid: str
    is_lfs: bool

    @classmethod
    def of(cls, filename: str, source: FileContent, sha256: str | None = None) -> Blob:
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
    def body(self) -> Payload:
        return Payload(self.source, self.size, 0, self.size)


def pointer_text(sha256: str, size: int) -> bytes:
    """Return the text that git stores for a file in git-lfs."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def front_matter(files: Mapping[str, Blob]) -> dict[str, str]:
    """Return the plain ``name: value`` lines at the top of a README.md, such as its license."""
    readme = files.get("README.md")
    if readme is None:
        return {}
    opening, *lines = readme.body.read().decode("utf-8", "replace").splitlines() or [""]
    if opening != "---":
        return {}
    pairs = (line.partition(":") for line in itertools.takewhile(lambda line: line != "---", lines))
    return {name: value.strip() for name, colon, value in pairs if colon and value.strip()}


def _digest(hasher: hashlib._Hash, source: FileContent) -> str:
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
        """Return the commit that a branch, a tag or a commit hash means, with its hash."""
        commit_hash = self.refs.get(revision) or self.git_tags.get(revision) or revision
        commit = self.commits.get(commit_hash)
        return None if commit is None else (commit_hash, commit)


class Catalogue:
    """All repositories by id. A repository is immutable: a change replaces it."""

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

    def copy(self) -> Catalogue:
        """Return a catalogue that has the same repositories now."""
        copy = Catalogue()
        with self._lock:
            copy._repos, copy._aliases, copy._blobs = dict(self._repos), dict(self._aliases), dict(self._blobs)
        return copy

    def get(self, repo_id: str) -> Repo | None:
        return self._repos.get(repo_id)

    def canonical_id(self, repo_id: str) -> str | None:
        """Return the present id for one that is legacy, renamed or wrongly cased."""
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
        """Change a file in every commit that has it, under the same commit hashes, which a real Hub never does."""
        repo = self._repos[repo_id]
        commits = {
            commit_hash: Commit({path: blob if path == filename else old for path, old in commit.files.items()})
            for commit_hash, commit in repo.commits.items()
        }
        self.put(replace(repo, commits=commits))


def scan_folder(folder: Path) -> dict[str, dict[str, Path]]:
    """Return the files of each ``OWNER/NAME`` below a folder. Names that start with a dot are left out."""
    repos: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob("*/*/**/*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") for part in parts):
            repos.setdefault("/".join(parts[:2]), {})["/".join(parts[2:])] = path
    return repos
