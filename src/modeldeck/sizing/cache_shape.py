"""The memory that each layer of a model keeps for each token: the key-value cache and the recurrent state.

The rules are llama.cpp's: ``llama-hparams.cpp`` (sizes), ``llama-model.cpp`` (which layer is what) and
``llama-kv-cache*.cpp``, ``llama-memory-recurrent.cpp`` (allocation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from modeldeck.gguf.architectures import ARCHITECTURES_WITHOUT_CACHE
from modeldeck.gguf.metadata import GGUFMetadata

LayerKind: TypeAlias = Literal["full", "window", "recurrent", "none"]

_PADDING_CELLS = 256
_RECURRENT_BYTES = 4

# The layers that attend only within the sliding window, for architectures whose headers do not list them: all but the
# last layer of each group, or all but the first. A period in the header replaces the one given here, but not the order.
_FULL_LAST = {
    "afmoe": 4, "cohere2": 4, "exaone-moe": 4, "exaone4": 4, "gemma-embedding": 6, "gemma2": 2, "gemma3": 6,
    "gemma3n": 5, "gpt-oss": 2, "llama4": 4, "mellum": 4, "muse-glimmer": 4, "olmo2": 4, "plamo3": 8,
}  # fmt: skip
_FULL_FIRST = {"cohere2moe": 4, "laguna": 4, "modern-bert": 3, "smallthinker": 4}
_FIXED_WINDOWS = {"llama4": 8192, "smallthinker": 4096}
_DEFAULT_WINDOWS = {"gemma2": 4096}
_EXAONE4_LAYERS_WITH_WINDOW = 64

_RECURRENT_ONLY = frozenset(("mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"))
_BOTH_IN_EVERY_LAYER = frozenset(("falcon-h1",))
_DEFAULT_INTERVALS = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4}


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One layer: its kind, its elements of K and V for each token, and its bytes of state of a fixed size."""

    kind: LayerKind
    k_elements: int = 0
    v_elements: int = 0
    state_bytes: int = 0


def layer_shapes(metadata: GGUFMetadata) -> tuple[LayerShape, ...]:
    """Return the shape of every layer, in order; empty when the header lacks the numbers for it."""
    layers = metadata.block_count or 0
    if not layers or metadata.embedding_length is None:
        return ()
    if metadata.architecture in ARCHITECTURES_WITHOUT_CACHE:
        return (LayerShape("none"),) * layers
    return tuple(_layer_shape(metadata, layer) for layer in range(layers))


def cache_bytes(
    shapes: tuple[LayerShape, ...],
    *,
    window: int | None,
    n_ctx: int,
    n_ubatch: int,
    k_bytes: float,
    v_bytes: float,
    swa_full: bool,
    flash_attn: bool,
) -> int:
    """Return the bytes of the cache for one sequence. ``k_bytes`` and ``v_bytes`` are those of one element.

    Without flash attention the values are stored transposed, and every layer gets the width of the widest one.
    """
    cells = padded_cells(n_ctx)
    window_cells = cells if swa_full else padded_window_cells(window, n_ctx, n_ubatch)
    widest = max((shape.v_elements for shape in shapes), default=0)
    total = 0.0
    for shape in shapes:
        kept = window_cells if shape.kind == "window" else cells
        values = shape.v_elements if flash_attn or not shape.v_elements else widest
        total += kept * (shape.k_elements * k_bytes + values * v_bytes) + shape.state_bytes
    return int(total)


