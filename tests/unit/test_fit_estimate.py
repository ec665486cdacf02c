"""Verdicts over machines and contexts, with numbers worked out by hand. The formula's accuracy: tests/llama."""

from dataclasses import replace

import pytest

from modeldeck.gguf.metadata import GGUFMetadata
from modeldeck.sizing.devices import GPU
from modeldeck.sizing.estimate import estimate_fit
from modeldeck.sizing.hardware import Hardware
from modeldeck.sizing.memory import DEFAULT_CONTEXT_OPTIONS, ContextOptions, MemoryUse, memory_use

MIB = 1 << 20
GIB = 1 << 30

LLAMA_8B = GGUFMetadata(
    architecture="llama",
    block_count=32,
    context_length=131072,
    embedding_length=4096,
    vocab_size=128256,
    feed_forward_length=(14336,) * 32,
    head_count=(32,) * 32,
    head_count_kv=(8,) * 32,
)
Q4_K_M_BYTES = 4_920_734_272


def machine(ram: float, *vram: float) -> Hardware:
    gpus = tuple(GPU(name="gpu", total=int(each * GIB), free=int(each * GIB)) for each in vram)
    return Hardware(ram_total=int(ram * GIB) + GIB, ram_available=int(ram * GIB), cpu_count=4, gpus=gpus)


def use_of(metadata: GGUFMetadata, n_ctx: int, options: ContextOptions | None = None) -> MemoryUse:
    use = memory_use(metadata, weights_bytes=Q4_K_M_BYTES, n_ctx=n_ctx, options=options or ContextOptions())
    assert use is not None
    return use


def test_llama_8b_as_llama_cpp_reports_it() -> None:
    use = use_of(LLAMA_8B, 4096)
    assert use.cache_bytes == 512 * MIB
    assert use.ram_bytes == use.weights_bytes + use.cache_bytes + use.touched_bytes + use.host_bytes
    assert use.vram_bytes == use.weights_bytes + use.cache_bytes + use.compute_bytes
    assert (
        use_of(LLAMA_8B, 32768, ContextOptions(flash_attn=True, type_k="q8_0", type_v="q8_0")).cache_bytes == 2176 * MIB
    )


@pytest.mark.parametrize(
    ("metadata", "n_ctx", "options", "expected"),
    [
        (LLAMA_8B, 1, ContextOptions(), 32 * MIB),
        (LLAMA_8B, 257, ContextOptions(), 64 * MIB),
        (replace(LLAMA_8B, head_count_kv=(8, 0) * 16), 4096, ContextOptions(), 256 * MIB),
        (replace(LLAMA_8B, shared_kv_layers=16), 4096, ContextOptions(), 256 * MIB),
        (replace(LLAMA_8B, architecture="gemma2", sliding_window=4096), 32768, ContextOptions(), 4096 * MIB),
        (
            replace(LLAMA_8B, architecture="gemma2", sliding_window=3584),
            32768,
            ContextOptions(swa_full=False),
            (2048 + 256) * MIB,
        ),
        (
            replace(LLAMA_8B, kv_lora_rank=512, rope_dimension_count=64, key_length_mla=192),
            4096,
            ContextOptions(),
            144 * MIB,
        ),
        (replace(LLAMA_8B, architecture="bert"), 512, ContextOptions(), 0),
    ],
)
def test_cache_by_kind_of_attention(metadata: GGUFMetadata, n_ctx: int, options: ContextOptions, expected: int) -> None:
    assert use_of(metadata, n_ctx, options).cache_bytes == expected


def test_verdict_in_ram() -> None:
    fit = estimate_fit(LLAMA_8B, weights_bytes=Q4_K_M_BYTES, n_ctx=4096, hardware=machine(8))
    assert (fit.verdict, fit.method, fit.n_gpu_layers) == ("fits", "formula", None)
    assert fit.needed_bytes == use_of(LLAMA_8B, 4096, DEFAULT_CONTEXT_OPTIONS).ram_bytes
    assert fit.available_bytes == 8 * GIB
    assert estimate_fit(LLAMA_8B, weights_bytes=Q4_K_M_BYTES, n_ctx=4096, hardware=machine(5)).verdict == "too_large"


@pytest.mark.parametrize("ram", [4.9, 5.0, 5.1, 5.2, 5.3, 5.4, 5.5, 5.6, 5.7])
@pytest.mark.parametrize("vram", [(), (0.5,), (3,)])
def test_the_figures_explain_the_verdict(ram: float, vram: tuple[float, ...]) -> None:
    fit = estimate_fit(LLAMA_8B, weights_bytes=Q4_K_M_BYTES, n_ctx=4096, hardware=machine(ram, *vram))
    assert fit.needed_bytes is not None
    assert fit.available_bytes is not None
    is_enough = fit.needed_bytes + fit.reserve_bytes <= fit.available_bytes
    assert is_enough == (fit.verdict == "fits")


