"""The tiny models are real models: plain llama-cpp-python, without any of modeldeck, gets the promised answers."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tools.localhub import tiny_models
from tools.localhub.tiny_models import ANSWER

pytestmark = pytest.mark.llama


def open_llama(path: Path, **options: Any) -> Any:
    import llama_cpp

    return closing(llama_cpp.Llama(str(path), n_ctx=256, verbose=False, **options))


@pytest.mark.parametrize("quantization", ["F32", "F16", "Q8_0", "Q4_0"])
def test_any_prompt_gets_the_answer(tmp_path: Path, quantization: Any) -> None:
    path = tiny_models.write_chat_model(tmp_path / "tiny.gguf", quantization=quantization)
    assert path.stat().st_size < 500_000
    with open_llama(path) as llm:
        for prompt in ("What?", "Tell me a t", "a tiny test model", "\n\x00é 漢字"):
            choice = llm(prompt, max_tokens=50, temperature=1.0)["choices"][0]
            assert (choice["text"], choice["finish_reason"]) == (ANSWER, "stop")
        chat = llm.create_chat_completion([{"role": "user", "content": "Hello"}])
        assert chat["choices"][0]["message"]["content"] == ANSWER
        assert chat["usage"]["completion_tokens"] == 7


def test_a_model_without_template_is_a_base_model(tmp_path: Path) -> None:
    path = tiny_models.write_chat_model(tmp_path / "base.gguf", chat_template=None)
    with open_llama(path) as llm:
        assert "tokenizer.chat_template" not in llm.metadata
        assert llm("What?")["choices"][0]["text"] == ANSWER


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    for write in (tiny_models.write_chat_model, tiny_models.write_embedding_model, tiny_models.write_projector):
        digests = {hashlib.sha256(write(tmp_path / name).read_bytes()).hexdigest() for name in ("a.gguf", "b.gguf")}
        assert len(digests) == 1, write.__name__


@pytest.mark.parametrize("size", [1_000_000, 20_000_000])
@pytest.mark.parametrize("quantization", ["F16", "Q8_0"])
def test_a_larger_file_still_answers_and_does_not_compress(tmp_path: Path, quantization: Any, size: int) -> None:
    path = tiny_models.write_chat_model(tmp_path / "big.gguf", quantization=quantization, size_bytes=size)
    assert size - 100_000 < path.stat().st_size <= size
    data = path.read_bytes()
    middle = len(data) // 2
    assert len({data[start : start + 4096] for start in range(middle, middle + 65536, 4096)}) == 16
    with open_llama(path) as llm:
        assert llm("What?", max_tokens=50)["choices"][0]["text"] == ANSWER


def test_a_split_model_loads_from_its_first_part(tmp_path: Path) -> None:
    parts = tiny_models.write_split_model(tmp_path, "split", parts=3)
    assert [part.name for part in parts] == [f"split-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert sorted(tmp_path.iterdir()) == sorted(parts)
    with open_llama(parts[0]) as llm:
        assert llm("What?")["choices"][0]["text"] == ANSWER
    with pytest.raises(ValueError, match="equal parts"):
        tiny_models.write_split_model(tmp_path, "uneven", parts=20)


def test_the_embedding_model_embeds(embedding_model: Path) -> None:
    import numpy as np

    with open_llama(embedding_model, embedding=True) as llm:
        vectors = np.array(llm.embed(["the cat sat", "the cat sat", "quantum 123"], normalize=True))
    assert vectors.shape == (3, 32)
    likeness = vectors @ vectors.T
    assert likeness[0, 1] == pytest.approx(1.0)
    assert likeness[0, 2] < 0.9


def test_the_projector_really_loads(chat_model: Path, projector: Path, red_square: str) -> None:
    from llama_cpp.llama_chat_format import Llava15ChatHandler

    handler = Llava15ChatHandler(clip_model_path=str(projector), verbose=False)
    with open_llama(chat_model, chat_handler=handler) as llm:
        content = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": red_square}}]
        answer = llm.create_chat_completion([{"role": "user", "content": content}])
    assert answer["choices"][0]["message"]["content"] == ANSWER
    assert answer["usage"]["prompt_tokens"] > 100
