"""The options chosen for a machine. These tests do not need llama.cpp."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeldeck._errors import DoesNotFitError, InvalidRequestError
from modeldeck.gguf.metadata import GGUFMetadata
from modeldeck.llama.model_file import ModelFile
from modeldeck.llama.options import choose_options
from modeldeck.sizing.devices import GPU
from modeldeck.sizing.hardware import Hardware

GIB = 1 << 30
LLAMA_8B = GGUFMetadata(
    architecture="llama",
    context_length=131072,
    block_count=32,
    embedding_length=4096,
    vocab_size=128256,
    feed_forward_length=(14336,) * 32,
    head_count=(32,) * 32,
    head_count_kv=(8,) * 32,
)


@pytest.fixture
def model(tmp_path: Path) -> ModelFile:
    """Llama-3.1-8B in 4 bits, as a sparse file."""
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.truncate(4_900_000_000)
    return ModelFile(paths=(path,), metadata=LLAMA_8B, is_embedding=False)


def machine(ram: float, *vram: float) -> Hardware:
    gpus = tuple(GPU(name="GPU", total=int(free * GIB), free=int(free * GIB)) for free in vram)
    return Hardware(ram_total=int(ram * GIB), ram_available=int(ram * GIB), cpu_count=1, gpus=gpus)


def test_a_large_machine(model: ModelFile) -> None:
    options = choose_options(model, machine(32), {})
    assert options == {
        "embedding": False,
        "flash_attn": True,
        "n_ctx": 4096,
        "n_gpu_layers": 0,
        "n_threads": 1,
        "n_threads_batch": 1,
        "use_mmap": False,
        "verbose": False,
    }


def test_the_context_shrinks_to_what_fits(model: ModelFile) -> None:
    n_ctx = choose_options(model, machine(5.4), {"n_ctx": None})["n_ctx"]
    assert 512 <= n_ctx < 4096
    with pytest.raises(DoesNotFitError, match=f"Up to n_ctx={n_ctx} fits"):
        choose_options(model, machine(5.4), {"n_ctx": 4096})
    with pytest.raises(DoesNotFitError, match="smaller variant"):
        choose_options(model, machine(3), {})


def test_the_figures_of_a_refusal_differ(model: ModelFile) -> None:
    for ram in (5.28, 5.3, 5.32, 5.4, 5.5):
        with pytest.raises(DoesNotFitError) as caught:
            choose_options(model, machine(ram), {"n_ctx": 4096})
        needed, available = re.findall(r"[\d.]+ [GM]iB", caught.value.message)
        assert needed != available
        assert caught.value.needed_bytes > caught.value.available_bytes


def test_what_is_given_stays(model: ModelFile) -> None:
    given = {"n_ctx": 8192, "flash_attn": False, "use_mmap": True, "n_gpu_layers": 3, "verbose": True, "seed": 1}
    options = choose_options(model, machine(32), given)
    assert {name: options[name] for name in given} == given


def test_integers_of_numpy_are_integers(model: ModelFile) -> None:
    given = {
        "n_ctx": 8192,
        "n_threads": 1,
        "n_threads_batch": 1,
        "n_batch": 256,
        "n_ubatch": 64,
        "type_k": 8,
        "type_v": 8,
        "n_gpu_layers": 0,
    }
    options = choose_options(model, machine(32), {name: np.int64(value) for name, value in given.items()})
    assert {name: options[name] for name in given} == given
    assert {type(options[name]) for name in given} == {int}


def test_zero_is_the_whole_context(model: ModelFile) -> None:
    assert choose_options(model, machine(64), {"n_ctx": 0})["n_ctx"] == 131072
    with pytest.raises(DoesNotFitError):
        choose_options(model, machine(16), {"n_ctx": 0})


def test_mapped_weights_may_exceed_the_memory(model: ModelFile) -> None:
    assert choose_options(model, machine(3), {"use_mmap": True})["n_ctx"] == 4096


def test_gpus(model: ModelFile) -> None:
    assert choose_options(model, machine(32, 24), {})["n_gpu_layers"] == -1
    assert choose_options(model, machine(32, 24), {})["use_mmap"] is True
    partly = choose_options(model, machine(32, 4), {})["n_gpu_layers"]
    assert 0 < partly < 32


def test_a_smaller_cache_lets_a_longer_context_fit(model: ModelFile) -> None:
    with pytest.raises(DoesNotFitError):
        choose_options(model, machine(8), {"n_ctx": 30000})
    assert choose_options(model, machine(8), {"n_ctx": 30000, "type_k": 8, "type_v": 8})["n_ctx"] == 30000


def test_an_encoder_sees_a_text_at_once(model: ModelFile) -> None:
    encoder = replace(model, is_embedding=True, metadata=replace(LLAMA_8B, architecture="bert", context_length=512))
    options = choose_options(encoder, machine(32), {"n_ctx": 4096})
    assert (options["n_ctx"], options["n_batch"], options["n_ubatch"]) == (512, 512, 512)
    assert options["embedding"] is True
    assert choose_options(encoder, machine(32), {"n_batch": 256})["n_ubatch"] == 256


@pytest.mark.parametrize(
    "given",
    [
        {"n_ctx": -1},
        {"n_ctx": 1 << 40},
        {"n_ctx": 10.5},
        {"n_ctx": 512.0},
        {"n_ctx": "512"},
        {"n_ctx": True},
        {"n_ctx": False},
        {"n_ctx": []},
        {"n_threads": 0},
        {"n_threads": 5000},
        {"n_threads_batch": -1},
        {"type_k": 99},
        {"type_v": 8, "flash_attn": False},
    ],
)
def test_values_that_make_no_sense(model: ModelFile, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        choose_options(model, machine(64), given)
    if "n_ctx" in given:
        expected = f"n_ctx must be a whole number of tokens from 1 to {1 << 30}, or 0 for the model's own 131072, not "
        assert caught.value.message == f"{expected}{given['n_ctx']!r}."
