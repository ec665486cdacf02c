"""Which variant is recommended: rules by hand, then recorded repositories on five machines."""

import json
from pathlib import Path

import pytest

from modeldeck._types import FitEstimate, FitVerdict, GGUFFile, ReasonCode, RecommendationReason, Variant
from modeldeck.gguf.metadata import GGUFMetadata
from modeldeck.gguf.names import group_variants, label_of, quantization_of
from modeldeck.sizing.devices import GPU
from modeldeck.sizing.estimate import estimate_fit
from modeldeck.sizing.hardware import Hardware
from modeldeck.sizing.recommend import Recommendation, recommend
from modeldeck.sizing.speed import SpeedHistory, with_speed

REPOSITORIES = Path(__file__).parents[1] / "data" / "repos"
GIB = 1 << 30
BILLION = 10**9


def variant(name: str, size: int | None = None) -> Variant:
    return Variant(
        variant_id=name,
        label=label_of(name) or name,
        quantization=quantization_of(name),
        files=(GGUFFile(filename=name, size=size),),
    )


def chosen(recommendation: Recommendation | None) -> str | None:
    return None if recommendation is None else recommendation.variant_id


def fits(**verdicts: FitVerdict) -> dict[str, FitEstimate]:
    return {f"m-{label}.gguf": FitEstimate(verdict=verdict, n_ctx=4096) for label, verdict in verdicts.items()}


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ({"Q8_0": "too_large", "Q6_K": "fits", "Q4_K_M": "fits", "Q2_K": "fits"}, "m-Q6_K.gguf"),
        ({"F32": "fits", "BF16": "fits", "Q8_0": "fits"}, "m-BF16.gguf"),
        ({"F32": "too_large", "Q8_0": "unknown", "Q4_K_M": "unknown"}, "m-Q4_K_M.gguf"),
        ({"Q8_0": "partial", "Q4_K_M": "partial", "Q2_K": "partial"}, "m-Q4_K_M.gguf"),
        ({"Q8_0": "unknown", "Q6_K": "unknown"}, "m-Q8_0.gguf"),
        ({"Q6_K": "unknown", "Q5_K_M": "unknown"}, "m-Q6_K.gguf"),
        ({"Q6_K": "too_large", "Q5_K_M": "too_large"}, None),
        ({"IQ4_KS": "fits", "Q4_0_4_4": "fits", "Q3_K_M": "fits"}, "m-Q3_K_M.gguf"),
        ({"Q8_0": "unusable", "Q6_K": "fits"}, "m-Q6_K.gguf"),
        ({"Q8_0": "unusable"}, None),
        ({}, None),
    ],
)
def test_recommendation(verdicts: dict[str, FitVerdict], expected: str | None) -> None:
    size = {"F32": 32, "BF16": 16}
    variants = [variant(f"m-{label}.gguf", size.get(label, 1)) for label in verdicts]
    assert chosen(recommend(variants, fits(**verdicts))) == expected


SIZES_OF_8B = {
    "F32": 32, "BF16": 16, "F16": 16, "Q8_0": 8.5, "Q6_K": 6.6, "Q5_K_M": 5.7, "Q4_K_M": 4.9, "IQ4_XS": 4.4,
    "Q4_0": 4.6, "Q3_K_M": 4.0, "Q2_K": 3.2, "IQ1_S": 2.0, "unknown": 5.0,
}  # fmt: skip


def of_8b(scale: float, **speeds: float | None) -> tuple[list[Variant], dict[str, FitEstimate]]:
    """Variants that fit, with these speeds. Their sizes are those of a model with 8 billion parameters, scaled."""
    names = {label: f"m-{label}.gguf" for label in speeds}
    variants = [variant(name, int(SIZES_OF_8B[label] * scale * BILLION)) for label, name in names.items()]
    estimates = {
        names[label]: FitEstimate(verdict="fits", n_ctx=4096, tokens_per_second=speed)
        for label, speed in speeds.items()
    }
    return variants, estimates


