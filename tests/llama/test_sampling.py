"""Logits processors and biases: they choose the tokens, and an error in one is the caller's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modeldeck._errors import InvalidRequestError
from modeldeck.llama import load
from tools.localhub.tiny_models import ANSWER

pytestmark = pytest.mark.llama

MESSAGES = [{"role": "user", "content": "What?"}]


@pytest.fixture(scope="module")
def llm(chat_model: Path) -> Iterator[Any]:
    with load(chat_model, n_threads=1, n_threads_batch=1) as llm:
        yield llm


def fail(_tokens: Any, _logits: Any) -> Any:
    raise ZeroDivisionError("a mistake in the processor")


def leave(_tokens: Any, _logits: Any) -> Any:
    raise SystemExit(3)


def favour(token: int) -> Any:
    def processor(_tokens: Any, logits: Any) -> Any:
        logits[token] += 1000
        return logits

    return processor


PROCESSORS: dict[str, tuple[Any, type[BaseException], str]] = {
    "raises": ([fail], ZeroDivisionError, "a mistake in the processor"),
    "leaves": ([leave], SystemExit, "3"),
    "raises before another one": ([fail, leave], ZeroDivisionError, "a mistake"),
    "returns too few": ([lambda _, logits: logits[:3]], InvalidRequestError, r"must return \d+ logits.*shape \(3,\)"),
    "returns nothing": ([lambda *_: None], InvalidRequestError, "must return .* not None"),
    "returns text": ([lambda *_: "abc"], InvalidRequestError, "must return .* not 'abc'"),
    "is not in a list": (fail, InvalidRequestError, "logits_processor must be"),
    "is not a function": ([7], InvalidRequestError, "logits_processor must be"),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_an_error_in_a_logits_processor_is_the_callers(llm: Any, name: str) -> None:
    from llama_cpp import LlamaGrammar

    processor, kind, reason = PROCESSORS[name]
    grammar = LlamaGrammar.from_string("root ::= [a-z ]+")
    ways = [
        lambda: llm("x", logits_processor=processor),
        lambda: list(llm("x", logits_processor=processor, stream=True)),
        lambda: llm("x", logits_processor=processor, logit_bias={5: 1.0}),
        lambda: llm("x", logits_processor=processor, grammar=grammar),
        lambda: llm.create_chat_completion(MESSAGES, logits_processor=processor),
        lambda: next(llm.generate([5], logits_processor=processor)),
    ]
    for way in ways:
        with pytest.raises(kind, match=reason):
            way()
        assert llm("What?", max_tokens=20)["choices"][0]["text"] == ANSWER


def test_a_processor_of_a_single_token_is_gone_after_its_error(chat_model: Path) -> None:
    with load(chat_model, n_threads=1, n_threads_batch=1) as llm:
        llm.eval([5])
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                llm.sample(logits_processor=[fail])
        assert llm.detokenize([llm.sample(temp=0.0)]) == b" Hello"


@pytest.mark.parametrize(
    ("bias", "reason"),
    [
        ({10**9: 5.0}, "1000000000 is not a token of this model"),
        ({"364": 5.0}, "364 is not a token"),
        ({-1: 5.0}, "-1 is not a token"),
        ({"a": 5.0}, "a number for each token, not 'a'"),
        ({1.5: 5.0}, "a number for each token, not 1.5"),
        ({5: "much"}, "a number for each token, not 5: 'much'"),
        ({5: None}, "a number for each token, not 5: None"),
        ({5: float("nan")}, "the bias of token 5 is not a number"),
        ([5], "must be a dictionary"),
    ],
)
def test_a_bias_that_the_model_cannot_have_is_refused(llm: Any, bias: Any, reason: str) -> None:
    for ask in (lambda: llm("x", logit_bias=bias), lambda: llm.create_chat_completion(MESSAGES, logit_bias=bias)):
        with pytest.raises(InvalidRequestError, match=reason):
            ask()
        assert llm("What?", max_tokens=20)["choices"][0]["text"] == ANSWER


def test_a_bias_and_processors_choose_together(llm: Any) -> None:
    from llama_cpp import LogitsProcessorList

    def first_word(**options: Any) -> str:
        return llm("x", max_tokens=1, temperature=0.0, **options)["choices"][0]["text"]

    a, b = (llm.tokenize(text, add_bos=False)[-1] for text in (b"A", b"B"))
    processors = LogitsProcessorList([favour(a)])
    assert first_word() == " Hello"
    assert first_word(logits_processor=processors) == "A"
    for bias in ({b: 2000.0}, {str(b): 2000.0}):
        assert first_word(logit_bias=bias) == "B"
        assert first_word(logit_bias=bias, logits_processor=processors) == "B"
    forbidden = {a: -2000.0}
    assert first_word(logit_bias=forbidden, logits_processor=processors) == " Hello"
    assert len(processors) == 1
