"""Python code that repeats what was chosen, as text to copy: pinned to the commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modeldeck._types import LockedModel
from modeldeck.gguf.shards import parse_shard_name


def modeldeck_code(model: LockedModel, *, projector: bool = True, options: Mapping[str, Any] | None = None) -> str:
    """Return Python code that downloads and loads a model with modeldeck.

    Parameters
    ----------
    model
        The variant at its commit, with the context length to load it with.
    projector
        Whether a vision projector that goes with it is downloaded too.
    options
        More options of ``llama_cpp.Llama`` that were chosen.

    Examples
    --------
    >>> file = GGUFFile(filename="model-Q4_K_M.gguf")
    >>> model = LockedModel(repo_id="owner/name", commit_hash="0" * 40, label="Q4_K_M", n_ctx=4096, files=(file,))
    >>> print(modeldeck_code(model))
    import modeldeck
    <BLANKLINE>
    model = modeldeck.download(
        "owner/name",
        filename="model-Q4_K_M.gguf",
        revision="0000000000000000000000000000000000000000",
    )
    llm = modeldeck.load(model, n_ctx=4096)
    <BLANKLINE>
    """
    without = "" if projector else "    projector=False,\n"
    return f"""\
import modeldeck

model = modeldeck.download(
    {_text(model.repo_id)},
    filename={_text(model.variant_id)},
    revision={_text(model.commit_hash)},
{without})
llm = modeldeck.load(model, {_arguments({"n_ctx": model.n_ctx, **(options or {})})})
"""


def llama_cpp_code(
    model: LockedModel,
    *,
    is_embedding: bool = False,
    n_gpu_layers: int = 0,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Return Python code that does the same with huggingface_hub and llama-cpp-python alone.

    Only the model is loaded. How a vision projector is loaded depends on the model.

    Parameters
    ----------
    model
        The variant at its commit, with the context length to load it with.
    is_embedding
        Whether the model makes embeddings and not text.
    n_gpu_layers
        Layers to put on the GPU, -1 for all.
    options
        More options of ``llama_cpp.Llama`` that were chosen.
    """
    filenames = "".join(f"    {_text(filename)},\n" for filename in _own_filenames(model))
    arguments: dict[str, Any] = {"n_ctx": model.n_ctx}
    if is_embedding:
        arguments["embedding"] = True
    if n_gpu_layers:
        arguments["n_gpu_layers"] = n_gpu_layers
    arguments.update(options or {})
    return f"""\
from huggingface_hub import hf_hub_download
from llama_cpp import Llama

repo_id = {_text(model.repo_id)}
revision = {_text(model.commit_hash)}
filenames = [
{filenames}]
paths = [hf_hub_download(repo_id, filename, revision=revision) for filename in filenames]
llm = Llama(paths[0], {_arguments(arguments)})
"""


def _arguments(values: Mapping[str, Any]) -> str:
    """Return numbers and truth values as the keyword arguments of a call."""
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _own_filenames(model: LockedModel) -> list[str]:
    """Return the files of the model itself, without its sidecars."""
    first = parse_shard_name(model.variant_id)
    if first is None:
        return [model.variant_id]
    shards = [(file.filename, parse_shard_name(file.filename)) for file in model.files]
    return [name for name, shard in shards if shard and (shard.prefix, shard.count) == (first.prefix, first.count)]


def _text(value: str) -> str:
    """Return a string literal as people write it. The Hub's names are not trusted, so everything odd is escaped."""
    return f'"{value}"' if value.isascii() and value.isprintable() and not set(value) & set('"\\') else ascii(value)
