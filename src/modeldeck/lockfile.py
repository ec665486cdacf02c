"""The lock file ``modeldeck.lock``: which files an experiment uses, so that it can be repeated elsewhere.

::

    version = 1

    [versions]
    modeldeck = "0.1.0"
    llama-cpp-python = "0.3.36"

    [[model]]
    repo = "owner/name"
    commit = "0123456789abcdef0123456789abcdef01234567"
    label = "Q4_K_M"
    n_ctx = 4096

    [[model.files]]
    name = "model-Q4_K_M.gguf"
    size = 4920733824
    sha256 = "…"

It is read by anybody's TOML reader and may be edited, so everything in it is checked. The same models give the same
bytes.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from modeldeck._context_length import read_n_ctx
from modeldeck._errors import AmbiguousVariantError, InvalidRequestError, LockError, RemoteFileNotFoundError
from modeldeck._files import replace_file
from modeldeck._settings import DEFAULT_ENDPOINT
from modeldeck._types import GGUFFile, LockedModel
from modeldeck._version import __version__

LOCK_FILE_NAME = "modeldeck.lock"

NamesOf: TypeAlias = Callable[[str], Collection[str]]
"""Returns the names of a repository, now and in the past, as `modeldeck.renames.RenameStore.names_of` does."""

_FORMAT = 1
_HEADER = """\
# Which files the models of this experiment are. `modeldeck sync` brings exactly these.
# Written by `modeldeck lock`.

