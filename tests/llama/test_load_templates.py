"""Chat templates render as in llama-cpp-python, and a hostile one cannot do harm."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modeldeck._errors import ChatTemplateError, InvalidRequestError
from modeldeck.llama import load
from modeldeck.llama.chat import render_messages
from modeldeck.llama.templates import TemplateRenderer
from tests.waiting import AT_ONCE_SECONDS, PATIENCE_SECONDS
from tools.localhub import tiny_models
from tools.localhub.tiny_models import ANSWER

pytestmark = pytest.mark.llama

MESSAGES = [
    {"role": "system", "content": "Be <brief> & 'kind'."},
    {"role": "user", "content": "Wie geht's? 漢字 \u2028"},
]

HOSTILE = {
    "endless loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "memory": "{{ 'a' * 10 ** 10 }}",
    "memory in steps": "{% set n = namespace(t='a') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
    "huge number": "{{ 10 ** (10 ** 9) }}",
    "huge width": "{{ '%0999999999d' % 1 }}",
    "long prompt": "{% for a in range(9999) %}{{ 'x' * 1000 }}{% endfor %}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "deep nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "escape": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "syntax error": "{% for %}",
    "unknown filter": "{{ messages | nonsense }}",
    "undefined": "{{ nothing.at.all }}",
    "refusal": "{{ raise_exception('Roles must alternate') }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_an_error_of_the_chat_only(run_child: Any, tmp_path: Path, name: str) -> None:
    path = tiny_models.write_chat_model(tmp_path / "hostile.gguf", chat_template=HOSTILE[name])
    outcome = run_child(
        """
        import psutil, resource, time
        from modeldeck.llama import load
        llm = load(path, n_threads=1, n_threads_batch=1)
        llm._execution.renderer._max_seconds = 1.0
        for _ in range(2):
            try:
                print(llm.create_chat_completion([{"role": "user", "content": "x"}])["choices"])
            except Exception as error:
                print(type(error).__name__, error)
        print(psutil.Process().memory_info().rss >> 20)
        print(llm("x", max_tokens=20)["choices"][0]["text"])
        """,
        path=path,
    )
    assert outcome.exit_code == 0, outcome.output
    first, second, megabytes, answer = outcome.lines
    for refusal in (first, second):
        assert refusal.startswith("ChatTemplateError The model's chat template failed: ")
    assert int(megabytes) < 400
    assert answer == ANSWER


@pytest.mark.parametrize(
    "template",
    [
        tiny_models.CHAT_TEMPLATE,
        "{{ messages | tojson }}{{ tools | tojson(indent=2) }}",
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}\n  {% endfor %}\n{{ x }}",
        "{% generation %}{{ messages[0]['content'] }}{% endgeneration %}{{ strftime_now('%Y') }}",
        "{%- set a = namespace(n=0) -%}{%- for m in messages -%}{%- set a.n = a.n + 1 -%}{{ a.n }}{%- endfor -%}",
        "{{ messages[0].content | trim }}{{ thinking if thinking is defined }}{{ tools[0].function.name }}",
    ],
)
def test_prompts_are_those_of_llama_cpp_python(template: str) -> None:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    theirs = Jinja2ChatFormatter(template, eos_token="</s>", bos_token="<s>")
    variables = {"messages": MESSAGES, "tools": tools, "thinking": True}
    expected = theirs(**variables).prompt  # type: ignore[arg-type]
    renderer = TemplateRenderer()
    tokens = {"eos_token": "</s>", "bos_token": "<s>", "add_generation_prompt": True}
    assert renderer.render(template, {**variables, **tokens}) == expected
    renderer.close()


def test_a_real_template_and_tools(smollm2: Path) -> None:
    with load(smollm2, n_ctx=512, n_threads=1, n_threads_batch=1) as llm:
        question = [{"role": "user", "content": "What is the capital of France? One word."}]
        answer = llm.create_chat_completion(question, max_tokens=20, temperature=0.0)
        assert "Paris" in answer["choices"][0]["message"]["content"]
        assert answer["usage"]["prompt_tokens"] > 20


PARTS = [{"type": "text", "text": "What is"}, {"type": "text", "text": " this?"}]
TEMPLATES = {
    "prints the content": "{% for m in messages %}{{ m.content }}|{% endfor %}",
    "trims the content": "{% for m in messages %}{{ m['content'] | trim }}|{% endfor %}",
    "adds to the content": "{% for m in messages %}{{ m['content'] + '|' }}{% endfor %}",
    "writes json": "{% for m in messages %}{{ m['content'] | tojson }}|{% endfor %}",
    "skips what is not text": "{% for m in messages if m.content is string %}{{ m.content }}|{% endfor %}",
    "knows parts": "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% elif m.content %}"
    "{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endif %}|{% endfor %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_contents_in_parts_and_none_reach_every_template_as_text(name: str) -> None:
    renderer = TemplateRenderer()
    messages = [{"role": "user", "content": PARTS}, {"role": "assistant", "content": None}]
    prompt = render_messages(renderer, TEMPLATES[name], messages, {})
    renderer.close()
    assert prompt.count("|") == 2
    assert prompt.index("What is") < prompt.index("this?")
    assert "type" not in prompt
    assert "None" not in prompt
    assert ("<" in prompt) == (name == "knows parts")


def test_messages_in_parts_are_answered(chat_model: Path) -> None:
    for options in ({}, {"chat_format": "chatml"}, {"chat_format": "llama-2"}):
        with load(chat_model, n_threads=1, n_threads_batch=1, **options) as llm:
            messages = [{"role": "user", "content": PARTS}, {"role": "assistant", "content": None}, *MESSAGES[1:]]
            answer = llm.create_chat_completion(messages)
            plain = llm.create_chat_completion(
                [{"role": "user", "content": "What is\n this?"}, {"role": "assistant", "content": ""}, *MESSAGES[1:]]
            )
            assert answer["choices"][0]["message"]["content"] == ANSWER
            assert answer["usage"] == plain["usage"]
            for kind in ("image_url", "input_audio"):
                content = [*PARTS, {"type": kind, kind: {"url": "x"}}]
                with pytest.raises(InvalidRequestError, match=f"text only.*{kind}.*mmproj"):
                    llm.create_chat_completion([{"role": "user", "content": content}])


USER = {"role": "user"}
NOT_MESSAGES: dict[str, tuple[Any, str]] = {
    "nothing": (None, "must be a list.* not a value of the type NoneType"),
    "text": ("Hello", "must be a list.* not a value of the type str.*create_completion"),
    "one message": ({**USER, "content": "Hello"}, "must be a list.* not a value of the type dict"),
    "an iterator": (iter(MESSAGES), "must be a list.* not a value of the type list_iterator"),
    "numbers": ([5], "must be dictionaries.* not a value of the type int"),
    "no role": ([{"content": "Hello"}], "must have a role"),
    "a role that is not text": ([{"role": 5, "content": "Hello"}], "must have a role"),
    "a number as content": ([{**USER, "content": 5}], "text or a list of parts, not a value of the type int"),
    "a part as content": ([{**USER, "content": PARTS[0]}], "text or a list of parts, not a value of the type dict"),
    "a number as part": ([{**USER, "content": [5]}], "part .* must be a dictionary.* not a value of the type int"),
    "nothing as part": ([{**USER, "content": [None]}], "part .* must be a dictionary.* not a value of the type None"),
    "a part without a text": ([{**USER, "content": [{"type": "text"}]}], "must have a text"),
    "a part with no text": ([{**USER, "content": ({"type": "text", "text": None},)}], "must have a text"),
    "a part without a type": ([{**USER, "content": [{}]}], "only, and a message has a part of type None"),
    "a sound": ([{**USER, "content": [{"type": "input_audio", "input_audio": {}}]}], "only, .* type 'input_audio'"),
    "a sound in a tuple": ([{**USER, "content": ({"type": "input_audio"},)}], "only, .* type 'input_audio'"),
    "an image without an address": ([{**USER, "content": [{"type": "image_url"}]}], "image"),
    "an image at nothing": ([{**USER, "content": [{"type": "image_url", "image_url": {"url": None}}]}], "image"),
}


@pytest.fixture(scope="module", params=["text", "images"])
def model(request: pytest.FixtureRequest, chat_model: Path, projector: Path) -> Iterator[Any]:
    mmproj = projector if request.param == "images" else None
    with load(chat_model, n_threads=1, n_threads_batch=1, mmproj=mmproj) as llm:
        yield llm


@pytest.mark.parametrize("name", NOT_MESSAGES)
def test_what_is_not_a_list_of_messages_is_refused(model: Any, name: str) -> None:
    messages, reason = NOT_MESSAGES[name]
    with pytest.raises(InvalidRequestError, match=reason) as caught:
        model.create_chat_completion(messages, max_tokens=20)
    assert ("mmproj" in caught.value.message) == ("This model takes text only" in caught.value.message)
    assert model.chat_handler is None or "text only" not in caught.value.message
    assert model.create_chat_completion(MESSAGES, max_tokens=20)["choices"][0]["message"]["content"] == ANSWER


def test_tuples_are_lists(model: Any, red_square: str) -> None:
    expected = model.create_chat_completion([{**USER, "content": PARTS}], max_tokens=20)
    answer = model.create_chat_completion(({**USER, "content": tuple(PARTS)},), max_tokens=20)
    assert answer["choices"][0]["message"]["content"] == ANSWER
    assert answer["usage"] == expected["usage"]
    image = {"type": "image_url", "image_url": {"url": red_square}}
    if model.chat_handler is None:
        with pytest.raises(InvalidRequestError, match=r"text only.*image_url"):
            model.create_chat_completion([{**USER, "content": (image,)}])
    else:
        usage = model.create_chat_completion([{**USER, "content": (image, *PARTS)}], max_tokens=20)["usage"]
        assert expected["usage"]["prompt_tokens"] < usage["prompt_tokens"] < expected["usage"]["prompt_tokens"] + 50


def test_an_empty_template_is_refused_by_the_renderer() -> None:
    with pytest.raises(ChatTemplateError, match="template failed: it is empty"):
        TemplateRenderer().render("", {})


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (" \n", "it is empty"),
        ("{{ no }}", "it makes an empty prompt"),
        ("chatml", r"it is a name, 'chatml', and not a template\. Pass chat_format"),
        ("rwkv-world", "it is a name, 'rwkv-world', and not a template"),
    ],
)
def test_a_chat_template_without_messages_is_an_error_of_the_chat(tmp_path: Path, template: str, reason: str) -> None:
    path = tiny_models.write_chat_model(tmp_path / "empty.gguf", chat_template=template)
    with load(path, n_threads=1, n_threads_batch=1) as llm:
        with pytest.raises(ChatTemplateError, match=f"The model's chat template failed: .*{reason}"):
            llm.create_chat_completion(MESSAGES)
        assert llm("What?", max_tokens=20)["choices"][0]["text"] == ANSWER


def test_messages_that_are_no_json(chat_model: Path) -> None:
    with load(chat_model, n_threads=1) as llm, pytest.raises(InvalidRequestError, match="JSON"):
        llm.create_chat_completion([{"role": "user", "content": object()}])


def test_a_render_that_hangs_is_given_up_and_the_next_one_works() -> None:
    renderer = TemplateRenderer(max_seconds=0.5)
    started = time.monotonic()
    with pytest.raises(ChatTemplateError, match=r"more than 0\.5 seconds"):
        renderer.render(HOSTILE["endless loop"], {})
    assert time.monotonic() - started < AT_ONCE_SECONDS
    renderer._max_seconds = PATIENCE_SECONDS
    assert renderer.render("{{ 1 + 1 }}", {}) == "2"
    renderer.close()
