"""Expected speeds, with numbers worked out by hand; and the bandwidth of this machine's memory."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from modeldeck._types import FitEstimate, FitVerdict
from modeldeck.gguf.active_weights import active_parameter_count, active_share
from modeldeck.gguf.header import TensorInfo
from modeldeck.gguf.metadata import GGUFMetadata
from modeldeck.sizing import memory_bandwidth
from modeldeck.sizing.devices import GPU
from modeldeck.sizing.hardware import Hardware
from modeldeck.sizing.memory_bandwidth import find_bandwidth, measure_bandwidth
from modeldeck.sizing.speed import (
    SpeedHistory,
    bandwidth_of_run,
    bytes_per_token,
    expected_speed,
    gpu_share,
    with_speed,
)

DENSE = GGUFMetadata(
    architecture="llama", block_count=32, embedding_length=4096, vocab_size=128256, head_count=(32,) * 32,
    head_count_kv=(8,) * 32, feed_forward_length=(14336,) * 32,
)  # fmt: skip
EXPERTS = GGUFMetadata(
    architecture="qwen3moe", block_count=48, embedding_length=2048, vocab_size=151936, head_count=(32,) * 48,
    head_count_kv=(4,) * 48, key_length=128, feed_forward_length=(6144,) * 48, expert_count=128, expert_used_count=8,
    expert_feed_forward_length=768,
)  # fmt: skip
MANY_CORES = Hardware(ram_total=1 << 40, ram_available=1 << 40, cpu_count=64)
SLOW_GPU, FAST_GPU = (GPU(name="GPU", total=1, free=1, bandwidth=rate) for rate in (500e9, 1000e9))
F32 = 0


def tensors(**shapes: tuple[int, ...]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(f"{name.replace('__', '.')}.weight", shape, F32, 0) for name, shape in shapes.items())


@pytest.mark.parametrize(
    ("metadata", "expected_share"),
    [
        (None, 1.0),
        (DENSE, 1.0),
        (EXPERTS, pytest.approx(3.2e9 / 30.2e9, rel=0.1)),
        (replace(DENSE, tensors=tensors(token_embd=(10, 100), blk__0__ffn_up=(10, 100))), 1.0),
        (replace(DENSE, tensors=tensors(token_embd=(10, 100), output=(10, 100), blk__0__ffn_up=(10, 200))), 3 / 4),
        (replace(DENSE, tensors=tensors(per_layer_token_embd=(10, 300), blk__0__ffn_up=(10, 100))), 1 / 4),
        (
            replace(EXPERTS, tensors=tensors(blk__0__ffn_up_exps=(10, 10, 128), blk__0__attn_q=(10, 80))),
            (800 + 12800 / 16) / (800 + 12800),
        ),
    ],
)
def test_only_active_weights_count(metadata: GGUFMetadata | None, expected_share: float) -> None:
    assert bytes_per_token(metadata, 10**9) / 10**9 == expected_share


@pytest.mark.parametrize(
    ("hardware", "history", "gpu_part", "expected"),
    [
        (MANY_CORES, SpeedHistory(memory_bandwidth=50e9), 0, (30, "estimated")),
        (replace(MANY_CORES, cpu_count=1), SpeedHistory(memory_bandwidth=50e9), 0, (5, "estimated")),
        (MANY_CORES, SpeedHistory(memory_bandwidth=50e9, cpu_bandwidths=(9e9, 10e9, 30e9)), 0, (10, "calibrated")),
        (MANY_CORES, SpeedHistory(cpu_bandwidths=(9e9,)), 0, (9, "calibrated")),
        (MANY_CORES, SpeedHistory(), 0, None),
        (replace(MANY_CORES, gpus=(FAST_GPU,)), SpeedHistory(), 1, (600, "estimated")),
        (replace(MANY_CORES, gpus=(FAST_GPU, SLOW_GPU)), SpeedHistory(), 1, (300, "estimated")),
        (replace(MANY_CORES, gpus=(replace(FAST_GPU, bandwidth=None),)), SpeedHistory(), 1, None),
        (replace(MANY_CORES, gpus=(FAST_GPU,)), SpeedHistory(gpu_bandwidths=(400e9,)), 1, (400, "calibrated")),
        (replace(MANY_CORES, gpus=(FAST_GPU,)), SpeedHistory(), 0.5, None),
        (
            replace(MANY_CORES, gpus=(FAST_GPU,)),
            SpeedHistory(cpu_bandwidths=(10e9,)),
            0.5,
            (1 / (0.5 / 600 + 0.5 / 10), "estimated"),
        ),
    ],
)
def test_speed_is_bandwidth_over_bytes(
    hardware: Hardware, history: SpeedHistory, gpu_part: float, expected: tuple[float, str] | None
) -> None:
    speed = expected_speed(1e9, hardware=hardware, history=history, gpu_share=gpu_part)
    assert (speed and (pytest.approx(speed.tokens_per_second), speed.source)) == expected


def test_layers_take_time_beside_their_weights() -> None:
    history = SpeedHistory(cpu_bandwidths=(10e9,))
    speed = expected_speed(1e9, hardware=MANY_CORES, history=history, gpu_share=0, layer_count=50)
    assert speed is not None
    assert speed.tokens_per_second == pytest.approx(1 / 0.105)
    assert bandwidth_of_run(speed.tokens_per_second, 1e9, 50) == pytest.approx(10e9), "the way back"
    assert bandwidth_of_run(1000, 1e6, 50) == pytest.approx(2e9), "at most half of the time"


def test_a_tiny_model_is_not_limited_by_memory() -> None:
    history = SpeedHistory(memory_bandwidth=50e9)
    assert expected_speed(1e6, hardware=MANY_CORES, history=history, gpu_share=0) is None
    assert expected_speed(1e8, hardware=MANY_CORES, history=history, gpu_share=0) is not None


def test_a_measured_file_needs_no_estimate() -> None:
    history = SpeedHistory(memory_bandwidth=50e9, tokens_per_second={"ab": 12.5})
    fit = FitEstimate(verdict="fits", n_ctx=4096)
    known, other = (
        with_speed(fit, None, weights_bytes=10**9, hardware=MANY_CORES, history=history, sha256=sha256)
        for sha256 in ("ab", "cd")
    )
    assert (known.tokens_per_second, known.speed_source) == (12.5, "measured")
    assert other.speed_source == "estimated"


@pytest.mark.parametrize("verdict", ["too_large", "unknown", "unusable"])
def test_what_does_not_run_here_has_no_speed(verdict: FitVerdict) -> None:
    fit = FitEstimate(verdict=verdict, n_ctx=4096)
    history = SpeedHistory(memory_bandwidth=50e9)
    assert with_speed(fit, DENSE, weights_bytes=10**9, hardware=MANY_CORES, history=history) == fit


def test_a_partial_fit_runs_on_both() -> None:
    hardware = replace(MANY_CORES, gpus=(FAST_GPU,))
    history = SpeedHistory(memory_bandwidth=50e9)
    fit = FitEstimate(verdict="partial", n_ctx=4096, n_gpu_layers=16)
    half = with_speed(fit, DENSE, weights_bytes=10**9, hardware=hardware, history=history)
    assert half.tokens_per_second == pytest.approx(1 / (0.5 / 600 + 0.5 / 30 + 32 * 0.0001))
    assert with_speed(fit, None, weights_bytes=10**9, hardware=hardware, history=history) == fit


@pytest.mark.parametrize(("n_gpu_layers", "expected"), [(-1, 1), (32, 1), (99, 1), (8, 0.25), (0, 0), (None, 0)])
def test_share_of_the_gpu(n_gpu_layers: int | None, expected: float) -> None:
    hardware = replace(MANY_CORES, gpus=(FAST_GPU,))
    assert gpu_share(DENSE, hardware, n_gpu_layers) == expected
    assert gpu_share(DENSE, MANY_CORES, n_gpu_layers) == 0


def test_memory_is_measured_in_a_moment_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = time.thread_time()
    measured = measure_bandwidth(1)
    assert time.thread_time() - before < 0.05
    assert measured is not None
    assert 1e8 < measured < 1e12
    monkeypatch.setattr(memory_bandwidth, "_measured", {})
    found = find_bandwidth(tmp_path / "state")
    assert found is not None
    monkeypatch.setattr(memory_bandwidth, "measure_bandwidth", None)
    monkeypatch.setattr(memory_bandwidth, "_measured", {})
    assert find_bandwidth(tmp_path / "state") == found


@pytest.mark.parametrize("damage", [b"[1, 2", b'{"\xff": 1}', b'{"a": "b"}'])
def test_a_damaged_memory_of_it_is_replaced(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "bandwidth.json").write_bytes(damage)
    found = find_bandwidth(tmp_path)
    assert found is not None
    assert find_bandwidth(tmp_path) == found
    (tmp_path / "file").touch()
    assert find_bandwidth(tmp_path / "file") == found, "it is not an error when nothing can be written"


@pytest.mark.parametrize(
    ("metadata", "count"),
    [
        (DENSE, None),
        (replace(EXPERTS, expert_used_count=None), None),
        (GGUFMetadata(architecture="qwen3moe", expert_count=128, expert_used_count=8), None),
        # Qwen3-30B-A3B, of which its authors say 3.3 billion with the embedding, that is 3.0 without it.
        (EXPERTS, pytest.approx(3.0e9, rel=0.02)),
        (
            replace(
                EXPERTS,
                tensors=tensors(
                    token_embd=(10, 100), output=(10, 100), blk__0__ffn_up_exps=(10, 10, 128), blk__0__attn_q=(10, 80)
                ),
            ),
            1000 + 800 + 12800 // 16,
        ),
    ],
)
def test_active_parameters_are_those_that_the_speed_counts(metadata: GGUFMetadata, count: int | None) -> None:
    counted = active_parameter_count(metadata)
    assert counted == count
    if counted is not None and not metadata.tensors:
        whole = active_parameter_count(replace(metadata, expert_used_count=metadata.expert_count))
        assert whole is not None
        assert active_share(metadata) == pytest.approx(counted / whole)
