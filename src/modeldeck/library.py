"""The models on disk: files of the Hugging Face cache grouped into whole variants, also as the Hub would list them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from modeldeck._errors import RemoteFileNotFoundError, StorageError
from modeldeck._types import DownloadSnapshot, ErrorInfo, GGUFFile, LocalModel, LockedModel, RepoDetails

if TYPE_CHECKING:
    from modeldeck.hub.cache import CachedFile


def group_local(files: Iterable[CachedFile]) -> list[LocalModel]:
    """Return the complete variants among cached files, sorted by repository, commit and quality.

    A family of shards counts only when all its parts are present. Where downloads leave links, a file that is not one
    was put there by the user.
    """
    from modeldeck.gguf.names import group_variants

    models = []
    for (repo_id, commit_hash), cached in sorted(_by_snapshot(files).items(), key=lambda item: item[0]):
        has_links = any(file.is_linked for file in cached.values())
        for variant in group_variants(map(_as_listed, cached.values())).variants:
            first = cached[variant.files[0].filename]
            models.append(
                LocalModel(
                    repo_id=repo_id,
                    commit_hash=commit_hash,
                    variant_id=variant.variant_id,
                    label=variant.label,
                    filenames=tuple(file.filename for file in variant.all_files),
                    path=first.path,
                    paths=tuple(cached[file.filename].path for file in variant.files),
                    sidecar_paths=tuple(cached[sidecar.file.filename].path for sidecar in variant.sidecars),
                    size=variant.size or 0,
                    sha256=first.sha256,
                    revision=min(first.revisions, key=lambda name: (name != "main", name), default=None),
                    own_filenames=tuple(
                        file.filename for file in variant.all_files if has_links and not cached[file.filename].is_linked
                    ),
                    sha256s=tuple(file.sha256 for file in variant.all_files),
                )
            )
    return models


def list_fragments(files: Iterable[CachedFile]) -> list[CachedFile]:
    """Return the parts of split models whose other parts are missing, without files of the user's own.

    No other file is of no use by itself: people fetch a projector, a drafter or an importance matrix alone too.
    """
    from modeldeck.gguf.names import group_variants

    return [
        cached[part.filename]
        for cached in _by_snapshot(files).values()
        for family in group_variants(map(_as_listed, cached.values())).incomplete
        for part in family.files
        if cached[part.filename].is_linked
    ]


def describe_cached(
    files: Iterable[CachedFile], revision: str, selector: str | None = None, *, because: ErrorInfo
) -> RepoDetails | None:
    """Return what the cache has of a repository, as the Hub would list it; ``None`` if it has no whole model of it.

    The variants are those of one commit: of the one that the revision meant when it was last seen. For ``"main"``, any
    other commit will do where that one lacks what is asked for: the newest that a branch or tag means, then the newest.
    Files of the user's own are left out.

    Parameters
    ----------
    files
        The files of the repository in the cache.
    revision
        A branch, a tag or a commit.
    selector
        The variant that it must have: a label, a variant's identity or a file's name.
    because
        Why the Hub is not followed.

    Raises
    ------
    AmbiguousVariantError
        When the selector fits several variants.
    """
    from modeldeck.gguf.names import find_variant, group_variants

    def distance(cached: dict[str, CachedFile]) -> tuple[bool, bool, float]:
        newest = max(file.path.lstat().st_mtime for file in cached.values())
        revisions = _revisions_of(cached)
        return revision not in revisions, not revisions, -newest

    snapshots = {
        key: cached
        for key, cached in _by_snapshot(files).items()
        if revision in ("main", key[1], *_revisions_of(cached))
    }
    for (repo_id, commit_hash), cached in sorted(snapshots.items(), key=lambda item: distance(item[1])):
        has_links = any(file.is_linked for file in cached.values())
        variants = group_variants(
            _as_listed(file) for file in cached.values() if file.is_linked or not has_links
        ).variants
        if selector is not None:
            try:
                find_variant(variants, selector)
            except RemoteFileNotFoundError:
                continue
        if variants:
            is_named = revision in _revisions_of(cached)
            return RepoDetails(
                repo_id=repo_id,
                revision=revision if is_named else commit_hash,
                commit_hash=commit_hash,
                variants=variants,
                hub_error=because,
            )
    return None


def _by_snapshot(files: Iterable[CachedFile]) -> dict[tuple[str, str], dict[str, CachedFile]]:
    by_snapshot: dict[tuple[str, str], dict[str, CachedFile]] = defaultdict(dict)
    for file in files:
        by_snapshot[file.repo_id, file.commit_hash][file.filename] = file
    return by_snapshot


def _revisions_of(cached: dict[str, CachedFile]) -> tuple[str, ...]:
    return next(iter(cached.values())).revisions


def _as_listed(file: CachedFile) -> GGUFFile:
    return GGUFFile(filename=file.filename, size=file.size, sha256=file.sha256)


def without_own_files(model: LocalModel) -> LocalModel | None:
    """Return a model without the files that the user put there, or ``None`` when they are all its files."""
    kept = model.hub_files()
    return _with_files(model, kept) if kept else None


def only_locked_files(model: LocalModel, locked: LockedModel) -> LocalModel:
    """Return a model with only the files of a lock, and with the digests that they have there. None is the user's own,
    because the Hub has listed them."""
    digests = {file.filename: file.sha256 for file in locked.files}
    kept = [(name, path, digests[name]) for name, path in paths_by_name(model).items() if name in digests]
    return _with_files(model, kept)


def paths_by_name(model: LocalModel) -> dict[str, Path]:
    """Return where each file of a model is, by its name in the repository."""
    return dict(zip(model.filenames, (*model.paths, *model.sidecar_paths), strict=True))


def _with_files(model: LocalModel, kept: list[tuple[str, Path, str | None]]) -> LocalModel:
    return replace(
        model,
        filenames=tuple(name for name, _, _ in kept),
        paths=tuple(path for _, path, _ in kept if path in model.paths),
        sidecar_paths=tuple(path for _, path, _ in kept if path not in model.paths),
        own_filenames=(),
        sha256s=tuple(sha256 for _, _, sha256 in kept),
    )


def select_local(models: Iterable[LocalModel], names: Collection[str], selector: str | None = None) -> list[LocalModel]:
    """Return a repository's models, of all commits; with a selector, only those of the variant that it means.

    Parameters
    ----------
    models
        The models of the cache.
    names
        The names of the repository, now and in the past.
    selector
        A label, a variant's identity or a file's name.

    Raises
    ------
    AmbiguousVariantError
        When the selector fits several variants.
    """
    wanted_names = {name.lower() for name in names}
    models = [model for model in models if model.repo_id.lower() in wanted_names]
    if selector is None:
        return models
    wanted = _find_id(((model.variant_id, model.label, model.filenames) for model in models), selector)
    return [model for model in models if model.variant_id == wanted]


def with_path(models: Iterable[LocalModel], path: Path) -> list[LocalModel]:
    """Return the models that have a file at this path, by whatever links it leads there; none if none has.

    The path may be that of the blob that a snapshot links to.
    """
    from modeldeck.hub.cache import same_place

    models = list(models)
    try:
        place = same_place(path)
        exact = [model for model in models if place in map(same_place, model.paths)]
        if exact or not place.is_file():
            return exact
        real = place.resolve()
        return [model for model in models if real in (own.resolve() for own in model.paths)]
    except (OSError, ValueError, RuntimeError):  # not a path, or links that lead in a circle
        return []


def select_downloads(
    downloads: Iterable[DownloadSnapshot], names: Collection[str], selector: str | None = None
) -> list[DownloadSnapshot]:
    """Return a repository's downloads; with a selector, only those of the variant that it means.

    The parameters and the error are those of `select_local`.
    """
    wanted_names = {name.lower() for name in names}
    downloads = [download for download in downloads if download.request.repo_id.lower() in wanted_names]
    if selector is None:
        return downloads
    requests = (download.request for download in downloads)
    wanted = _find_id(
        ((request.variant_id, request.label, [file.filename for file in request.files]) for request in requests),
        selector,
    )
    return [download for download in downloads if download.request.variant_id == wanted]


def _find_id(variants: Iterable[tuple[str, str, Iterable[str]]], selector: str) -> str | None:
    """Return which of these identities a selector means, from them, their labels and the names of their files."""
    from modeldeck.gguf.names import find_variant, variant_of

    by_id = {variant_id: variant_of(variant_id, label, names) for variant_id, label, names in variants}
    try:
        return find_variant(tuple(by_id.values()), selector).variant_id
    except RemoteFileNotFoundError:
        return None


def local_model_of(snapshot: DownloadSnapshot) -> LocalModel:
    """Return the model that a finished download has put into the cache, with what the user has put beside it.

    Raises
    ------
    StorageError
        When its files are no longer there.
    """
    from modeldeck.hub.cache import list_snapshot

    request = snapshot.request
    if snapshot.commit_hash is None:
        raise ValueError("a finished download knows its commit")
    files = list_snapshot(Path(request.cache_dir), request.repo_id, snapshot.commit_hash)
    for model in group_local(files):
        if model.variant_id == request.variant_id:
            return replace(model, revision=request.revision, bytes_fetched=snapshot.bytes_fetched)
    raise StorageError(f"The files of {request.label} of {request.repo_id} were deleted. Download it again.")
