"""The formula against llama.cpp itself, over true shapes of published models."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from modeldeck.gguf.ggml_types import type_id_of
from modeldeck.gguf.header import read_header
from modeldeck.gguf.metadata import read_metadata
from modeldeck.sizing.ask_child import ask_llama_child
from modeldeck.sizing.memory import ContextOptions, MemoryUse, memory_use
from tests.llama.fit_shapes import MODELS, Model, write_header

pytestmark = pytest.mark.llama

CONTEXTS = (512, 4096, 32768)
MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """One model with one context: what llama.cpp plans and what the formula says."""

    model: Model
    options: ContextOptions
    n_ctx: int
    planned_cache_bytes: int
    planned_compute_bytes: int
    formula: MemoryUse

    @property
    def error(self) -> float:
        planned = self.planned_cache_bytes + self.planned_compute_bytes
        return (self.formula.cache_bytes + self.formula.compute_bytes - planned) / planned

    def __str__(self) -> str:
        options = f"flash_attn={self.options.flash_attn} swa_full={self.options.swa_full}"
        return f"{self.model} {options} n_ctx={self.n_ctx}: {self.error:+.2%}"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    folder = tmp_path_factory.mktemp("shapes")
    with ThreadPoolExecutor(2) as pool:
        return [case for found in pool.map(lambda model: compare(model, folder), MODELS) for case in found]


def compare(model: Model, folder: Path) -> list[Case]:
    """All cases of a model, asked of one process: starting it is what takes the time."""
    path = write_header(model, folder)
    header = read_header(path)
    swa_choices = (True, False) if "attention.sliding_window" in model.keys else (True,)
    asked = [
        (ContextOptions(flash_attn=flash_attn, swa_full=swa_full), n_ctx)
        for flash_attn in (False, True)
        for swa_full in swa_choices
        for n_ctx in CONTEXTS
    ]
    first, *contexts = ask_llama(path, asked)
    assert first["kind"] == "model", f"{model}: {first}"
    assert first["weights_bytes"] == header.weights_bytes, "the tensors add up to what llama.cpp says"
    assert len(contexts) == len(asked), f"{model}: llama.cpp ended early"
    found: list[Case] = []
    for (options, n_ctx), planned in zip(asked, contexts, strict=True):
        formula = memory_use(read_metadata(header), weights_bytes=0, n_ctx=n_ctx, options=options)
        assert formula is not None
        compute = planned["host_compute_bytes"] + planned["device_compute_bytes"] + planned["output_bytes"]
        found.append(Case(model, options, n_ctx, planned["cache_bytes"], compute, formula))
    return found


def ask_llama(path: Path, asked: list[tuple[ContextOptions, int]]) -> list[dict[str, Any]]:
    contexts = [
        {
            "n_ctx": n_ctx,
            "n_ubatch": options.n_ubatch,
            "flash_attn": options.flash_attn,
            "swa_full": options.swa_full,
            "type_k": type_id_of(options.type_k),
            "type_v": type_id_of(options.type_v),
        }
        for options, n_ctx in asked
    ]
    request = {"kind": "model", "path": str(path), "contexts": contexts}
    reply = ask_llama_child(request, timeout_seconds=100)
    assert reply.is_complete, reply.errors
    return list(reply.answers)


def test_there_are_enough_cases(cases: list[Case]) -> None:
    assert len({case.model.architecture for case in cases}) >= 11
    assert len(cases) >= 84


def test_the_cache_is_exact_to_what_the_log_shows(cases: list[Case]) -> None:
    wrong = [
        f"{case} {case.formula.cache_bytes} {case.planned_cache_bytes}"
        for case in cases
        if case.formula.cache_bytes != pytest.approx(case.planned_cache_bytes, abs=0.02 * MIB)
    ]
    assert not wrong


def test_mean_error_is_at_most_two_percent(cases: list[Case]) -> None:
    assert mean(abs(case.error) for case in cases) <= 0.02


def test_worst_error_is_at_most_twelve_percent(cases: list[Case]) -> None:
    worst = max(cases, key=lambda case: abs(case.error))
    assert abs(worst.error) <= 0.12, str(worst)


def test_a_cpu_touches_no_more_than_is_reserved(cases: list[Case]) -> None:
    for case in cases:
        assert 0 <= case.formula.touched_bytes <= case.formula.compute_bytes, str(case)
