"""Tiny GGUF models that llama.cpp really loads: built by construction, the same bytes every time, no training.

The chat model answers every prompt with ``ANSWER`` and then stops. Its weights are a lookup chain: the embedding of a
token is a unit vector that says where in the answer we are (place 0 for every token that is not part of the answer), no
layer changes the first ``_PLACES`` components, and the output matrix maps each place to the next token of the answer.
All other weights are noise, so that the files neither compress nor repeat.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFWriter
    from numpy.typing import NDArray

    Weights: TypeAlias = NDArray[np.float32]

Quantization: TypeAlias = Literal["F32", "F16", "Q8_0", "Q4_0"]

ANSWER = " Hello from a tiny test model."
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXT_LENGTH = 2048

# Pieces of three characters and more cannot be produced by the tokenizer, which only merges pieces that are in the
# vocabulary: no prompt ends in the middle of the answer.
_ANSWER_PIECES = ("▁Hello", "▁from", "▁a▁t", "iny", "▁test", "▁mod", "el.")
_PLACES = len(_ANSWER_PIECES) + 1
_EMBEDDING_LENGTH = 64
_BLOCK_COUNT = 2
_HEAD_COUNT = 4
_HEAD_COUNT_KV = 2
_FEED_FORWARD_LENGTH = 128
_FEED_FORWARD_STEP = 32
_CERTAINTY = 4.0  # RMS norm makes a unit vector 8 long: the right token leads by 32 in the logits

_SPECIAL_PIECES = ("<unk>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>")
_UNKNOWN_ID, _BOS_ID, _EOS_ID = 0, 1, 2


def write_chat_model(
    path: Path,
    *,
    quantization: Quantization = "F16",
    size_bytes: int | None = None,
    chat_template: str | None = CHAT_TEMPLATE,
    context_length: int = CONTEXT_LENGTH,
) -> Path:
    """Write a model of the llama architecture that answers everything with ``ANSWER``.

    Parameters
    ----------
    size_bytes
        Widen the feed-forward layers until the file is this long, less at most 100 kB. ``None`` is as small as it gets:
        0.5 MB in F32, 80 kB in Q4_0.
    chat_template
        Jinja source, or ``None`` for a base model.
    context_length
        In tokens, as the header has it. llama.cpp keeps it in 32 bits.
    """
    feed_forward_length = _feed_forward_length(size_bytes, quantization)
    writer = _chat_writer(path, quantization, chat_template, feed_forward_length, context_length)
    return _write(writer, path)


def write_split_model(
    folder: Path, name: str, parts: int = 3, *, quantization: Quantization = "F16", size_bytes: int | None = None
) -> tuple[Path, ...]:
    """Write the chat model in ``parts`` files ``NAME-00001-of-00003.gguf`` …; llama.cpp loads it from the first."""
    feed_forward_length = _feed_forward_length(size_bytes, quantization)
    tensor_count = 3 + 9 * _BLOCK_COUNT
    per_part = -(-tensor_count // parts)
    if -(-tensor_count // per_part) != parts:
        raise ValueError(f"{tensor_count} tensors cannot be split into {parts} equal parts.")
    base = folder / f"{name}.gguf"
    writer = _chat_writer(
        base, quantization, CHAT_TEMPLATE, feed_forward_length, CONTEXT_LENGTH, split_max_tensors=per_part
    )
    _write(writer, base)
    return tuple(folder / f"{name}-{number:05}-of-{parts:05}.gguf" for number in range(1, parts + 1))


def write_embedding_model(path: Path, *, has_pooling_type: bool = True) -> Path:
    """Write a model of the bert architecture: 32 numbers for a text, the mean over its tokens.

    Without a pooling type, as some conversions leave it out, it has 32 numbers for each token.
    """
    from gguf import GGUFWriter, TokenType
    from gguf.constants import PoolingType

    width, hidden, context_length = 32, 64, 128
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + [str(digit) for digit in range(10)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces += [f"▁{letter}" for letter in letters] + letters
    pieces += [f"▁{mark}" for mark in ".,;:!?-'"]

    writer = GGUFWriter(path, "bert")
    _add_general(writer, "Tiny embedding model", "F32")
    writer.add_context_length(context_length)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden)
    writer.add_block_count(1)
    writer.add_head_count(2)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    if has_pooling_type:
        writer.add_pooling_type(PoolingType.MEAN)
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")
    writer.add_token_list(pieces)
    writer.add_token_types([TokenType.CONTROL] * 5 + [TokenType.NORMAL] * (len(pieces) - 5))
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_mask_token_id(4)

    tensors = _Tensors(writer, "F32")
    tensors.add_noise("token_embd.weight", len(pieces), width)
    tensors.add_noise("position_embd.weight", context_length, width, scale=0.01)
    tensors.add_noise("token_types.weight", 2, width, scale=0.01)
    tensors.add_norm("token_embd_norm", width, bias=True)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        tensors.add_linear(f"blk.0.{name}", width, width)
    tensors.add_norm("blk.0.attn_output_norm", width, bias=True)
    tensors.add_linear("blk.0.ffn_up", hidden, width)
    tensors.add_linear("blk.0.ffn_down", width, hidden)
    tensors.add_norm("blk.0.layer_output_norm", width, bias=True)
    return _write(writer, path)


def write_projector(path: Path) -> Path:
    """Write a vision projector (``mmproj``) for the chat model: a one-layer CLIP with LLaVA's two-layer perceptron.

    llama.cpp loads it and encodes images with it; what it sees is noise.
    """
    from gguf import GGUFWriter

    width, hidden, image_size, patch_size = 32, 64, 28, 14
    writer = GGUFWriter(path, "clip")
    _add_general(writer, "Tiny vision projector", "F32", kind="mmproj")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("mlp")
    writer.add_vision_projection_dim(_EMBEDDING_LENGTH)
    writer.add_vision_image_size(image_size)
    writer.add_vision_patch_size(patch_size)
    writer.add_vision_embedding_length(width)
    writer.add_vision_feed_forward_length(hidden)
    writer.add_vision_block_count(2)
    writer.add_vision_head_count(2)
    writer.add_vision_attention_layernorm_eps(1e-5)
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    writer.add_vision_use_gelu(True)

    tensors = _Tensors(writer, "F32")
    tensors.add_noise("v.class_embd", width)
    tensors.add_noise("v.patch_embd.weight", width, 3, patch_size, patch_size)
    tensors.add_noise("v.position_embd.weight", (image_size // patch_size) ** 2 + 1, width)
    tensors.add_norm("v.pre_ln", width, bias=True)
    for block in range(2):
        prefix = f"v.blk.{block}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            tensors.add_linear(f"{prefix}.{name}", width, width)
        tensors.add_norm(f"{prefix}.ln1", width, bias=True)
        tensors.add_linear(f"{prefix}.ffn_up", hidden, width)
        tensors.add_linear(f"{prefix}.ffn_down", width, hidden)
        tensors.add_norm(f"{prefix}.ln2", width, bias=True)
    tensors.add_linear("mm.0", _EMBEDDING_LENGTH, width)
    tensors.add_linear("mm.2", _EMBEDDING_LENGTH, _EMBEDDING_LENGTH)
    return _write(writer, path)


def _chat_writer(
    path: Path,
    quantization: Quantization,
    chat_template: str | None,
    feed_forward_length: int,
    context_length: int,
    **options: Any,
) -> GGUFWriter:
    from gguf import GGUFWriter, TokenType

    characters = ["▁", *(chr(code) for code in range(0x21, 0x7F))]
    pieces = [*_SPECIAL_PIECES, *(f"<0x{byte:02X}>" for byte in range(256)), *characters, *_ANSWER_PIECES]
    types = [TokenType.UNKNOWN] + [TokenType.CONTROL] * (len(_SPECIAL_PIECES) - 1) + [TokenType.BYTE] * 256
    types += [TokenType.NORMAL] * (len(pieces) - len(types))
    answer_ids = range(len(pieces) - len(_ANSWER_PIECES), len(pieces))

    writer = GGUFWriter(path, "llama", **options)
    _add_general(writer, "Tiny test model", quantization)
    writer.add_context_length(context_length)
    writer.add_embedding_length(_EMBEDDING_LENGTH)
    writer.add_block_count(_BLOCK_COUNT)
    writer.add_feed_forward_length(feed_forward_length)
    writer.add_head_count(_HEAD_COUNT)
    writer.add_head_count_kv(_HEAD_COUNT_KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_EMBEDDING_LENGTH // _HEAD_COUNT)
    writer.add_vocab_size(len(pieces))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * len(pieces))
    writer.add_token_types(types)
    writer.add_unk_token_id(_UNKNOWN_ID)
    writer.add_bos_token_id(_BOS_ID)
    writer.add_eos_token_id(_EOS_ID)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    if chat_template is not None:
        writer.add_chat_template(chat_template)

    tensors = _Tensors(writer, quantization)
    tensors.add_places("token_embd.weight", {token: place + 1 for place, token in enumerate(answer_ids)}, len(pieces))
    next_places = {token: place for place, token in enumerate([*answer_ids, _EOS_ID])}
    tensors.add_places("output.weight", next_places, len(pieces), value=_CERTAINTY, default=None)
    tensors.add_norm("output_norm", _EMBEDDING_LENGTH)
    width, width_kv = _EMBEDDING_LENGTH, _EMBEDDING_LENGTH * _HEAD_COUNT_KV // _HEAD_COUNT
    for block in range(_BLOCK_COUNT):
        prefix = f"blk.{block}"
        tensors.add_norm(f"{prefix}.attn_norm", width)
        tensors.add_noise(f"{prefix}.attn_q.weight", width, width)
        tensors.add_noise(f"{prefix}.attn_k.weight", width_kv, width)
        tensors.add_noise(f"{prefix}.attn_v.weight", width_kv, width, scale=0.0)  # attention adds nothing
        tensors.add_noise(f"{prefix}.attn_output.weight", width, width)
        tensors.add_norm(f"{prefix}.ffn_norm", width)
        # The gate is closed for every place of the answer, so the feed-forward layer adds nothing either.
        tensors.add_noise(f"{prefix}.ffn_gate.weight", feed_forward_length, width, zero_columns=_PLACES)
        tensors.add_noise(f"{prefix}.ffn_up.weight", feed_forward_length, width)
        tensors.add_noise(f"{prefix}.ffn_down.weight", width, feed_forward_length)
    return writer


def _feed_forward_length(size_bytes: int | None, quantization: Quantization) -> int:
    if size_bytes is None:
        return _FEED_FORWARD_LENGTH
    bits = {"F32": 32, "F16": 16, "Q8_0": 8.5, "Q4_0": 4.5}[quantization]
    step_bytes = int(3 * _BLOCK_COUNT * _EMBEDDING_LENGTH * _FEED_FORWARD_STEP * bits / 8)
    smallest_bytes = {"F32": 500_000, "F16": 260_000, "Q8_0": 150_000, "Q4_0": 90_000}[quantization]
    steps = max(0, (size_bytes - smallest_bytes) // step_bytes)
    return _FEED_FORWARD_LENGTH + steps * _FEED_FORWARD_STEP


def _add_general(writer: GGUFWriter, name: str, quantization: Quantization, kind: str = "model") -> None:
    from gguf import LlamaFileType

    file_type = {
        "F32": LlamaFileType.ALL_F32,
        "F16": LlamaFileType.MOSTLY_F16,
        "Q8_0": LlamaFileType.MOSTLY_Q8_0,
        "Q4_0": LlamaFileType.MOSTLY_Q4_0,
    }[quantization]
    writer.add_type(kind)
    writer.add_name(name)
    writer.add_license("bsd-3-clause")
    writer.add_file_type(file_type)


def _write(writer: GGUFWriter, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class _Tensors:
    """Adds tensors to a writer. Each one's noise is seeded by its name."""

    def __init__(self, writer: GGUFWriter, quantization: Quantization) -> None:
        self._writer = writer
        self._quantization = quantization

    def add_noise(self, name: str, *shape: int, scale: float = 0.25, zero_columns: int = 0) -> None:
        import numpy as np

        count = int(np.prod(shape))
        noise = np.frombuffer(hashlib.shake_128(name.encode()).digest(count), dtype=np.int8)
        weights = noise.reshape(shape) * np.float32(scale / 128)
        weights[..., :zero_columns] = 0
        self._add(name, weights)

    def add_places(
        self, name: str, places: dict[int, int], rows: int, *, value: float = 1.0, default: int | None = 0
    ) -> None:
        """A matrix with one number in each row: in the row's place, or in the ``default`` place if there is one."""
        import numpy as np

        weights = np.zeros((rows, _EMBEDDING_LENGTH), dtype=np.float32)
        for row in range(rows):
            place = places.get(row, default)
            if place is not None:
                weights[row, place] = value
        self._add(name, weights)

    def add_linear(self, name: str, rows: int, columns: int) -> None:
        self.add_noise(f"{name}.weight", rows, columns)
        self.add_noise(f"{name}.bias", rows, scale=0.01)

    def add_norm(self, name: str, width: int, *, bias: bool = False) -> None:
        import numpy as np

        self._add(f"{name}.weight", np.ones(width, dtype=np.float32))
        if bias:
            self._add(f"{name}.bias", np.zeros(width, dtype=np.float32))

    def _add(self, name: str, weights: Weights) -> None:
        from gguf import GGMLQuantizationType
        from gguf.quants import quantize

        if weights.ndim == 1 or self._quantization == "F32":  # llama.cpp wants vectors in F32
            self._writer.add_tensor(name, weights)
            return
        kind = GGMLQuantizationType[self._quantization]
        self._writer.add_tensor(name, quantize(weights, kind), raw_dtype=kind)