"""
_LIBRARY = "llama-cpp-python"
_LONGEST_TURN_SECONDS = 60.0


def _only_that(repo_id: str) -> tuple[str, ...]:
    return (repo_id,)


class _FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    size: int
    sha256: str


class _ModelEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    repo: str
    commit: str
    label: str
    n_ctx: int
    files: tuple[_FileEntry, ...]


class _Content(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int
    versions: dict[str, str] = {}
    model: tuple[_ModelEntry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LockFile:
    """What a lock file says.

    Attributes
    ----------
    models
        The models, sorted by repository and file.
    versions
        The packages that were installed when it was written.
    """

    models: tuple[LockedModel, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def with_models(self, models: Iterable[LockedModel], *, names_of: NamesOf = _only_that) -> LockFile:
        """Return the lock file with these models added, or in the place of earlier locks of the same variants.

        An earlier lock may be under another name of the repository.
        """
        models = tuple(models)
        again = {(name.lower(), model.variant_id) for model in models for name in names_of(model.repo_id)}
        kept = (model for model in self.models if (model.repo_id.lower(), model.variant_id) not in again)
        known = {(model.repo_id, model.variant_id): model for model in (*kept, *models)}
        return LockFile(models=tuple(known[key] for key in sorted(known)), versions=installed_versions())

    def find(self, name: str, *, endpoint: str = DEFAULT_ENDPOINT, names_of: NamesOf = _only_that) -> LockedModel:
        """Return the model that a name means.

        Parameters
        ----------
        name
            ``owner/name:LABEL``, without the owner, the label or both, or an address of it: see
            `modeldeck.hub.addresses.model_address`.
        endpoint
            The address of the Hub in use.
        names_of
            Returns other names of a repository, as in ``with_models``.

        Raises
        ------
        LockError
            If no model has this name. The message lists the names.
        AmbiguousVariantError
            If several have it.
        """
        found = self._named(name, endpoint, names_of)
        if len(found) == 1:
            return found[0]
        if not found:
            names = ", ".join(model.name for model in self.models)
            raise LockError(f"The lock file has no model {name!r}. It has: {names or 'none'}.")
        choices = [f"{model.repo_id}:{model.variant_id}" for model in found]
        raise AmbiguousVariantError(
            f"The lock file has {len(found)} models {name!r}. Choose one of: {', '.join(choices)}.", choices=choices
        )

    def _named(self, name: str, endpoint: str, names_of: NamesOf) -> list[LockedModel]:
        from modeldeck._settings import without_margins
        from modeldeck.hub.addresses import model_address
        from modeldeck.hub.urls import is_commit_hash

        address = model_address(name, endpoint)
        if address is None:
            short, colon, selector = without_margins(name).partition(":")
            of_repo = [model for model in self.models if model.repo_id.rpartition("/")[2].lower() == short.lower()]
            return _select(of_repo, selector if colon else None)
        names = {each.lower() for each in names_of(address.repo_id)}
        of_repo = [model for model in self.models if model.repo_id.lower() in names]
        if is_commit_hash(address.revision):
            of_repo = [model for model in of_repo if model.commit_hash == address.revision]
        return _select(of_repo, address.selector)

    def changed_versions(self) -> str | None:
        """Return a sentence about the packages that were locked with another version, or ``None``."""
        here = installed_versions()
        changed = [
            f"{package} {locked} ({here.get(package, 'not installed')} here)"
            for package, locked in self.versions.items()
            if here.get(package) != locked
        ]
        return f"The models were locked with {' and '.join(changed)}. Results may differ." if changed else None


def pin(repo_id: str, commit_hash: str, label: str, files: Iterable[GGUFFile], *, n_ctx: int) -> LockedModel:
    """Return a variant at a commit, with what a lock file says of its files."""
    return LockedModel(
        repo_id=repo_id,
        commit_hash=commit_hash,
        label=label,
        n_ctx=n_ctx,
        files=tuple(replace(file, oid=None) for file in files),
    )


def read_lock_file(path: Path) -> LockFile:
    """Read a lock file and check everything in it.

    Raises
    ------
    LockError
        If it is missing, cannot be read, is of another version, or has something wrong in it.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise LockError(
            f"There is no lock file {str(path)!r}. Write one with `modeldeck lock OWNER/NAME:LABEL`."
        ) from None
    except OSError as error:
        raise LockError(f"The lock file {str(path)!r} cannot be read: {error.strerror}.") from error
    try:
        values = tomllib.loads(content.decode("utf-8-sig"))  # some editors begin a file with a mark
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _is_wrong(path, str(error)) from None
    if "version" not in values:
        raise _is_wrong(path, f"It is missing required field `version`: put `version = {_FORMAT}` at its top")
    found = values["version"]
    if type(found) is int and found != _FORMAT:
        raise LockError(
            f"The lock file {str(path)!r} has version {found}, and this modeldeck ({__version__}) knows version "
            f"{_FORMAT}. Update modeldeck, or write the file again with `modeldeck lock`."
        )
    try:
        parsed = msgspec.convert(values, _Content)
        models = tuple(_checked(entry) for entry in parsed.model)
        names = [f"{model.repo_id}:{model.variant_id}" for model in models]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InvalidRequestError(f"{twice!r} is in it twice.")
    except (msgspec.ValidationError, InvalidRequestError) as error:
        raise _is_wrong(path, str(error)) from None
    return LockFile(models=models, versions=parsed.versions)


def read_lock_file_so_far(path: Path) -> LockFile:
    """Read a lock file as `read_lock_file` does; one that does not exist yet is empty."""
    return read_lock_file(path) if os.path.lexists(os.path.realpath(path)) else LockFile()


def add_to_lock_file(
    path: Path, models: Iterable[LockedModel], *, turn: Path | None, names_of: NamesOf = _only_that
) -> LockFile:
    """Add models to a lock file, as `LockFile.with_models` does, and return what it says then.

    Parameters
    ----------
    path
        The lock file.
    models
        The models to add or to lock again.
    turn
        A file to lock meanwhile, so that of several programs none undoes what another one has just added. ``None``
        locks nothing.
    names_of
        As for `LockFile.with_models`.

    Raises
    ------
    LockError
        If the lock file cannot be read or written, or it does not become this program's turn.
    """
    from filelock import FileLock, Timeout  # here, because only this needs it

    try:
        with nullcontext() if turn is None else FileLock(turn, timeout=_LONGEST_TURN_SECONDS):
            lock = read_lock_file_so_far(path).with_models(models, names_of=names_of)
            write_lock_file(path, lock)
    except Timeout:
        raise LockError(
            f"The lock file {str(path)!r} is not written, because another program has been writing lock files for "
            f"{_LONGEST_TURN_SECONDS:.0f} s. End that program, and lock again."
        ) from None
    return lock


