"""Checks a model file before llama.cpp opens it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeldeck._errors import InvalidRequestError, LoadFailedError
from modeldeck.gguf.header import GGUFHeader, read_header
from modeldeck.gguf.metadata import GGUFMetadata, read_metadata
from modeldeck.gguf.model_facts import model_traits
from modeldeck.gguf.shards import parse_shard_name, shard_names


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A model on disk with a sound header.

    Attributes
    ----------
    paths
        All files of the model, the first part first.
    metadata
        The facts in its header.
    is_embedding
        Whether it makes embeddings instead of text.
    """

    paths: tuple[Path, ...]
    metadata: GGUFMetadata
    is_embedding: bool

    @property
    def path(self) -> Path:
        """The file that llama.cpp opens."""
        return self.paths[0]

    @property
    def size(self) -> int:
        """Size of all files in bytes."""
        return sum(path.stat().st_size for path in self.paths)


def inspect_model(path: Path) -> ModelFile:
    """Read the header and find all parts.

    Links are not resolved, because llama.cpp finds the other parts by name, and the blobs in the Hugging Face cache
    are named by their digests.

    Raises
    ------
    LoadFailedError
        When this is not a model, not the first of its parts, or a part is missing.
    GGUFError
        When this is not a GGUF file, or one that would make llama.cpp end the process.
    """
    header = read_local(path)
    paths = _parts(path, header)
    metadata = read_metadata(header)
    if metadata.general_type == "mmproj" or metadata.architecture == "clip":
        raise LoadFailedError(f"{path.name} is a vision projector. Load its model, with mmproj={path.name!r}.")
    if metadata.general_type == "adapter":
        raise LoadFailedError(f"{path.name} is a LoRA adapter. Load its base model, with lora_path={path.name!r}.")
    traits = model_traits(metadata)
    return ModelFile(paths=paths, metadata=metadata, is_embedding=bool(traits.is_embedding))


def check_projector(path: Path) -> None:
    """Raise `LoadFailedError` unless this is a vision projector."""
    header = read_local(path)
    if header.metadata.get("general.architecture") != "clip":
        raise LoadFailedError(f"{path.name} is not a vision projector (mmproj). Load the model without it.")


def check_adapter(path: Any) -> Path:
    """Return the path of a LoRA adapter. llama.cpp would take any other file and crash.

    Raises
    ------
    LoadFailedError
        When it cannot be read.
    InvalidRequestError
        When it is something else.
    """
    try:
        adapter = Path(path)
    except TypeError:
        raise InvalidRequestError(f"lora_path must be the path of a LoRA adapter, not {path!r}.") from None
    header = read_local(adapter)
    if header.metadata.get("general.type") != "adapter":
        raise InvalidRequestError(f"lora_path: {adapter.name} is not a LoRA adapter in GGUF format.")
    return adapter


def read_local(path: Path) -> GGUFHeader:
    """Read the header of a file, which may be missing."""
    try:
        return read_header(path)
    except OSError as error:
        raise LoadFailedError(f"{path.name} cannot be read: {error.strerror}. Download the model again.") from error


def _parts(path: Path, header: GGUFHeader) -> tuple[Path, ...]:
    count = header.metadata.get("split.count", 0)
    if not isinstance(count, int) or count <= 1:
        return (path,)
    shard = parse_shard_name(path.name)
    if shard is None or shard.count != count:
        raise LoadFailedError(
            f"{path.name} is one of {count} parts, and llama.cpp finds the others by name. "
            f"Its name must be like NAME-00001-of-{count:05}.gguf; do not rename it or resolve its link."
        )
    parts = tuple(path.with_name(name) for name in shard_names(shard.prefix, count))
    if header.metadata.get("split.no", 0) != 0 or shard.number != 1:
        raise LoadFailedError(f"{path.name} is not the first of {count} parts. Load {parts[0].name} instead.")
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        raise LoadFailedError(f"The model is incomplete: {', '.join(missing)} is missing. Download it again.")
    return parts