def test_largest_context_is_the_largest_that_fits() -> None:
    hardware = machine(8)
    fit = estimate_fit(LLAMA_8B, weights_bytes=Q4_K_M_BYTES, n_ctx=4096, hardware=hardware)
    assert fit.max_n_ctx is not None
    assert fit.max_n_ctx > 4096

    def verdict(n_ctx: int) -> str:
        return estimate_fit(LLAMA_8B, weights_bytes=Q4_K_M_BYTES, n_ctx=n_ctx, hardware=hardware).verdict

    assert verdict(fit.max_n_ctx) == "fits"
    assert verdict(fit.max_n_ctx + 256) == "too_large"
    roomy = estimate_fit(LLAMA_8B, weights_bytes=Q4_K_M_BYTES, n_ctx=4096, hardware=machine(500))
    assert roomy.max_n_ctx == 131072, "not beyond what the model was made for"
    assert estimate_fit(LLAMA_8B, weights_bytes=Q4_K_M_BYTES, n_ctx=4096, hardware=machine(2)).max_n_ctx is None


def test_verdicts_with_a_gpu() -> None:
    def fit(hardware: Hardware) -> tuple[str, int | None]:
        estimate = estimate_fit(LLAMA_8B, weights_bytes=Q4_K_M_BYTES, n_ctx=4096, hardware=hardware)
        return estimate.verdict, estimate.n_gpu_layers

    assert fit(machine(16, 8)) == ("fits", None)
    assert fit(machine(16, 4, 4)) == ("fits", None), "two devices share the layers"
    verdict, layers = fit(machine(16, 4))
    assert verdict == "partial"
    assert layers is not None
    assert 10 < layers < 24
    assert fit(machine(16, 1)) == ("partial", 0)
    assert fit(machine(2, 2)) == ("too_large", None)


def test_size_alone_gives_a_rough_verdict() -> None:
    fit = estimate_fit(None, weights_bytes=Q4_K_M_BYTES, n_ctx=4096, hardware=machine(8))
    assert (fit.verdict, fit.method) == ("fits", "size")
    assert fit.needed_bytes == pytest.approx(use_of(LLAMA_8B, 4096).ram_bytes, rel=0.1)
    assert estimate_fit(None, weights_bytes=Q4_K_M_BYTES, n_ctx=4096, hardware=machine(4)).verdict == "too_large"


def test_a_header_without_layers_is_as_good_as_none() -> None:
    bare = GGUFMetadata(architecture="llama")
    fit = estimate_fit(bare, weights_bytes=Q4_K_M_BYTES, n_ctx=4096, hardware=machine(8))
    assert (fit.verdict, fit.method) == ("fits", "size")


def test_unknown_stays_unknown() -> None:
    assert estimate_fit(LLAMA_8B, weights_bytes=None, n_ctx=4096, hardware=machine(8)).verdict == "unknown"
    blind = Hardware(ram_total=0, ram_available=0, cpu_count=1)
    assert estimate_fit(LLAMA_8B, weights_bytes=Q4_K_M_BYTES, n_ctx=4096, hardware=blind).verdict == "unknown"


def test_sidecars_and_the_planned_memory_count() -> None:
    planned = MemoryUse(weights_bytes=GIB, cache_bytes=GIB, compute_bytes=GIB, touched_bytes=0, host_bytes=0)
    fit = estimate_fit(None, weights_bytes=GIB, sidecar_bytes=GIB, n_ctx=4096, hardware=machine(4), planned=planned)
    assert (fit.verdict, fit.method, fit.needed_bytes) == ("fits", "native", 3 * GIB)


def test_a_context_beyond_the_models_own_is_told() -> None:
    small = replace(LLAMA_8B, context_length=8192)
    fit = estimate_fit(small, weights_bytes=Q4_K_M_BYTES, n_ctx=16384, hardware=machine(32))
    assert fit.verdict == "fits"
    assert "8192 tokens" in (fit.reason or "")
    assert estimate_fit(small, weights_bytes=Q4_K_M_BYTES, n_ctx=8192, hardware=machine(32)).reason is None


def test_no_context_given_means_the_models_own() -> None:
    assert estimate_fit(LLAMA_8B, weights_bytes=Q4_K_M_BYTES, n_ctx=0, hardware=machine(8)).n_ctx == 131072
