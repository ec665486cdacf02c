"""Types of the KV cache: whatever llama.cpp computes with loads, and the rest is refused before it can crash."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from modeldeck._errors import InvalidRequestError, LoadFailedError
from modeldeck.gguf.ggml_types import GGML_TYPES, type_id_of
from modeldeck.llama import cache_types, load, vision
from modeldeck.llama.model_file import inspect_model
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.llama


@pytest.mark.parametrize(("name", "flash_attn"), [("q8_0", True), ("bf16", False)])
def test_a_cache_type_with_a_kernel_is_used(smollm2: Path, name: str, flash_attn: bool) -> None:
    type_id = type_id_of(name)
    with load(smollm2, n_ctx=512, n_threads=1, type_k=type_id, type_v=type_id, flash_attn=flash_attn) as llm:
        assert llm.context_params.type_k == llm.context_params.type_v == type_id
        text = llm("The capital of France is", max_tokens=5, temperature=0.0)["choices"][0]["text"]
    assert "Paris" in text


@pytest.mark.parametrize(
    ("option", "name"), [("type_k", "i8"), ("type_v", "i16"), ("type_k", "f64"), ("type_v", "q8_1")]
)
def test_a_cache_type_without_a_kernel_is_refused(smollm2: Path, option: str, name: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"cannot compute with .*{option}={name.upper()}"):
        load(smollm2, n_ctx=512, n_threads=1, **{option: type_id_of(name)})


def test_no_cache_type_ends_the_process(run_child: Any, smollm2: Path) -> None:
    """Each type that loads also generates, so none needs to be known beforehand."""
    outcome = run_child(
        """
        from modeldeck._errors import ModelDeckError
        from modeldeck.llama import cache_types, load, vision
        counts = {True: 0, False: 0}
        for type_id in types:
            try:
                with load(smollm2, n_ctx=256, n_threads=1, type_k=type_id) as llm:
                    llm("Hello", max_tokens=1)
                counts[True] += 1
            except ModelDeckError:
                counts[False] += 1
        print(counts[True], counts[False])
        """,
        smollm2=smollm2,
        types=list(GGML_TYPES),
        timeout=PATIENCE_SECONDS,
    )
    assert outcome.exit_code == 0, outcome.output
    usable, refused = map(int, outcome.output.split())
    assert usable >= 7
    assert refused >= 9


TRIALS_WITHOUT_ANSWER = {
    "ends with an error": ("def answer(request): raise OSError('no room')", "OSError: no room"),
    "is killed": ("import os, signal\ndef answer(request): os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    "does not answer": ("import time\ndef answer(request): time.sleep(1000)", r"did not answer within 0\.5 seconds"),
    "does not start": ("", "cannot be started: No such file"),
}


@pytest.fixture(params=TRIALS_WITHOUT_ANSWER)
def failed_trial(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A program whose child process gives no answer, and why."""
    code, reason = TRIALS_WITHOUT_ANSWER[request.param]
    program = tmp_path / "program.py"
    program.write_text(code)
    if not code:
        monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    return program, reason


def test_a_cache_type_that_could_not_be_tried_is_not_taken_for_usable(
    smollm2: Path, failed_trial: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, reason = failed_trial
    metadata = inspect_model(smollm2).metadata
    options = {"type_k": type_id_of("i32"), "flash_attn": True, "n_gpu_layers": 0}
    monkeypatch.setattr(cache_types, "_PROGRAM", program)
    monkeypatch.setattr(cache_types, "_TIMEOUT_SECONDS", 0.5 if "within" in reason else PATIENCE_SECONDS)
    with pytest.raises(LoadFailedError, match=f"type_k=I32 and type_v=F16 could not be tried here: .*{reason}"):
        cache_types.check_cache_types(metadata, options, lambda: None)


@pytest.mark.parametrize("failed_trial", ["ends with an error", "is killed", "does not start"], indirect=True)
def test_a_projector_that_could_not_be_tried_is_not_taken_for_safe(
    chat_model: Path, projector: Path, failed_trial: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, reason = failed_trial
    monkeypatch.setattr(vision, "_PROGRAM", program)
    monkeypatch.setattr(vision, "_safe_projectors", set())
    with pytest.raises(LoadFailedError, match=f"{projector.name} could not be tried here: .*{reason}"):
        vision.try_projector(chat_model, projector, lambda: None)
    assert not vision._safe_projectors