@pytest.mark.parametrize(
    ("scale", "speeds", "expected", "code"),
    [
        (1, {"Q8_0": 7.9, "Q6_K": 8.0, "Q4_K_M": 12}, "Q6_K", "reading_pace"),
        (1, {"BF16": 20, "Q8_0": 40, "Q4_K_M": 70}, "Q8_0", "reading_pace"),
        (1, {"Q8_0": 2, "Q5_K_M": 3, "Q4_K_M": 4, "IQ4_XS": 5, "Q3_K_M": 6}, "IQ4_XS", "fastest"),
        (1, {"Q8_0": 2, "Q5_K_M": 3.9, "Q4_K_M": 4.1, "IQ4_XS": 4.4, "Q3_K_M": 6}, "Q4_K_M", "fastest"),
        (1, {"Q6_K": 3, "Q5_K_M": 4, "Q3_K_M": 6}, "Q5_K_M", "fastest"),
        (1, {"Q8_0": 2, "Q4_K_M": 4, "Q3_K_M": 8, "IQ1_S": 15}, "Q4_K_M", "fastest"),
        (1, {"Q3_K_M": 7, "Q2_K": 9, "IQ1_S": 14}, "Q2_K", "reading_pace"),
        (1, {"Q3_K_M": 5, "Q2_K": 6, "IQ1_S": 7}, "Q3_K_M", "slow"),
        (1, {"BF16": 2, "Q2_K": 4}, "Q2_K", "slow"),
        (1, {"BF16": 2}, "BF16", "only_unquantized"),
        (1, {"F32": 9, "BF16": 18}, "BF16", "only_unquantized"),
        (1, {"Q8_0": None, "Q4_K_M": None}, "Q8_0", "best_that_fits"),
        (1, {"BF16": None, "Q8_0": None}, "Q8_0", "best_that_fits"),
        (1, {"unknown": 5, "Q8_0": 3, "Q2_K": 7}, "unknown", "fastest"),
        (0.1, {"F32": 20, "BF16": 40, "Q8_0": 80, "Q4_K_M": 140}, "BF16", "small_model"),
        (0.1, {"BF16": 7, "Q8_0": 14, "Q4_K_M": 20}, "Q8_0", "reading_pace"),
    ],
)
def test_the_rule(scale: float, speeds: dict[str, float | None], expected: str, code: ReasonCode) -> None:
    recommendation = recommend(*of_8b(scale, **speeds))
    assert recommendation is not None
    assert recommendation.variant_id == f"m-{expected}.gguf"
    assert recommendation.reason.code == code
    assert recommendation.reason.tokens_per_second == speeds[expected]


def test_without_any_known_label_it_is_the_largest_that_answers_in_time() -> None:
    variants = [variant(f"{name}.gguf", size) for name, size in (("small", 1), ("large", 9), ("middle", 5))]
    estimates = {
        f"{name}.gguf": FitEstimate(verdict="fits", n_ctx=4096, tokens_per_second=speed)
        for name, speed in (("small", 45), ("large", 5), ("middle", 9))
    }
    assert chosen(recommend(variants, estimates)) == "middle.gguf"
    unknown = {name: FitEstimate(verdict="fits", n_ctx=4096) for name in estimates}
    assert chosen(recommend(variants, unknown)) == "large.gguf"


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (
            RecommendationReason(code="reading_pace", tokens_per_second=12.3),
            "The best quality that still answers at reading pace on this machine: about 12 tokens/s.",
        ),
        (
            RecommendationReason(code="fastest", tokens_per_second=0.42, reading_pace=8),
            "No variant answers at reading pace (8 tokens/s) on this machine. This one is the fastest of good quality: "
            "about 0.4 tokens/s.",
        ),
        (
            RecommendationReason(code="only_unquantized"),
            "No quantized variant fits or exists, so this is the only choice.",
        ),
        (RecommendationReason(code="small_model"), "The model is small enough to run without quantization."),
    ],
)
def test_a_reason_is_a_sentence(reason: RecommendationReason, text: str) -> None:
    assert reason.text == text


def machine(ram: float, cores: int, *gpus: tuple[float, float]) -> Hardware:
    """Memory that is free in GiB, processors, and for each GPU its memory in GiB and its bandwidth in bytes/s."""
    return Hardware(
        ram_total=int(ram * GIB),
        ram_available=int(ram * GIB),
        cpu_count=cores,
        gpus=tuple(
            GPU(name="GPU", total=int(memory * GIB), free=int(memory * GIB), bandwidth=bandwidth)
            for memory, bandwidth in gpus
        ),
    )


MACHINES = {
    "binder": (machine(1.7, 1), SpeedHistory(memory_bandwidth=12e9)),
    "laptop": (machine(11, 8), SpeedHistory(memory_bandwidth=60e9)),
    "workstation": (machine(58, 16), SpeedHistory(memory_bandwidth=85e9)),
    "gpu": (machine(28, 16, (23.5, 1008e9)), SpeedHistory(memory_bandwidth=60e9)),
    "server": (machine(250, 32, (79, 2039e9), (79, 2039e9)), SpeedHistory(memory_bandwidth=200e9)),
}

