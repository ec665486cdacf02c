"""Computes with a KV cache of given types in a child process, which may die of it; see `modeldeck._children`.

llama.cpp makes a cache of any type, and follows a null pointer at the first prompt if it has no kernel for the type.
The trial evaluates a prompt and a token with a model of one small layer, whose weights are zeros.
"""

import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_EMBEDDING_LENGTH = 32
_VOCAB_SIZE = 32
_N_CTX = 256
_ALIGNMENT = 32
_STRING, _UINT32, _FLOAT32 = 8, 4, 6  # GGUF's value types
_F32 = 0
_LLAMA_FLASH_ATTENTION_ON, _LLAMA_FLASH_ATTENTION_OFF = 1, 0


def answer(request: dict[str, Any]) -> Iterator[dict[str, bool]]:
    """Evaluate tokens with ``type_k``, ``type_v``, ``flash_attn``, ``key_length``, ``value_length``, ``n_gpu_layers``.

    One answer: whether llama.cpp makes such a cache (``is_accepted``), and whether it computes with it (``is_usable``).
    """
    from llama_cpp import llama_cpp

    with tempfile.TemporaryDirectory(prefix="modeldeck-") as folder:
        path = Path(folder) / "model.gguf"
        write_model(path, request["key_length"], request["value_length"])
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = request["n_gpu_layers"]
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), model_params)
    if not model:
        raise RuntimeError("llama.cpp does not load the trial's model")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = _N_CTX
    params.n_threads = params.n_threads_batch = 1
    params.type_k = request["type_k"]
    params.type_v = request["type_v"]
    params.flash_attn_type = _LLAMA_FLASH_ATTENTION_ON if request["flash_attn"] else _LLAMA_FLASH_ATTENTION_OFF
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        yield {"is_accepted": False, "is_usable": False}
        return
    yield {"is_accepted": True, "is_usable": all(evaluate(llama_cpp, context, count) for count in (4, 1))}


def evaluate(llama_cpp: Any, context: Any, count: int) -> bool:
    tokens = (llama_cpp.llama_token * count)(*range(count))
    return int(llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, count))) == 0


def write_model(path: Path, key_length: int, value_length: int) -> None:
    """Write a GGUF file of one layer with one attention head. Its weights are zeros, and take no room on the disk."""
    width = _EMBEDDING_LENGTH
    keys: dict[str, str | int | float] = {
        "general.architecture": "llama",
        "llama.context_length": _N_CTX,
        "llama.embedding_length": width,
        "llama.block_count": 1,
        "llama.feed_forward_length": width,
        "llama.attention.head_count": 1,
        "llama.attention.head_count_kv": 1,
        "llama.attention.key_length": key_length,
        "llama.attention.value_length": value_length,
        "llama.rope.dimension_count": key_length,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": _VOCAB_SIZE,
        "tokenizer.ggml.model": "no_vocab",
    }
    tensors = {
        "token_embd.weight": (width, _VOCAB_SIZE),
        "output_norm.weight": (width,),
        "blk.0.attn_norm.weight": (width,),
        "blk.0.attn_q.weight": (width, key_length),
        "blk.0.attn_k.weight": (width, key_length),
        "blk.0.attn_v.weight": (width, value_length),
        "blk.0.attn_output.weight": (value_length, width),
        "blk.0.ffn_norm.weight": (width,),
        "blk.0.ffn_gate.weight": (width, width),
        "blk.0.ffn_down.weight": (width, width),
        "blk.0.ffn_up.weight": (width, width),
    }
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key, value in keys.items():
        header += pack_string(key)
        if isinstance(value, str):
            header += struct.pack("<I", _STRING) + pack_string(value)
        elif isinstance(value, int):
            header += struct.pack("<II", _UINT32, value)
        else:
            header += struct.pack("<If", _FLOAT32, value)
    offset = 0
    for name, shape in tensors.items():
        header += pack_string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, _F32, offset)
        size = 4
        for length in shape:
            size *= length
        offset += padded(size)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(padded(len(header)) + offset)


def pack_string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
