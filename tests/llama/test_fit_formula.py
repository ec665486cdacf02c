"""The formula against llama.cpp itself, over true shapes of published models."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import pytest

from modeldeck.fit.memory import ContextOptions, MemoryUse, memory_use
from modeldeck.fit.native import NativeAnswer, ask_about_file
from modeldeck.gguf.header import read_header
from modeldeck.gguf.metadata import read_metadata
from tests.llama.fit_shapes import MODELS, Model, write_header

pytestmark = pytest.mark.llama

CONTEXTS = (512, 4096, 32768)
MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """One model at one context: what llama.cpp plans and what the formula says."""

    model: Model
    options: ContextOptions
    n_ctx: int
    planned: MemoryUse
    formula: MemoryUse

    @property
    def error(self) -> float:
        planned = self.planned.cache_bytes + self.planned.compute_bytes
        return (self.formula.cache_bytes + self.formula.compute_bytes - planned) / planned

    def __str__(self) -> str:
        options = f"flash_attn={self.options.flash_attn} swa_full={self.options.swa_full}"
        return f"{self.model} {options} n_ctx={self.n_ctx}: {self.error:+.2%}"


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("shapes")
    return {model.name: write_header(model, folder) for model in MODELS}


@pytest.fixture(scope="module")
def cases(paths: dict[str, Path]) -> list[Case]:
    asked = [
        (model, ContextOptions(flash_attn=flash_attn, swa_full=swa_full))
        for model in MODELS
        for flash_attn in (False, True)
        for swa_full in ((True, False) if "attention.sliding_window" in model.keys else (True,))
    ]
    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda each: ask_about_file(paths[each[0].name], contexts=CONTEXTS, options=each[1]), asked)
    return [
        case
        for (model, options), answer in zip(asked, answers, strict=True)
        for case in compare(model, options, paths[model.name], answer)
    ]


def compare(model: Model, options: ContextOptions, path: Path, answer: NativeAnswer) -> list[Case]:
    assert answer.status == "ok", f"{model}: {answer.reason}"
    header = read_header(path)
    assert header.weights_bytes == answer.weights_bytes, "the tensors add up to what llama.cpp says"
    found: list[Case] = []
    for n_ctx in CONTEXTS:
        planned = answer.memory(n_ctx)
        formula = memory_use(
            read_metadata(header), weights_bytes=answer.weights_bytes or 0, n_ctx=n_ctx, options=options
        )
        assert planned is not None
        assert formula is not None
        found.append(Case(model, options, n_ctx, planned, formula))
    return found


def test_there_are_enough_cases(cases: list[Case]) -> None:
    assert len({case.model.name for case in cases}) >= 11
    assert len(cases) >= 84


def test_the_cache_is_exact_to_what_the_log_shows(cases: list[Case]) -> None:
    wrong = [
        f"{case} {case.formula.cache_bytes} {case.planned.cache_bytes}"
        for case in cases
        if case.formula.cache_bytes != pytest.approx(case.planned.cache_bytes, abs=0.02 * MIB)
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
