"""Architectures that llama.cpp runs without a key-value cache, by the names in ``general.architecture``."""

from __future__ import annotations

EMBEDDING_ARCHITECTURES = frozenset(
    ("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "eurobert",
     "gemma-embedding", "t5encoder")
)  # fmt: skip
"""Encoders: they turn a text into a vector and cannot generate."""

_DIFFUSION_ARCHITECTURES = frozenset(("llada", "llada-moe", "dream", "rnd1"))

ARCHITECTURES_WITHOUT_CACHE = EMBEDDING_ARCHITECTURES | _DIFFUSION_ARCHITECTURES
"""They see the whole text at once, so nothing is kept from token to token."""
