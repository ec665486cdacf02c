"""The memory that a model takes, by formula from its header.

The formulas follow llama.cpp's own allocation; `modeldeck.sizing.cache_shape` has those of the cache.
``tests/llama/test_fit_formula.py`` measures how close they come.
"""

from __future__ import annotations

from dataclasses import dataclass

from modeldeck.gguf.ggml_types import element_bytes
from modeldeck.gguf.metadata import GGUFMetadata
from modeldeck.sizing.cache_shape import (
    cache_bytes,
    has_window,
    head_length,
    layer_shapes,
    padded_cells,
    padded_window_cells,
    sliding_window,
)

DEFAULT_N_UBATCH = 512

_F32_BYTES = 4
_HOST_BYTES = 50 << 20
_HOST_BYTES_PER_TOKEN = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """The bytes that llama.cpp allocates for one model and one context.

    Parameters
    ----------
    weights_bytes, cache_bytes
        The tensors, and the key-value cache with the recurrent state.
    compute_bytes, touched_bytes
        The buffer that is reserved for intermediate results, and the part of it that a CPU ever writes to.
    host_bytes
        The process around it: Python with llama.cpp, and the vocabulary.
    """

    weights_bytes: int
    cache_bytes: int
    compute_bytes: int
    touched_bytes: int
    host_bytes: int = _HOST_BYTES

    @property
    def ram_bytes(self) -> int:
        """The bytes that the process grows by on a CPU."""
        return self.weights_bytes + self.cache_bytes + self.touched_bytes + self.host_bytes

    @property
    def vram_bytes(self) -> int:
        """The bytes that must be free on the GPUs for all layers to run there."""
        return self.weights_bytes + self.cache_bytes + self.compute_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextOptions:
    """The options of ``Llama(...)`` that change how much memory it takes, with its names and defaults."""

    n_ubatch: int = DEFAULT_N_UBATCH
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attn: bool = False
    swa_full: bool = True


DEFAULT_CONTEXT_OPTIONS = ContextOptions(flash_attn=True)
"""The options that ``modeldeck.load`` chooses by default. ``Llama(...)`` itself has flash attention off."""


def memory_use(
    metadata: GGUFMetadata, *, weights_bytes: int, n_ctx: int, options: ContextOptions = DEFAULT_CONTEXT_OPTIONS
) -> MemoryUse | None:
    """Return the memory by formula, or ``None`` when the header lacks the numbers for it."""
    shapes = layer_shapes(metadata)
    if not shapes:
        return None
    cache = cache_bytes(
        shapes,
        window=sliding_window(metadata),
        n_ctx=n_ctx,
        n_ubatch=min(options.n_ubatch, n_ctx),
        k_bytes=element_bytes(options.type_k),
        v_bytes=element_bytes(options.type_v),
        swa_full=options.swa_full,
        flash_attn=options.flash_attn,
    )
    compute, touched = _compute_bytes(metadata, n_ctx, options)
    return MemoryUse(
        weights_bytes=weights_bytes,
        cache_bytes=cache,
        compute_bytes=compute,
        touched_bytes=touched,
        host_bytes=host_bytes(metadata.vocab_size or 0),
    )


def host_bytes(vocab_size: int) -> int:
    """Return the measured bytes of the process around the model: Python with llama.cpp, and the vocabulary."""
    return _HOST_BYTES + _HOST_BYTES_PER_TOKEN * vocab_size


def _compute_bytes(metadata: GGUFMetadata, n_ctx: int, options: ContextOptions) -> tuple[int, int]:
    """Return the bytes of the compute buffer, and of the part of it that a CPU touches.

    llama.cpp reuses one buffer for all intermediate results, so it is as large as the largest step: the logits, the
    attention scores, or the feed-forward step. The number of rows alive in each step was derived from llama.cpp's own
    figures. The part for the logits is reserved for a whole batch but written for single tokens only, so a CPU never
    touches most of it.
    """
    n_ubatch = min(options.n_ubatch, n_ctx)
    row = n_ubatch * _F32_BYTES
    cells = padded_cells(n_ctx)
    width = metadata.embedding_length or 0
    heads = max(metadata.head_count, default=0)
    query, cached = _attention_widths(metadata, heads)
    mask = cells if heads else 0
    if has_window(metadata):
        mask += cells if options.swa_full else padded_window_cells(sliding_window(metadata), n_ctx, n_ubatch)
    if options.flash_attn:
        mask //= 2
    scores = 0 if options.flash_attn else heads * cells
    vocab = metadata.vocab_size or 0

    logits = vocab + (3 if not heads else 2) * width + heads * (metadata.kv_lora_rank or 0)
    attention = scores + mask + 3 * width + 2 * query + cached
    feed_forward = mask + 3 * _feed_forward_width(metadata) + 4 * width
    output = vocab * _F32_BYTES
    touched = max(attention, feed_forward)
    return max(logits, touched) * row + output, touched * row


def _attention_widths(metadata: GGUFMetadata, heads: int) -> tuple[int, int]:
    """Return the elements of one token's queries, and of its keys and values, during attention."""
    key = metadata.key_length or head_length(metadata)
    if metadata.kv_lora_rank and metadata.key_length_mla:
        # The query exists twice, compressed and not, and so does the result.
        return heads * key, heads * (2 * metadata.kv_lora_rank + metadata.key_length_mla)
    value = metadata.value_length or head_length(metadata)
    return heads * key, max(metadata.head_count_kv, default=0) * (key + value)


def _feed_forward_width(metadata: GGUFMetadata) -> int:
    """Return the elements of one token in the widest feed-forward step, over all experts that are used together."""
    dense = max(metadata.feed_forward_length, default=0)
    experts = (metadata.expert_used_count or 0) * (metadata.expert_feed_forward_length or dense)
    return max(dense, experts)
