"""The facts about a model that are shown before its download."""

from __future__ import annotations

from modeldeck._types import ModelTraits
from modeldeck.gguf.active_weights import active_parameter_count
from modeldeck.gguf.architectures import EMBEDDING_ARCHITECTURES
from modeldeck.gguf.metadata import GGUFMetadata


def model_traits(metadata: GGUFMetadata) -> ModelTraits:
    """Return the facts about the model that are shown before its download."""
    is_embedding = metadata.architecture in EMBEDDING_ARCHITECTURES or bool(metadata.pooling_type)
    return ModelTraits(
        architecture=metadata.architecture,
        name=metadata.name,
        context_length=metadata.context_length,
        block_count=metadata.block_count,
        vocab_size=metadata.vocab_size,
        has_chat_template=metadata.has_chat_template,
        is_embedding=is_embedding,
        active_parameter_count=active_parameter_count(metadata),
    )
