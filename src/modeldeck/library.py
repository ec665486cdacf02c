"""The models on disk: files of the Hugging Face cache grouped into whole variants."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from modeldeck._errors import RemoteFileNotFoundError
from modeldeck._types import DownloadRequest, DownloadSnapshot, GGUFFile, LocalModel, Variant

if TYPE_CHECKING:
    from modeldeck.hub.cache import CachedFile


def group_local(files: Iterable[CachedFile]) -> list[LocalModel]:
    """Return the complete variants among cached files, sorted by repository, commit and quality.

    A family of shards counts only when all its parts are present.
    """
    from modeldeck.gguf.names import group_variants

    by_snapshot: dict[tuple[str, str], dict[str, CachedFile]] = defaultdict(dict)
    for file in files:
        by_snapshot[file.repo_id, file.commit_hash][file.filename] = file
    models = []
    for (repo_id, commit_hash), cached in sorted(by_snapshot.items(), key=lambda item: item[0]):
        listed = [GGUFFile(filename=name, size=file.size, sha256=file.sha256) for name, file in cached.items()]
        for variant in group_variants(listed).variants:
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
                    revision=min(first.revisions, default=None),
                )
            )
    return models


def select_local(models: Iterable[LocalModel], repo_id: str, selector: str | None = None) -> list[LocalModel]:
    """Return a repository's models, of all commits; with a selector, only those of the variant that it means.

    Raises
    ------
    AmbiguousVariantError
        When the selector fits several variants.
    """
    from modeldeck.gguf.names import find_variant, quantization_of

    models = [model for model in models if model.repo_id.lower() == repo_id.lower()]
    if selector is None:
        return models
    variants = {
        model.variant_id: Variant(
            variant_id=model.variant_id,
            label=model.label,
            quantization=quantization_of(model.variant_id),
            files=tuple(GGUFFile(filename=name) for name in model.filenames[: len(model.paths)]),
        )
        for model in models
    }
    try:
        wanted = find_variant(tuple(variants.values()), selector)
    except RemoteFileNotFoundError:
        return []
    return [model for model in models if model.variant_id == wanted.variant_id]


def with_path(models: Iterable[LocalModel], path: Path) -> list[LocalModel]:
    """Return the models that have a file at this path: one or none."""
    path = path.absolute()
    return [model for model in models if path in model.paths]


def is_meant(request: DownloadRequest, repo_id: str, selector: str | None) -> bool:
    """Return whether a download is of this repository and, with a selector, of the variant or file that it names."""
    names = {request.label, request.variant_id, *(file.filename for file in request.files)}
    is_of_variant = selector is None or selector.casefold() in {name.casefold() for name in names}
    return request.repo_id.casefold() == repo_id.casefold() and is_of_variant


def local_model_of(snapshot: DownloadSnapshot) -> LocalModel:
    """Return the model that a finished download has put into the cache."""
    from modeldeck.gguf.names import group_variants
    from modeldeck.hub.cache import snapshot_path

    request = snapshot.request
    if snapshot.commit_hash is None:
        raise ValueError("a finished download knows its commit")
    sidecars = {
        sidecar.file.filename for variant in group_variants(request.files).variants for sidecar in variant.sidecars
    }
    names = sorted((file.filename for file in request.files), key=sidecars.__contains__)
    paths = {
        name: snapshot_path(Path(request.cache_dir), request.repo_id, snapshot.commit_hash, name) for name in names
    }
    return LocalModel(
        repo_id=request.repo_id,
        commit_hash=snapshot.commit_hash,
        variant_id=request.variant_id,
        label=request.label,
        filenames=tuple(names),
        path=paths[request.variant_id],
        paths=tuple(path for name, path in paths.items() if name not in sidecars),
        sidecar_paths=tuple(path for name, path in paths.items() if name in sidecars),
        size=snapshot.total or 0,
        sha256=request.files[0].sha256,
        revision=request.revision,
        bytes_fetched=snapshot.bytes_fetched,
    )
