"""Types of the KV cache: whatever llama.cpp computes with loads, and the rest is refused before it can crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modeldeck._errors import InvalidRequestError
from modeldeck.gguf.ggml_types import GGML_TYPES, type_id_of
from modeldeck.llama import load
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
        from modeldeck.llama import load
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
