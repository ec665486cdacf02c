"""The metadata in a GGUF header: the ``{architecture}.*`` keys, typed and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

from modeldeck._errors import GGUFError
from modeldeck.gguf.header import GGUFHeader, TensorInfo

MAX_BLOCK_COUNT = 512
"""llama.cpp's ``LLAMA_MAX_LAYERS``. With more layers, or with none, it aborts the whole process."""

_MAX_INT = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFMetadata:
    """The numbers that determine a model's memory and speed, and the facts that are shown of it.

    The names are those of the GGUF keys. Values that may differ by layer are tuples with one entry for each layer.
    ``tensors`` is empty after a quick look.
    """

    architecture: str
    name: str | None = None
    general_type: str | None = None
    file_type: int | None = None
    is_big_endian: bool = False
    is_complete: bool = False
    has_chat_template: bool | None = None
    pooling_type: int | None = None

    context_length: int | None = None
    block_count: int | None = None
    embedding_length: int | None = None
    vocab_size: int | None = None
    feed_forward_length: tuple[int, ...] = ()
    head_count: tuple[int, ...] = ()
    head_count_kv: tuple[int, ...] = ()
    key_length: int | None = None
    value_length: int | None = None
    key_length_swa: int | None = None
    value_length_swa: int | None = None
    key_length_mla: int | None = None
    kv_lora_rank: int | None = None
    rope_dimension_count: int | None = None
    sliding_window: int | None = None
    sliding_window_pattern: int | tuple[bool, ...] | None = None
    shared_kv_layers: int | None = None
    full_attention_interval: int | None = None
    nextn_predict_layers: int | None = None
    expert_count: int | None = None
    expert_used_count: int | None = None
    expert_feed_forward_length: int | None = None
    leading_dense_block_count: int | None = None
    ssm_conv_kernel: int | None = None
    ssm_inner_size: int | None = None
    ssm_state_size: int | None = None
    ssm_group_count: int | None = None
    wkv_head_size: int | None = None
    token_shift_count: int | None = None
    shortconv_l_cache: int | None = None
    tensors: tuple[TensorInfo, ...] = ()


def read_metadata(header: GGUFHeader) -> GGUFMetadata:
    """Read the model's metadata from a header, complete or from a quick look.

    Raises
    ------
    GGUFError
        When the header does not name an architecture, or has values that make llama.cpp abort the process.
    """
    keys = _Keys(header)
    block_count = keys.integer("block_count")
    if block_count is not None and not 1 <= block_count <= MAX_BLOCK_COUNT:
        raise GGUFError(f"The model declares {block_count} layers, so llama.cpp cannot load it. The file is damaged.")
    layers = block_count or 0
    head_count = keys.per_layer("attention.head_count", layers)
    window_pattern = keys.value("attention.sliding_window_pattern")
    return GGUFMetadata(
        architecture=keys.architecture,
        name=keys.text("general.name"),
        general_type=keys.text("general.type"),
        file_type=keys.integer_of("general.file_type"),
        is_big_endian=header.is_big_endian,
        is_complete=header.is_complete,
        has_chat_template=keys.has_chat_template(),
        pooling_type=keys.integer("pooling_type"),
        context_length=keys.integer("context_length"),
        block_count=block_count,
        embedding_length=keys.integer("embedding_length"),
        vocab_size=_vocab_size(header, keys),
        feed_forward_length=keys.per_layer("feed_forward_length", layers),
        head_count=head_count,
        head_count_kv=keys.per_layer("attention.head_count_kv", layers) or head_count,
        key_length=keys.integer("attention.key_length"),
        value_length=keys.integer("attention.value_length"),
        key_length_swa=keys.integer("attention.key_length_swa"),
        value_length_swa=keys.integer("attention.value_length_swa"),
        key_length_mla=keys.integer("attention.key_length_mla"),
        kv_lora_rank=keys.integer("attention.kv_lora_rank"),
        rope_dimension_count=keys.integer("rope.dimension_count"),
        sliding_window=keys.integer("attention.sliding_window"),
        sliding_window_pattern=(
            tuple(bool(each) for each in window_pattern)
            if isinstance(window_pattern, tuple)
            else keys.integer("attention.sliding_window_pattern")
        ),
        shared_kv_layers=keys.integer("attention.shared_kv_layers"),
        full_attention_interval=keys.integer("full_attention_interval"),
        nextn_predict_layers=keys.integer("nextn_predict_layers"),
        expert_count=keys.integer("expert_count"),
        expert_used_count=keys.integer("expert_used_count"),
        expert_feed_forward_length=keys.integer("expert_feed_forward_length"),
        leading_dense_block_count=keys.integer("leading_dense_block_count"),
        ssm_conv_kernel=keys.integer("ssm.conv_kernel"),
        ssm_inner_size=keys.integer("ssm.inner_size"),
        ssm_state_size=keys.integer("ssm.state_size"),
        ssm_group_count=keys.integer("ssm.group_count"),
        wkv_head_size=keys.integer("wkv.head_size"),
        token_shift_count=keys.integer("token_shift_count"),
        shortconv_l_cache=keys.integer("shortconv.l_cache"),
        tensors=header.tensors,
    )


class _Keys:
    """Typed access to the keys of one header. A value of the wrong type counts as missing."""

    def __init__(self, header: GGUFHeader) -> None:
        architecture = header.metadata.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise GGUFError("The GGUF header does not name the model's architecture, so llama.cpp cannot load it.")
        self.architecture = architecture
        self._header = header

    def value(self, suffix: str) -> object:
        return self._header.metadata.get(f"{self.architecture}.{suffix}")

    def integer(self, suffix: str) -> int | None:
        return self.integer_of(f"{self.architecture}.{suffix}")

    def integer_of(self, key: str) -> int | None:
        value = self._header.metadata.get(key)
        return value if _is_count(value) else None

    def text(self, key: str) -> str | None:
        value = self._header.metadata.get(key)
        return value if isinstance(value, str) else None

    def per_layer(self, suffix: str, layers: int) -> tuple[int, ...]:
        value = self.value(suffix)
        if isinstance(value, tuple):
            counts = tuple(each for each in value if _is_count(each))
            return counts[:layers] if len(counts) == len(value) >= layers else ()
        return (value,) * layers if _is_count(value) else ()

    def has_chat_template(self) -> bool | None:
        if "tokenizer.chat_template" in self._header.metadata:
            return True
        return False if self._header.is_complete else None


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_INT


def _vocab_size(header: GGUFHeader, keys: _Keys) -> int | None:
    return header.array_lengths.get("tokenizer.ggml.tokens") or keys.integer("vocab_size")