EXPERTS = {
    "unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF": GGUFMetadata(
        architecture="qwen3moe", block_count=48, embedding_length=2048, vocab_size=151936, context_length=262144,
        feed_forward_length=(6144,) * 48, head_count=(32,) * 48, head_count_kv=(4,) * 48, key_length=128,
        value_length=128, expert_count=128, expert_used_count=8, expert_feed_forward_length=768,
    ),
    "unsloth/gpt-oss-20b-GGUF": GGUFMetadata(
        architecture="gpt-oss", block_count=24, embedding_length=2880, vocab_size=201088, context_length=131072,
        feed_forward_length=(2880,) * 24, head_count=(64,) * 24, head_count_kv=(8,) * 24, key_length=64,
        value_length=64, expert_count=32, expert_used_count=4, expert_feed_forward_length=2880, sliding_window=128,
    ),
}  # fmt: skip
"""The dimensions of the mixtures of experts, from their published configurations."""


def recorded_variants(repo_id: str) -> tuple[Variant, ...]:
    record = json.loads((REPOSITORIES / f"{repo_id.replace('/', '--')}.json").read_text())
    return group_variants(
        GGUFFile(filename=file["path"], size=file.get("size") or size_of(file["size_rounded"]))
        for file in record["gguf_files"]
    ).variants


def size_of(text: str) -> int:
    """The pages round to a tenth of a GiB, and write GB."""
    number, unit = text.split()
    return int(float(number) * {"kB": 1 << 10, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}[unit])


def label_on(repo_id: str, name: str) -> str | None:
    hardware, history = MACHINES[name]
    metadata = EXPERTS.get(repo_id)
    variants = recorded_variants(repo_id)
    estimates = {
        each.variant_id: with_speed(
            estimate_fit(metadata, weights_bytes=each.model_size, n_ctx=4096, hardware=hardware),
            metadata,
            weights_bytes=each.model_size,
            hardware=hardware,
            history=history,
        )
        for each in variants
    }
    recommendation = recommend(variants, estimates)
    return next((each.label for each in variants if each.variant_id == chosen(recommendation)), None)


EXPECTED = {
    # repository: (2 GB Binder, 16 GB laptop, 64 GB workstation, 24 GB GPU, 2 GPUs of 80 GB)
    "AtomicChat/Qwen3.8-27B-GGUF": (None, "IQ2_XS", "Q4_K_M", "Q5_K_M", "Q8_0"),
    "LiquidAI/LFM2.5-1.2B-Instruct-GGUF": ("Q4_K_M", "Q8_0", "Q8_0", "Q8_0", "Q8_0"),
    "Qwen/Qwen2.5-0.5B-Instruct-GGUF": ("Q5_K_M", "fp16", "fp16", "fp16", "fp16"),
    "Qwen/Qwen2.5-7B-Instruct-GGUF": (None, "Q4_K_M", "Q6_K", "Q8_0", "Q8_0"),
    "Qwen/Qwen3-8B-GGUF": (None, "Q4_K_M", "Q5_K_M", "Q8_0", "Q8_0"),
    "bartowski/Llama-3.2-1B-Instruct-GGUF": ("IQ4_XS", "Q8_0", "Q8_0", "Q8_0", "Q8_0"),
    "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF": (None, "IQ4_XS", "Q5_K_L", "Q8_0", "Q8_0"),
    "ggml-org/embeddinggemma-300M-GGUF": ("Q8_0", "Q8_0", "Q8_0", "Q8_0", "Q8_0"),
    "ggml-org/gemma-3-4b-it-GGUF": (None, "Q8_0", "Q8_0", "Q8_0", "Q8_0"),
    "ggml-org/gpt-oss-20b-GGUF": (None, None, "MXFP4", "MXFP4", "MXFP4"),
    "lmstudio-community/Qwen3.8-27B-GGUF": (None, None, "Q4_K_M", "Q6_K", "Q8_0"),
    "ubergarm/DeepSeek-R1-0528-GGUF": (None, None, None, None, "IQ1_S"),
    "unsloth/Kimi-K3-GGUF": (None, None, None, None, None),
    "unsloth/Qwen3-0.6B-GGUF": ("UD-Q6_K_XL", "BF16", "BF16", "BF16", "BF16"),
    "unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF": (None, "UD-IQ2_XXS", "UD-Q8_K_XL", "UD-Q5_K_XL", "UD-Q8_K_XL"),
    "unsloth/Qwen3.8-27B-GGUF": (None, "UD-Q2_K_XL", "UD-IQ4_XS", "UD-Q6_K", "UD-Q8_K_XL"),
    "unsloth/gpt-oss-20b-GGUF": (None, None, "UD-Q8_K_XL", "UD-Q8_K_XL", "UD-Q8_K_XL"),
}


@pytest.mark.parametrize("repo_id", EXPECTED)
def test_recorded_repositories_on_five_machines(repo_id: str) -> None:
    assert tuple(label_on(repo_id, name) for name in MACHINES) == EXPECTED[repo_id]
