"""The expected speed against a real model. Processor time decides, since other programs may be busy."""

import time
from pathlib import Path

import pytest

from modeldeck.gguf.header import read_header
from modeldeck.gguf.metadata import read_metadata
from modeldeck.llama import MeasurementStore, load
from modeldeck.sizing.hardware import Hardware
from modeldeck.sizing.memory_bandwidth import measure_bandwidth
from modeldeck.sizing.speed import SpeedHistory, bandwidth_of_run, bytes_per_token, expected_speed

pytestmark = pytest.mark.llama

TOKENS = 24
ONE_CORE = Hardware(ram_total=1 << 40, ram_available=1 << 40, cpu_count=1)


def test_the_estimate_is_within_a_factor_of_two(smollm2: Path) -> None:
    token_bytes = bytes_per_token(read_metadata(read_header(smollm2)), smollm2.stat().st_size)
    history = SpeedHistory(memory_bandwidth=measure_bandwidth(1))
    expected = expected_speed(token_bytes, hardware=ONE_CORE, history=history, gpu_share=0, layer_count=30)
    assert expected is not None
    assert expected.source == "estimated"
    with load(smollm2, n_ctx=512, n_threads=1, n_threads_batch=1) as llm:
        llm.eval([1])
        rates = []
        for _ in range(3):
            before = time.process_time()
            for token in range(TOKENS):
                llm.eval([100 + token])
            rates.append(TOKENS / (time.process_time() - before))
    assert max(rates) / 2 < expected.tokens_per_second < max(rates) * 2


def test_a_run_corrects_the_estimates_of_other_models(smollm2: Path, tmp_path: Path) -> None:
    store = MeasurementStore(tmp_path)
    with load(smollm2, n_ctx=512, measurements=store) as llm:
        llm("Hello", max_tokens=16)
    measured = store.find(smollm2)
    assert measured is not None
    history = store.speed_history()
    [bandwidth] = history.cpu_bandwidths
    assert bandwidth == pytest.approx(bandwidth_of_run(measured.tokens_per_second, smollm2.stat().st_size, 30))
    other = expected_speed(1e9, hardware=ONE_CORE, history=history, gpu_share=0)
    assert other is not None
    assert other.source == "calibrated"
    assert other.tokens_per_second == pytest.approx(bandwidth / 1e9)


def test_a_run_with_other_threads_says_nothing_about_other_models(smollm2: Path, tmp_path: Path) -> None:
    store = MeasurementStore(tmp_path)
    with load(smollm2, n_ctx=512, n_threads=1, measurements=store) as llm:
        llm("Hello", max_tokens=16)
    assert store.find(smollm2) is not None
    assert store.speed_history().cpu_bandwidths == ()
