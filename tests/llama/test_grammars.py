"""Grammars and JSON schemas: what llama.cpp can parse constrains the answer, and the rest is refused in time."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modeldeck._errors import ChatTemplateError, InvalidRequestError
from modeldeck.llama import grammars, load
from tools.localhub.tiny_models import ANSWER

pytestmark = pytest.mark.llama

MESSAGES = [{"role": "user", "content": "What?"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
ARRAY = {"type": "array", "items": {"type": "integer"}}


def nested_schema(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


REFUSED_SCHEMAS: dict[str, dict[str, Any]] = {
    "maxLength": {"type": "string", "maxLength": 65535},
    "maxLength beyond all memory": {"type": "string", "maxLength": 10**10},
    "minLength beyond all memory": {"type": "string", "minLength": 10**10},
    "maxItems": {**ARRAY, "maxItems": 100_000},
    "maxItems beyond all memory": {**ARRAY, "maxItems": 10**10},
    "minItems beyond all memory": {**ARRAY, "minItems": 10**10},
    "pattern": {"type": "string", "pattern": "^a{0,100000}$"},
    "patterns in patterns": {"type": "string", "pattern": "^((a{0,1000}){0,1000}){0,1000}$"},
}

REFUSED_GRAMMARS = {
    "30,000 brackets": "root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000,
    "brackets to the right": "root ::= " + '("a" ' * 30_000 + '"b"' + ")" * 30_000,
    "a chain of rules": "".join(f"r{n} ::= r{n + 1}\n" for n in range(200_000)) + 'r200000 ::= "a"\nroot ::= r0',
    "rules that are visited 2^64 times": "".join(f"r{n} ::= r{n + 1} | r{n + 1}\n" for n in range(64))
    + 'r64 ::= "a"\nroot ::= r0',
    "a repeated long literal": 'root ::= "' + "abcdefgh" * 100_000 + '"{2000}',
    "too many repetitions": 'root ::= "a"{1000000}',
    "a repetition of repetitions": 'root ::= (("a"{0,1000}){0,1000}){0,1000}',
    "more ways to continue than memory": "".join(f'r{n} ::= ("a" (r{n + 1})?)? r{n + 1}\n' for n in range(40))
    + 'r40 ::= "a"?\nroot ::= r0',
    "an unknown token": "root ::= <no such token>",
    "an undefined rule": "root ::= a",
    "an open bracket": 'root ::= ("a"',
    "left recursion": 'root ::= root "a"',
    "no root": 'a ::= "a"',
}

ENDLESS = {"patterns in patterns", "rules that are visited 2^64 times", "more ways to continue than memory"}
"""They are stopped when their time is over, which is shorter here than in use."""


def trial_seconds(name: str) -> float:
    return 2.0 if name in ENDLESS else grammars.TRIAL_SECONDS


@pytest.fixture(scope="module")
def smol(smollm2: Path) -> Iterator[Any]:
    with load(smollm2, n_ctx=1024, n_threads=1) as llm:
        yield llm


@pytest.fixture(scope="module")
def llm(chat_model: Path) -> Iterator[Any]:
    with load(chat_model, n_threads=1, n_threads_batch=1) as llm:
        yield llm


@pytest.mark.parametrize(
    ("name", "way"),
    [
        *((name, "response_format") for name in REFUSED_SCHEMAS),
        ("maxItems", "tools"),
        ("maxItems", "chatml-function-calling"),
    ],
)
def test_a_schema_that_is_too_large_is_refused(run_child: Any, chat_model: Path, name: str, way: str) -> None:
    outcome = run_child(
        """
        from modeldeck._errors import ChatTemplateError, InvalidRequestError
        from modeldeck.llama import grammars, load
        grammars.TRIAL_SECONDS = trial_seconds
        llm = load(path, n_threads=1, n_threads_batch=1, chat_format=way if way.startswith("chatml") else None)
        if way == "response_format":
            options = {"response_format": {"type": "json_object", "schema": schema}}
        else:
            tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
            options = {"tools": [tool], "tool_choice": {"type": "function", "function": {"name": "f"}}}
        for stream in (False, True):
            try:
                list(llm.create_chat_completion([{"role": "user", "content": "x"}], stream=stream, **options))
                print("answered")
            except InvalidRequestError as error:
                print("refused", error.message[:200].replace("\\n", " "))
        print(llm("x", max_tokens=20)["choices"][0]["text"])
        """,
        path=chat_model,
        schema=REFUSED_SCHEMAS[name],
        way=way,
        trial_seconds=trial_seconds(name),
    )
    assert outcome.exit_code == 0, outcome.output[-2000:]
    assert [line.split()[0] for line in outcome.lines[:-1]] == ["refused", "refused"], outcome.output[-2000:]
    assert outcome.lines[-1] == ANSWER


@pytest.mark.parametrize("name", REFUSED_GRAMMARS)
def test_a_grammar_that_llama_cpp_cannot_parse_is_refused(run_child: Any, chat_model: Path, name: str) -> None:
    outcome = run_child(
        """
        from llama_cpp import LlamaGrammar
        from modeldeck._errors import ChatTemplateError, InvalidRequestError
        from modeldeck.llama import grammars, load
        grammars.TRIAL_SECONDS = trial_seconds
        llm = load(path, n_threads=1, n_threads_batch=1)
        grammar = LlamaGrammar.from_string(text, verbose=False)
        ways = [
            lambda: llm("x", grammar=grammar),
            lambda: list(llm("x", grammar=grammar, stream=True)),
            lambda: llm.create_chat_completion([{"role": "user", "content": "x"}], grammar=grammar),
            lambda: next(llm.generate([5], grammar=grammar)),
            lambda: (llm.eval([5]), llm.sample(grammar=grammar)),
        ]
        for way in ways if every_way else ways[:1]:
            try:
                way()
            except InvalidRequestError as error:
                print("refused", error.message[:300].replace("\\n", " "))
        print(llm("x", max_tokens=20)["choices"][0]["text"])
        """,
        path=chat_model,
        text=REFUSED_GRAMMARS[name],
        every_way=name == "30,000 brackets",
        trial_seconds=trial_seconds(name),
    )
    assert outcome.exit_code == 0, outcome.output[-2000:]
    refusals = [line for line in outcome.lines if line.startswith("refused The grammar ")]
    assert len(refusals) == (5 if name == "30,000 brackets" else 1), outcome.output[-2000:]
    assert not any("/" in refusal.split("See llama.cpp")[0] for refusal in refusals)
    assert outcome.lines[-1] == ANSWER


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"city": {"type": "string", "maxLength": 40}}, "required": ["city"]},
        {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 30},
        {"anyOf": [{"const": number} for number in range(500)]},
        {"type": "string", "minLength": 3, "maxLength": 500},
        {"$defs": {"a": {"type": "integer"}}, "type": "array", "items": {"$ref": "#/$defs/a"}, "maxItems": 3},
        nested_schema(30),
    ],
)
def test_a_usual_schema_constrains_the_answer(smol: Any, schema: dict[str, Any]) -> None:
    options = {"response_format": {"type": "json_object", "schema": schema}, "max_tokens": 300, "temperature": 0.0}
    answer = smol.create_chat_completion([{"role": "user", "content": "Answer in JSON."}], **options)["choices"][0]
    text = answer["message"]["content"]
    if answer["finish_reason"] == "stop":
        assert isinstance(json.loads(text, strict=False), dict | list | int | str)
    assert text.startswith({"object": "{", "array": "[", "string": '"'}.get(schema.get("type", ""), text[:1]))


@pytest.mark.parametrize("way", ["text", "images", "chatml-function-calling"])
def test_a_schema_in_the_form_of_openai_constrains_the_answer(chat_model: Path, projector: Path, way: str) -> None:
    options = {"mmproj": projector} if way == "images" else {"chat_format": way} if way.startswith("chatml") else {}
    response_format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"const": 17}}}
    with load(chat_model, n_threads=1, n_threads_batch=1, **options) as llm:
        for format_ in (response_format, {"type": "json_object", "schema": {"const": 17}}):
            answer = llm.create_chat_completion(MESSAGES, response_format=format_, max_tokens=20)["choices"][0]
            assert answer["message"]["content"].strip() == "17"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"response_format": "json_object"}, "response_format must be a dictionary"),
        ({"response_format": {}}, "response_format must be a dictionary"),
        ({"response_format": {"type": "xml"}}, "response_format must be a dictionary"),
        ({"response_format": {"type": "json_schema"}}, "must have a schema"),
        ({"response_format": {"type": "json_schema", "schema": {"type": "integer"}}}, "must have a schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": "integer"}}}, "must have a schema"),
        ({"tool_choice": "required", "tools": [TOOL]}, "cannot follow tool_choice='required'. Name the tool"),
        ({"tool_choice": {"name": "f"}, "tools": [TOOL]}, "cannot follow tool_choice.* Name the tool"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tools has none"),
    ],
)
def test_what_llama_cpp_python_would_ignore_is_refused(llm: Any, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        llm.create_chat_completion(MESSAGES, **options)
    answer = llm.create_chat_completion(MESSAGES, tools=[TOOL], tool_choice="auto", response_format={"type": "text"})
    assert answer["choices"][0]["message"]["content"] == ANSWER


def test_a_grammar_may_name_tokens_of_the_model(smol: Any) -> None:
    from llama_cpp import LlamaGrammar

    grammar = LlamaGrammar.from_string('root ::= "<yes> [x" | <|im_end|> "no" # <not a token>')
    assert smol("Hello", grammar=grammar, max_tokens=10)["choices"][0]["text"] in ("<yes> [x", "no")


def test_a_process_that_cannot_be_started_is_not_blamed_on_the_request(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama_cpp import LlamaGrammar

    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    grammar = LlamaGrammar.from_string('root ::= "never tried"', verbose=False)
    schema = {"type": "json_object", "schema": {"const": "never tried"}}
    reason = r"could not be (tried|rendered)\. The process cannot be started: No such file or directory\. Close files"
    with load(chat_model, n_threads=1, n_threads_batch=1, chat_format="chatml") as llm:
        with pytest.raises(InvalidRequestError, match=f"The grammar {reason}"):
            llm("x", grammar=grammar)
        with pytest.raises(InvalidRequestError, match=f"The JSON schema {reason}"):
            llm.create_chat_completion(MESSAGES, response_format=schema)
    with (
        load(chat_model, n_threads=1, n_threads_batch=1) as llm,
        pytest.raises(ChatTemplateError, match=f"The chat template {reason}"),
    ):
        llm.create_chat_completion(MESSAGES)


def test_values_that_python_cannot_nest_are_refused(llm: Any) -> None:
    schema = nested_schema(5000)
    for options in ({"response_format": {"type": "json_object", "schema": schema}}, {"tools": [schema]}):
        with pytest.raises(InvalidRequestError, match="nested too deeply"):
            llm.create_chat_completion(MESSAGES, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"typical_p": -1.0},
        {"temperature": float("inf")},
        {"frequency_penalty": float("nan")},
        {"repeat_penalty": 0.0},
        {"logit_bias": dict.fromkeys(range(360), -float("inf"))},
        {"mirostat_mode": 2, "mirostat_tau": float("nan")},
    ],
)
def test_options_that_exclude_each_token_do_not_cost_the_model(chat_model: Path, options: dict[str, Any]) -> None:
    with load(chat_model, n_threads=1, n_threads_batch=1) as llm:
        with contextlib.suppress(InvalidRequestError):  # or it answers: some of them leave a token
            llm.create_chat_completion(MESSAGES, max_tokens=5, response_format={"type": "json_object"}, **options)
        assert llm("What?", max_tokens=20)["choices"][0]["text"] == ANSWER


@pytest.mark.parametrize("grammar", ['root ::= "a"', 7, object()])
def test_a_grammar_of_another_type_is_refused(llm: Any, grammar: object) -> None:
    with pytest.raises(InvalidRequestError, match=r"must be a llama_cpp\.LlamaGrammar"):
        llm("x", grammar=grammar)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"$ref": "https://127.0.0.1:9/nowhere"}, "Fetching remote schemas is not allowed"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/missing"}}}, "Error resolving ref"),
        ({"type": "string", "pattern": "[a-z]+"}, "Pattern must start with"),
    ],
)
def test_a_schema_that_the_converter_does_not_know_allows_any_json_and_says_so(
    llm: Any, schema: dict[str, Any], reason: str
) -> None:
    """llama-cpp-python then constrains the answer to any JSON, and the tiny model's usual answer is not JSON."""
    options = {"response_format": {"type": "json_object", "schema": schema}, "max_tokens": 5}
    with pytest.warns(UserWarning, match=f"cannot convert the JSON schema .*{reason}.* any JSON is allowed") as warned:
        assert llm.create_chat_completion(MESSAGES, **options)["choices"][0]["message"]["content"] != ANSWER
    assert [warning.filename for warning in warned] == [__file__]
    with pytest.warns(UserWarning, match="any JSON is allowed"):
        list(llm.create_chat_completion(MESSAGES, stream=True, **options))
    assert llm("What?", max_tokens=20)["choices"][0]["text"] == ANSWER