def write_lock_file(path: Path, lock: LockFile) -> None:
    """Write a lock file, in place of the one that is there. Where the path is a link, the file that it leads to.

    Raises
    ------
    LockError
        If it cannot be written, or the digest of a file is not known.
    """
    import tomli_w

    content = {
        "version": _FORMAT,
        "versions": dict(sorted(lock.versions.items())),
        "model": [_as_entry(model) for model in lock.models],
    }
    try:
        replace_file(Path(os.path.realpath(path)), f"{_HEADER}{tomli_w.dumps(content)}".encode(), mode=0o644)
    except OSError as error:
        raise LockError(f"The lock file {str(path)!r} cannot be written: {error.strerror}.") from error


def lock_entry(model: LockedModel) -> str:
    """Return the entry of one model as text, to be appended to a lock file.

    Raises
    ------
    LockError
        If the digest of a file is not known.
    """
    import tomli_w

    return tomli_w.dumps({"model": [_as_entry(model)]})


def installed_versions() -> dict[str, str]:
    """Return the versions that decide about results: of modeldeck, and of llama-cpp-python if it is installed."""
    from importlib.metadata import PackageNotFoundError, version  # here, because its import takes long

    try:
        return {_LIBRARY: version(_LIBRARY), "modeldeck": __version__}
    except PackageNotFoundError:
        return {"modeldeck": __version__}


def _select(models: list[LockedModel], selector: str | None) -> list[LockedModel]:
    """Return the models that a selector may mean; all without one."""
    from modeldeck.gguf.names import find_variant, variant_of

    if selector is None:
        return models
    variants = [variant_of(model.variant_id, model.label, (file.filename for file in model.files)) for model in models]
    try:
        choices: list[str] = [find_variant(variants, selector).variant_id]
    except AmbiguousVariantError as error:
        choices = error.choices
    except RemoteFileNotFoundError:
        choices = []
    return [model for model in models if model.variant_id in choices]


def _as_entry(model: LockedModel) -> dict[str, Any]:
    for file in model.files:
        if file.sha256 is None or file.size is None:
            raise LockError(
                f"{file.filename} of {model.repo_id} cannot be locked, because neither the Hub nor the cache tells its "
                "SHA-256."
            )
    return {
        "repo": model.repo_id,
        "commit": model.commit_hash,
        "label": model.label,
        "n_ctx": model.n_ctx,
        "files": [{"name": file.filename, "size": file.size, "sha256": file.sha256} for file in model.files],
    }


def _checked(entry: _ModelEntry) -> LockedModel:
    from modeldeck.hub.urls import check_filename, check_repo_id, is_commit_hash, is_sha256

    about = f"The model {entry.repo!r}"
    if not is_commit_hash(entry.commit):
        raise InvalidRequestError(f"{about} has the commit {entry.commit!r}, which is not a full commit hash.")
    if not entry.files:
        raise InvalidRequestError(f"{about} has no files.")
    for file in entry.files:
        if not is_sha256(file.sha256):
            raise InvalidRequestError(f"{file.name!r} has the sha256 {file.sha256!r}, which is not a SHA-256.")
        if file.size < 0:
            raise InvalidRequestError(f"{file.name!r} has the size {file.size}.")
    return LockedModel(
        repo_id=check_repo_id(entry.repo),
        commit_hash=entry.commit,
        label=entry.label,
        n_ctx=read_n_ctx(entry.n_ctx),
        files=tuple(
            GGUFFile(filename=check_filename(file.name), size=file.size, sha256=file.sha256) for file in entry.files
        ),
    )


def _is_wrong(path: Path, problem: str) -> LockError:
    return LockError(
        f"The lock file {os.fspath(path)!r} is not right. {problem.rstrip('.')}. Correct it, or write it again with "
        "`modeldeck lock`."
    )
