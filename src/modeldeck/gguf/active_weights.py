"""Which weights are read to generate one token: of a mixture of experts, only the experts in use."""

from __future__ import annotations

import re
from math import prod

from modeldeck.gguf.header import TensorInfo
from modeldeck.gguf.metadata import GGUFMetadata

_EXPERTS = re.compile(r"\.ffn_(?:gate|up|down|gate_up)_(?:ch)?exps\.")
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_LOOKED_UP = frozenset(("per_layer_token_embd.weight", "position_embd.weight", "token_types.weight"))
"""Tables of which one row is read for a token. The embedding is one too, unless it also serves as the output."""

_MATRICES_PER_EXPERT = 3


def active_share(metadata: GGUFMetadata) -> float:
    """Return the share of the weights' bytes that is read for each token.

    Without the tensors of the header it is calculated from the model's dimensions.
    """
    if metadata.tensors:
        total = float(sum(tensor.size or 0 for tensor in metadata.tensors))
        read = sum((tensor.size or 0) * share for tensor, share in _shares(metadata))
    else:
        total, read = _by_dimensions(metadata)
    return read / total if total and read else 1.0


def active_parameter_count(metadata: GGUFMetadata) -> int | None:
    """Return the number of weights that are read for each token, of a mixture of experts.

    Tables of which only a row is read do not count. ``None`` for other models, and where the header does not tell it.
    """
    if not metadata.expert_count or not metadata.expert_used_count:
        return None
    if metadata.tensors:
        return round(sum(prod(tensor.shape) * share for tensor, share in _shares(metadata))) or None
    return round(_by_dimensions(metadata)[1]) or None


def _shares(metadata: GGUFMetadata) -> list[tuple[TensorInfo, float]]:
    """Return for each tensor the share of it that is read for a token."""
    is_tied = all(tensor.name != _OUTPUT for tensor in metadata.tensors)

    def share(name: str) -> float:
        if _EXPERTS.search(name):
            return _used_share(metadata)
        return 0.0 if name in _LOOKED_UP or (name == _EMBEDDING and not is_tied) else 1.0

    return [(tensor, share(tensor.name)) for tensor in metadata.tensors]


def _used_share(metadata: GGUFMetadata) -> float:
    if not metadata.expert_count:
        return 1.0
    return min(1.0, (metadata.expert_used_count or 0) / metadata.expert_count)


def _by_dimensions(metadata: GGUFMetadata) -> tuple[float, float]:
    """Return the number of all weights and of those that are read, 0 if it is not a mixture of experts."""
    layers, width = metadata.block_count or 0, metadata.embedding_length or 0
    dense_layers = min(layers, metadata.leading_dense_block_count or 0)
    feed_forward = max(metadata.feed_forward_length, default=0)
    per_expert = _MATRICES_PER_EXPERT * width * (metadata.expert_feed_forward_length or feed_forward)
    experts = (layers - dense_layers) * (metadata.expert_count or 0) * per_expert
    heads, heads_kv = max(metadata.head_count, default=0), max(metadata.head_count_kv, default=0)
    key = metadata.key_length or (width // heads if heads else 0)
    attention = layers * width * key * (2 * heads + 2 * heads_kv)
    dense = dense_layers * _MATRICES_PER_EXPERT * width * feed_forward
    rest = attention + dense + (metadata.vocab_size or 0) * width
    return (experts + rest, rest + experts * _used_share(metadata)) if experts else (0, 0)
