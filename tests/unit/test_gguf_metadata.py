"""From header keys to typed metadata."""

import pytest

from modeldeck._errors import GGUFError
from modeldeck._types import ModelTraits
from modeldeck.gguf.header import GGUFHeader, Value
from modeldeck.gguf.metadata import read_metadata
from modeldeck.gguf.model_facts import model_traits


def header(keys: dict[str, Value], *, arrays: dict[str, int] | None = None, is_complete: bool = True) -> GGUFHeader:
    return GGUFHeader(
        version=3,
        is_big_endian=False,
        kv_count=len(keys),
        tensor_count=0,
        metadata={"general.architecture": "llama", **keys},
        array_lengths=arrays or {},
        is_complete=is_complete,
    )


def test_scalars_are_spread_over_the_layers() -> None:
    metadata = read_metadata(
        header({"llama.block_count": 3, "llama.attention.head_count": 9, "llama.feed_forward_length": (1, 2, 3)})
    )
    assert metadata.head_count == (9, 9, 9)
    assert metadata.head_count_kv == (9, 9, 9), "without its own key, every head has its own K and V"
    assert metadata.feed_forward_length == (1, 2, 3)


def test_head_count_may_differ_by_layer() -> None:
    keys: dict[str, Value] = {"llama.block_count": 3, "llama.attention.head_count": 8}
    assert read_metadata(header(keys | {"llama.attention.head_count_kv": (0, 8, 0)})).head_count_kv == (0, 8, 0)
    assert read_metadata(header(keys | {"llama.attention.head_count_kv": (1, 2)})).head_count_kv == (8, 8, 8)


def test_sliding_window_pattern_is_a_period_or_a_list() -> None:
    key = "llama.attention.sliding_window_pattern"
    assert read_metadata(header({key: 6})).sliding_window_pattern == 6
    assert read_metadata(header({key: (True, False)})).sliding_window_pattern == (True, False)
    assert read_metadata(header({key: "x"})).sliding_window_pattern is None


@pytest.mark.parametrize("value", [-1, 1.5, "12", True, 1 << 60])
def test_values_of_the_wrong_type_count_as_missing(value: Value) -> None:
    assert read_metadata(header({"llama.context_length": value})).context_length is None


@pytest.mark.parametrize("block_count", [0, 513, 2**31])
def test_layers_on_which_llama_cpp_aborts_are_refused(block_count: int) -> None:
    with pytest.raises(GGUFError, match="layers"):
        read_metadata(header({"llama.block_count": block_count}))


@pytest.mark.parametrize("architecture", ["", 3])
def test_an_architecture_is_required(architecture: Value) -> None:
    with pytest.raises(GGUFError, match="architecture"):
        read_metadata(header({"general.architecture": architecture}))


def test_traits() -> None:
    keys: dict[str, Value] = {"general.name": "Tiny", "llama.block_count": 2, "llama.context_length": 4096}
    arrays = {"tokenizer.ggml.tokens": 360}
    traits = ModelTraits(
        architecture="llama",
        name="Tiny",
        context_length=4096,
        block_count=2,
        vocab_size=360,
        has_chat_template=False,
        is_embedding=False,
    )
    assert model_traits(read_metadata(header(keys, arrays=arrays))) == traits
    quick = model_traits(read_metadata(header(keys, arrays=arrays, is_complete=False)))
    assert quick.has_chat_template is None, "a quick look ends before the template"
    assert model_traits(read_metadata(header(keys | {"tokenizer.chat_template": "{{ x }}"}))).has_chat_template
    assert model_traits(read_metadata(header(keys | {"llama.pooling_type": 1}))).is_embedding
    assert model_traits(read_metadata(header({"general.architecture": "bert"}))).is_embedding
