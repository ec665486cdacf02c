"""Headers with the true shapes of published models: sparse files of the full size that take a few KiB of disk.

The numbers are those of the models' own ``config.json``, the tensor names and shapes those llama.cpp asks for.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

Value = int | float | str | bool | list[int] | list[bool]
Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Model:
    """One model: its keys without the architecture's prefix, and its tensors with shapes in GGUF's order."""

    name: str
    architecture: str
    keys: Mapping[str, Value]
    tensors: Callable[["Model"], Shapes]

    def __str__(self) -> str:
        return self.name

    def number(self, key: str) -> int:
        value = self.keys[key]
        assert isinstance(value, int)
        return value

    @property
    def layers(self) -> range:
        return range(self.number("block_count"))

    @property
    def embedding(self) -> int:
        return self.number("embedding_length")

    def head_count_kv(self, layer: int) -> int:
        value = self.keys.get("attention.head_count_kv", self.keys["attention.head_count"])
        assert isinstance(value, int | list)
        return value[layer] if isinstance(value, list) else value

    @property
    def key_length(self) -> int:
        default = self.embedding // self.number("attention.head_count")
        return int(self.keys.get("attention.key_length", default))  # type: ignore[arg-type]


def write_header(model: Model, folder: Path) -> Path:
    """A file as large as the model, of which only the header is there."""
    path = folder / f"{model.name}.gguf"
    writer = GGUFWriter(path, model.architecture)
    for key, value in model.keys.items():
        name = f"{model.architecture}.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_array(name, value)
    writer.add_tokenizer_model("no_vocab")
    size = 0
    for name, shape in model.tensors(model):
        is_matrix = len(shape) > 1 and not name.endswith(("ssm_conv1d.weight", "ssm_a", "shortconv.conv.weight"))
        dtype = np.dtype(np.float16 if is_matrix else np.float32)
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        writer.add_tensor_info(name, shape[::-1], dtype, n_bytes)
        size += -(-n_bytes // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    header_size = -(-path.stat().st_size // 32) * 32
    os.truncate(path, header_size + size)
    return path


def attention(model: Model, layer: int, *, has_bias: bool = False, has_norms: bool = False) -> Shapes:
    embedding, head, heads = model.embedding, model.key_length, model.number("attention.head_count")
    heads_kv = model.head_count_kv(layer)
    yield f"blk.{layer}.attn_norm.weight", (embedding,)
    for part, width in (("q", heads * head), ("k", heads_kv * head), ("v", heads_kv * head)):
        yield f"blk.{layer}.attn_{part}.weight", (embedding, width)
        if has_bias:
            yield f"blk.{layer}.attn_{part}.bias", (width,)
    if has_norms:
        yield f"blk.{layer}.attn_q_norm.weight", (head,)
        yield f"blk.{layer}.attn_k_norm.weight", (head,)
    yield f"blk.{layer}.attn_output.weight", (heads * head, embedding)


def feed_forward(model: Model, layer: int) -> Shapes:
    embedding, width = model.embedding, model.number("feed_forward_length")
    yield f"blk.{layer}.ffn_norm.weight", (embedding,)
    yield f"blk.{layer}.ffn_gate.weight", (embedding, width)
    yield f"blk.{layer}.ffn_up.weight", (embedding, width)
    yield f"blk.{layer}.ffn_down.weight", (width, embedding)


def experts(model: Model, layer: int, *, norm: str = "ffn_norm") -> Shapes:
    embedding, width = model.embedding, model.number("expert_feed_forward_length")
    count = model.number("expert_count")
    yield f"blk.{layer}.{norm}.weight", (embedding,)
    yield f"blk.{layer}.ffn_gate_inp.weight", (embedding, count)
    yield f"blk.{layer}.ffn_gate_exps.weight", (embedding, width, count)
    yield f"blk.{layer}.ffn_up_exps.weight", (embedding, width, count)
    yield f"blk.{layer}.ffn_down_exps.weight", (width, embedding, count)


def ends(model: Model, *, has_output: bool = True) -> Shapes:
    yield "token_embd.weight", (model.embedding, model.number("vocab_size"))
    yield "output_norm.weight", (model.embedding,)
    if has_output:
        yield "output.weight", (model.embedding, model.number("vocab_size"))


def dense(*, has_bias: bool = False, has_norms: bool = False, has_output: bool = True) -> Callable[[Model], Shapes]:
    def shapes(model: Model) -> Shapes:
        yield from ends(model, has_output=has_output)
        for layer in model.layers:
            yield from attention(model, layer, has_bias=has_bias, has_norms=has_norms)
            yield from feed_forward(model, layer)

    return shapes


def qwen3moe(model: Model) -> Shapes:
    yield from ends(model)
    for layer in model.layers:
        yield from attention(model, layer, has_norms=True)
        yield from experts(model, layer)


def gemma2(model: Model) -> Shapes:
    yield from ends(model, has_output=False)
    for layer in model.layers:
        yield from attention(model, layer)
        yield from feed_forward(model, layer)
        yield f"blk.{layer}.post_attention_norm.weight", (model.embedding,)
        yield f"blk.{layer}.post_ffw_norm.weight", (model.embedding,)


def gemma3(model: Model) -> Shapes:
    yield from ends(model, has_output=False)
    for layer in model.layers:
        yield from attention(model, layer, has_norms=True)
        yield from feed_forward(model, layer)
        yield f"blk.{layer}.post_attention_norm.weight", (model.embedding,)
        yield f"blk.{layer}.post_ffw_norm.weight", (model.embedding,)


def deepseek2(model: Model) -> Shapes:
    embedding, heads = model.embedding, model.number("attention.head_count")
    rank, rope = model.number("attention.kv_lora_rank"), model.number("rope.dimension_count")
    key, value = model.number("attention.key_length_mla"), model.number("attention.value_length_mla")
    shared = model.number("expert_shared_count") * model.number("expert_feed_forward_length")
    yield from ends(model)
    for layer in model.layers:
        yield f"blk.{layer}.attn_norm.weight", (embedding,)
        yield f"blk.{layer}.attn_q.weight", (embedding, heads * key)
        yield f"blk.{layer}.attn_kv_a_mqa.weight", (embedding, rank + rope)
        yield f"blk.{layer}.attn_kv_a_norm.weight", (rank,)
        yield f"blk.{layer}.attn_k_b.weight", (key - rope, rank, heads)
        yield f"blk.{layer}.attn_v_b.weight", (rank, value, heads)
        yield f"blk.{layer}.attn_output.weight", (heads * value, embedding)
        if layer < model.number("leading_dense_block_count"):
            yield from feed_forward(model, layer)
            continue
        yield from experts(model, layer)
        yield f"blk.{layer}.ffn_gate_shexp.weight", (embedding, shared)
        yield f"blk.{layer}.ffn_up_shexp.weight", (embedding, shared)
        yield f"blk.{layer}.ffn_down_shexp.weight", (shared, embedding)


def mamba(model: Model) -> Shapes:
    embedding, inner, state = model.embedding, model.number("ssm.inner_size"), model.number("ssm.state_size")
    kernel, rank = model.number("ssm.conv_kernel"), model.number("ssm.time_step_rank")
    yield from ends(model)
    for layer in model.layers:
        yield f"blk.{layer}.attn_norm.weight", (embedding,)
        yield f"blk.{layer}.ssm_in.weight", (embedding, 2 * inner)
        yield f"blk.{layer}.ssm_conv1d.weight", (kernel, inner)
        yield f"blk.{layer}.ssm_conv1d.bias", (inner,)
        yield f"blk.{layer}.ssm_x.weight", (inner, rank + 2 * state)
        yield f"blk.{layer}.ssm_dt.weight", (rank, inner)
        yield f"blk.{layer}.ssm_dt.bias", (inner,)
        yield f"blk.{layer}.ssm_a", (state, inner)
        yield f"blk.{layer}.ssm_d", (inner,)
        yield f"blk.{layer}.ssm_out.weight", (inner, embedding)


def lfm2(model: Model) -> Shapes:
    embedding = model.embedding
    yield "token_embd.weight", (embedding, model.number("vocab_size"))
    yield "token_embd_norm.weight", (embedding,)
    for layer in model.layers:
        if model.head_count_kv(layer):
            yield from attention(model, layer, has_norms=True)
        else:
            yield f"blk.{layer}.attn_norm.weight", (embedding,)
            yield f"blk.{layer}.shortconv.conv.weight", (model.number("shortconv.l_cache"), embedding)
            yield f"blk.{layer}.shortconv.in_proj.weight", (embedding, 3 * embedding)
            yield f"blk.{layer}.shortconv.out_proj.weight", (embedding, embedding)
        yield from feed_forward(model, layer)


def gpt_oss(model: Model) -> Shapes:
    embedding, heads, count = model.embedding, model.number("attention.head_count"), model.number("expert_count")
    width = model.number("expert_feed_forward_length")
    yield from ends(model)
    for layer in model.layers:
        yield from attention(model, layer, has_bias=True)
        yield f"blk.{layer}.attn_output.bias", (embedding,)
        yield f"blk.{layer}.attn_sinks.weight", (heads,)
        yield from experts(model, layer, norm="post_attention_norm")
        yield f"blk.{layer}.ffn_gate_inp.bias", (count,)
        yield f"blk.{layer}.ffn_gate_exps.bias", (width, count)
        yield f"blk.{layer}.ffn_up_exps.bias", (width, count)
        yield f"blk.{layer}.ffn_down_exps.bias", (embedding, count)


def qwen3next(model: Model) -> Shapes:
    embedding, inner, state = model.embedding, model.number("ssm.inner_size"), model.number("ssm.state_size")
    groups, rank = model.number("ssm.group_count"), model.number("ssm.time_step_rank")
    head, heads, heads_kv = model.key_length, model.number("attention.head_count"), model.head_count_kv(0)
    conv = inner + 2 * groups * state
    yield from ends(model)
    for layer in model.layers:
        yield f"blk.{layer}.attn_norm.weight", (embedding,)
        if (layer + 1) % model.number("full_attention_interval") == 0:
            yield f"blk.{layer}.attn_q.weight", (embedding, 2 * heads * head)
            yield f"blk.{layer}.attn_k.weight", (embedding, heads_kv * head)
            yield f"blk.{layer}.attn_v.weight", (embedding, heads_kv * head)
            yield f"blk.{layer}.attn_q_norm.weight", (head,)
            yield f"blk.{layer}.attn_k_norm.weight", (head,)
            yield f"blk.{layer}.attn_output.weight", (heads * head, embedding)
        else:
            yield f"blk.{layer}.attn_qkv.weight", (embedding, conv)
            yield f"blk.{layer}.attn_gate.weight", (embedding, inner)
            yield f"blk.{layer}.ssm_conv1d.weight", (model.number("ssm.conv_kernel"), conv)
            yield f"blk.{layer}.ssm_dt.bias", (rank,)
            yield f"blk.{layer}.ssm_a", (rank,)
            yield f"blk.{layer}.ssm_ba.weight", (embedding, 2 * rank)
            yield f"blk.{layer}.ssm_norm.weight", (inner // rank,)
            yield f"blk.{layer}.ssm_out.weight", (inner, embedding)
        yield from experts(model, layer, norm="post_attention_norm")
        shared = model.number("expert_shared_feed_forward_length")
        yield f"blk.{layer}.ffn_gate_inp_shexp.weight", (embedding,)
        yield f"blk.{layer}.ffn_gate_shexp.weight", (embedding, shared)
        yield f"blk.{layer}.ffn_up_shexp.weight", (embedding, shared)
        yield f"blk.{layer}.ffn_down_shexp.weight", (shared, embedding)


def from_list(tensors: list[tuple[str, list[int]] | tuple[str, list[int], list[int]]]) -> Callable[[Model], Shapes]:
    """Tensors by name, shape, and the layers that have them where not all do."""

    def shapes(model: Model) -> Shapes:
        for name, shape, *layers in tensors:
            if "*" not in name:
                yield name, tuple(shape)
                continue
            for layer in layers[0] if layers else model.layers:
                yield name.replace("*", str(layer)), tuple(shape)

    return shapes


def _keys(
    layers: int, context: int, embedding: int, feed_forward_length: int, vocab: int, **more: Value
) -> dict[str, Value]:
    keys: dict[str, Value] = {
        "block_count": layers,
        "context_length": context,
        "embedding_length": embedding,
        "feed_forward_length": feed_forward_length,
        "vocab_size": vocab,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    return keys | {key.replace("__", "."): value for key, value in more.items()}


def _heads(heads: int, heads_kv: int | list[int], head: int | None = None) -> dict[str, Value]:
    keys: dict[str, Value] = {"attention.head_count": heads, "attention.head_count_kv": heads_kv}
    if head is not None:
        keys |= {"attention.key_length": head, "attention.value_length": head}
    return keys


_LISTED = json.loads((Path(__file__).parents[1] / "data/fit/shapes.json").read_text(encoding="utf-8"))

MODELS = (
    *(Model(each["name"], each["architecture"], each["keys"], from_list(each["tensors"])) for each in _LISTED),
    Model("Llama-3.1-8B", "llama", _keys(32, 131072, 4096, 14336, 128256) | _heads(32, 8), dense()),
    Model("Mistral-7B", "llama", _keys(32, 32768, 4096, 14336, 32768) | _heads(32, 8), dense()),
    Model("SmolLM2-135M", "llama", _keys(30, 8192, 576, 1536, 49152) | _heads(9, 3), dense(has_output=False)),
    Model("Qwen2.5-7B", "qwen2", _keys(28, 32768, 3584, 18944, 152064) | _heads(28, 4), dense(has_bias=True)),
    Model(
        "Qwen3-30B-A3B",
        "qwen3moe",
        _keys(
            48, 40960, 2048, 6144, 151936, expert_count=128, expert_used_count=8, expert_feed_forward_length=768
        )
        | _heads(32, 4, 128),
        qwen3moe,
    ),
    Model(
        "Gemma-2-9B",
        "gemma2",
        _keys(42, 8192, 3584, 14336, 256000, attention__sliding_window=4096) | _heads(16, 8, 256),
        gemma2,
    ),
    Model(
        "Gemma-3-4B",
        "gemma3",
        _keys(34, 131072, 2560, 10240, 262144, attention__sliding_window=1024) | _heads(8, 4, 256),
        gemma3,
    ),
    Model(
        "Gemma-3-270M",
        "gemma3",
        _keys(18, 32768, 640, 2048, 262144, attention__sliding_window=512) | _heads(4, 1, 256),
        gemma3,
    ),
    Model(
        "DeepSeek-V2-Lite",
        "deepseek2",
        _keys(
            27, 163840, 2048, 10944, 102400,
            leading_dense_block_count=1, expert_count=64, expert_used_count=6, expert_shared_count=2,
            expert_feed_forward_length=1408, expert_weights_scale=1.0,
            attention__kv_lora_rank=512, rope__dimension_count=64,
            attention__key_length=576, attention__value_length=512,
            attention__key_length_mla=192, attention__value_length_mla=128,
        )
        | {"attention.head_count": 16, "attention.head_count_kv": 1},
        deepseek2,
    ),
    Model(
        "Mamba-2.8B",
        "mamba",
        _keys(
            64, 1048576, 2560, 0, 50280,
            ssm__conv_kernel=4, ssm__inner_size=5120, ssm__state_size=16, ssm__time_step_rank=160,
        )
        | {"attention.head_count": 0},
        mamba,
    ),
    Model(
        "LFM2-1.2B",
        "lfm2",
        _keys(16, 128000, 2048, 8192, 65536, shortconv__l_cache=3)
        | _heads(32, [0, 0, 8, 0, 0, 8, 0, 0, 8, 0, 8, 0, 8, 0, 8, 0]),
        lfm2,
    ),
    Model(
        "gpt-oss-20b",
        "gpt-oss",
        _keys(
            24, 131072, 2880, 2880, 201088, attention__sliding_window=128,
            expert_count=32, expert_used_count=4, expert_feed_forward_length=2880,
        )
        | _heads(64, 8, 64),
        gpt_oss,
    ),
    Model(
        "Qwen3-Next-80B-A3B",
        "qwen3next",
        _keys(
            48, 262144, 2048, 5120, 151936, full_attention_interval=4, expert_count=512, expert_used_count=10,
            expert_feed_forward_length=512, expert_shared_feed_forward_length=512, rope__dimension_count=64,
            ssm__conv_kernel=4, ssm__inner_size=4096, ssm__state_size=128, ssm__group_count=16, ssm__time_step_rank=32,
        )
        | _heads(16, 2, 256),
        qwen3next,
    ),
)  # fmt: skip