def padded_cells(n_ctx: int) -> int:
    """Round up to a multiple of 256 cells, as llama.cpp does."""
    return -(-n_ctx // _PADDING_CELLS) * _PADDING_CELLS


def padded_window_cells(window: int | None, n_ctx: int, n_ubatch: int) -> int:
    """Return the cells of a layer with a sliding window when its cache is limited to the window."""
    cells = padded_cells(n_ctx)
    return min(cells, padded_cells(window + n_ubatch)) if window else cells


def head_length(metadata: GGUFMetadata) -> int:
    """Return the elements of one attention head, for a header without a key length."""
    heads = max(metadata.head_count, default=0)
    return (metadata.embedding_length or 0) // heads if heads else 0


def has_window(metadata: GGUFMetadata) -> bool:
    """Tell whether any layer has a sliding window."""
    return any(shape.kind == "window" for shape in layer_shapes(metadata))


def _layer_shape(metadata: GGUFMetadata, layer: int) -> LayerShape:
    kind = _layer_kind(metadata, layer)
    if kind == "none":
        return LayerShape("none")
    if kind == "recurrent":
        return LayerShape("recurrent", state_bytes=_state_bytes(metadata))
    state = _state_bytes(metadata) if metadata.architecture in _BOTH_IN_EVERY_LAYER else 0
    heads = _of_layer(metadata.head_count_kv, layer)
    if metadata.kv_lora_rank and metadata.key_length_mla:
        # Multi-head latent attention keeps one compressed key, which contains the value.
        rope = metadata.rope_dimension_count or 0
        return LayerShape(kind, k_elements=metadata.kv_lora_rank + rope)
    key = metadata.key_length or head_length(metadata)
    value = metadata.value_length or head_length(metadata)
    if kind == "window":
        key = metadata.key_length_swa or key
        value = metadata.value_length_swa or value
    return LayerShape(kind, k_elements=heads * key, v_elements=heads * value, state_bytes=state)


def _layer_kind(metadata: GGUFMetadata, layer: int) -> LayerKind:
    layers = metadata.block_count or 0
    if layer >= layers - (metadata.nextn_predict_layers or 0):
        return "none"
    if metadata.shared_kv_layers and layer >= layers - metadata.shared_kv_layers:
        return "none"
    if metadata.architecture in _RECURRENT_ONLY:
        return "recurrent"
    if _is_hybrid(metadata) and not _has_attention(metadata, layer):
        is_feed_forward = metadata.architecture.startswith("nemotron_h") and _of_layer(
            metadata.feed_forward_length, layer
        )
        return "none" if is_feed_forward else "recurrent"
    return "window" if _is_window_layer(metadata, layer) else "full"


def _has_attention(metadata: GGUFMetadata, layer: int) -> bool:
    """Tell whether a layer of a hybrid model has attention: at a fixed interval, or where it has key-value heads."""
    interval = metadata.full_attention_interval or _DEFAULT_INTERVALS.get(metadata.architecture)
    if interval:
        return (layer + 1) % interval == 0
    return _of_layer(metadata.head_count_kv, layer) != 0


def _of_layer(values: tuple[int, ...], layer: int) -> int:
    return values[layer] if layer < len(values) else 0


def _is_hybrid(metadata: GGUFMetadata) -> bool:
    return bool(metadata.ssm_inner_size or metadata.shortconv_l_cache or metadata.wkv_head_size)


def sliding_window(metadata: GGUFMetadata) -> int | None:
    """Return the length of the sliding window in tokens, or ``None`` without one."""
    fixed = _FIXED_WINDOWS.get(metadata.architecture)
    return fixed or metadata.sliding_window or _DEFAULT_WINDOWS.get(metadata.architecture)


def _is_window_layer(metadata: GGUFMetadata, layer: int) -> bool:
    if not sliding_window(metadata):
        return False
    architecture, pattern = metadata.architecture, metadata.sliding_window_pattern
    if isinstance(pattern, tuple):
        return layer < len(pattern) and pattern[layer]
    if architecture == "exaone4" and metadata.block_count != _EXAONE4_LAYERS_WITH_WINDOW:
        return False
    if architecture in _FULL_FIRST:
        return layer % (pattern or _FULL_FIRST[architecture]) != 0
    if architecture in _FULL_LAST:
        period = pattern or _FULL_LAST[architecture]
        return layer % period < period - 1
    return False


def _state_bytes(metadata: GGUFMetadata) -> int:
    embedding = metadata.embedding_length or 0
    if metadata.wkv_head_size:
        elements = embedding * ((metadata.token_shift_count or 2) + metadata.wkv_head_size)
    elif metadata.shortconv_l_cache:
        elements = embedding * (metadata.shortconv_l_cache - 1)
    else:
        inner, state = metadata.ssm_inner_size or 0, metadata.ssm_state_size or 0
        groups = metadata.ssm_group_count or 0
        convolution = max(0, (metadata.ssm_conv_kernel or 0) - 1) * (inner + 2 * groups * state)
        elements = convolution + inner * state
    return elements * _RECURRENT_BYTES
