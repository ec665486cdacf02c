"""Which layers have a sliding window, by our table and by llama.cpp, for every architecture that has any."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from gguf import GGUFWriter

from modeldeck.gguf.header import read_header
from modeldeck.gguf.metadata import read_metadata
from modeldeck.sizing.cache_shape import layer_shapes
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.llama

LAYERS = 24
PERIODS_IN_CODE = (
    "afmoe", "cohere2", "cohere2moe", "exaone-moe", "exaone4", "gemma2", "gemma3", "gemma3n", "gpt-oss", "laguna",
    "llama4", "mellum", "muse-glimmer", "olmo2", "plamo3", "smallthinker",
)  # fmt: skip
LISTED_IN_HEADER = ("gemma3", "gemma4", "granite_swa", "mimo2", "olmo2", "spark2_5", "step35")
WITHOUT_WINDOW = ("llama", "phi3", "qwen2", "qwen3moe", "starcoder2")

# Headers without tensors: llama.cpp decides on the layers first and then refuses, which costs it a millisecond.
SHOW_WINDOWS = r"""
import json, re, sys
import llama_cpp.llama_cpp as llama

lines = []
callback = llama.llama_log_callback(lambda level, text, _: lines.append(text.decode(errors="replace")))
llama.llama_log_set(callback, None)
llama.llama_backend_init()
params = llama.llama_model_default_params()
params.no_alloc, params.load_mode = True, llama.LLAMA_LOAD_MODE_NONE
found = []
for path in json.load(sys.stdin):
    lines.clear()
    assert not llama.llama_model_load_from_file(path.encode(), params)
    found.append(re.findall(r"layer +\d+ assigned to device \S+ is_swa = (\d)", "".join(lines)))
print(json.dumps(found))
"""


def write(path: Path, architecture: str, *, layers: int = LAYERS, pattern: int | list[bool] | None = None) -> Path:
    """A header with every key that one of the architectures insists on."""
    writer = GGUFWriter(path, architecture)
    writer.add_tokenizer_model("no_vocab")
    numbers = {
        "block_count": layers, "context_length": 8192, "embedding_length": 1024, "feed_forward_length": 4096,
        "vocab_size": 32000, "attention.head_count": 16, "attention.head_count_kv": 8, "rope.dimension_count": 64,
        "attention.sliding_window": 512, "expert_count": 8, "expert_used_count": 2, "expert_gating_func": 2,
        "expert_feed_forward_length": 512, "expert_shared_count": 1, "leading_dense_block_count": 1,
        "interleave_moe_layer_step": 1, "embedding_length_per_layer_input": 64,
        "attention.key_length_swa": 64, "attention.value_length_swa": 64,
    }  # fmt: skip
    for key, number in numbers.items():
        writer.add_uint32(f"{architecture}.{key}", number)
    for key in (
        "attention.layer_norm_rms_epsilon",
        "attention.layer_norm_epsilon",
        "logit_scale",
        "rope.freq_base_swa",
    ):
        writer.add_float32(f"{architecture}.{key}", 1.0)
    if isinstance(pattern, list):
        writer.add_array(f"{architecture}.attention.sliding_window_pattern", pattern)
    elif pattern is not None:
        writer.add_uint32(f"{architecture}.attention.sliding_window_pattern", pattern)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_windows_are_where_llama_cpp_has_them(tmp_path: Path) -> None:
    listed = [True, True, False] * (LAYERS // 3)
    paths = [write(tmp_path / f"{name}.gguf", name) for name in (*PERIODS_IN_CODE, *WITHOUT_WINDOW)]
    paths += [write(tmp_path / f"{name}-listed.gguf", name, pattern=listed) for name in LISTED_IN_HEADER]
    paths += [write(tmp_path / f"{name}-3.gguf", name, pattern=3) for name in ("cohere2", "gemma3", "smallthinker")]
    paths.append(write(tmp_path / "exaone4-64.gguf", "exaone4", layers=64))
    run = subprocess.run(
        [sys.executable, "-c", SHOW_WINDOWS],
        input=json.dumps([str(path) for path in paths]).encode(),
        capture_output=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    for path, flags in zip(paths, json.loads(run.stdout), strict=True):
        shapes = layer_shapes(read_metadata(read_header(path)))
        ours = "".join("1" if shape.kind == "window" else "0" for shape in shapes)
        # The last flag is the output layer's.
        assert ours == "".join(flags[:-1]), path.name
