"""The requests of the page, and the answers to everything that is not one."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeldeck._context_length import read_n_ctx
from modeldeck._errors import InvalidRequestError, ProtocolError
from modeldeck._types import Action
from modeldeck.widget import requests
from modeldeck.widget.publisher import as_json
from modeldeck.widget.traits import FiltersView, VariantAction


def request(method: object, params: object = None, request_id: object = "id-1") -> dict[str, Any]:
    return {"kind": "modeldeck-request", "id": request_id, "method": method, "params": {} if params is None else params}


@pytest.mark.parametrize(
    ("method", "params", "expected"),
    [
        ("hello", {}, requests.HelloRequest()),
        ("search", {"text": "qwen", "sort": "likes"}, requests.SearchRequest("qwen", "likes")),
        ("search", {"text": ""}, requests.SearchRequest("", "downloads")),
        (
            "search",
            {"text": "", "filters": {"task": "chat", "is_open": True}},
            requests.SearchRequest("", "downloads", FiltersView(task="chat", is_open=True)),
        ),
        ("search_more", {}, requests.SearchMoreRequest()),
        ("open_repo", {"repo_id": "o/n"}, requests.OpenRepoRequest("o/n")),
        *(("act", {"job_id": "j", "action": action}, requests.ActRequest("j", action)) for action in get_args(Action)),
        *(
            (
                "act_on_variant",
                {"repo_id": "o/n", "variant_id": "a.gguf", "action": action},
                requests.ActOnVariantRequest("o/n", "a.gguf", action),
            )
            for action in get_args(VariantAction)
        ),
        ("set_n_ctx", {"n_ctx": 8192}, requests.SetContextRequest(8192)),
    ],
)
def test_every_method_is_understood(method: str, params: dict[str, Any], expected: requests.Request) -> None:
    assert requests.parse(request(method, params)) == requests.Envelope("id-1", expected)


@pytest.mark.parametrize(
    "content",
    [
        request("no_such_method"),
        request(None),
        request("search"),
        request("search", {"text": 3}),
        request("search", {"text": "a", "sort": "rudeness"}),
        request("search", ["text"]),
        request("search", {"text": "a", "filters": {"author": "a" * 100}}),
        request("search", {"text": "a", "filters": {"max_parameters": "9B"}}),
        request("set_n_ctx", {"n_ctx": "many"}),
        request("act", {"job_id": None, "action": "pause"}),
        request("act", {"job_id": "j", "action": "load"}),
        request("act_on_variant", {"repo_id": "o/n", "variant_id": "a.gguf", "action": "pause"}),
    ],
)
def test_a_wrong_request_is_answered(content: dict[str, Any]) -> None:
    outcome = requests.parse(content)
    assert isinstance(outcome, requests.Malformed)
    answer = as_json(requests.answer(outcome.id, outcome.error))
    assert answer["id"] == "id-1"
    assert answer["ok"] is False
    assert answer["error"]["code"] == "protocol"


@pytest.mark.parametrize(
    ("method", "params", "limit"),
    [
        ("search", {"text": "a" * 513}, "512"),
        ("try", {"text": "a" * 100_001}, "100,000"),
        ("try", {"text": "a", "system": "a" * 100_001}, "100,000"),
        ("compare", {"first": "a", "second": "a" * 100_001}, "100,000"),
    ],
)
def test_a_text_that_is_too_long_is_the_users_mistake(method: str, params: dict[str, Any], limit: str) -> None:
    outcome = requests.parse(request(method, params))
    assert isinstance(outcome, requests.Malformed)
    assert (
        outcome.error.to_info() == InvalidRequestError(f"The text is too long: at most {limit} characters.").to_info()
    )


@pytest.mark.parametrize("params", [{"text": "a\ud83d"}, {"text": "a", "filters": {"author": "\udc00"}}])
def test_half_a_character_is_the_users_mistake(params: dict[str, Any]) -> None:
    outcome = requests.parse(request("search", params))
    assert isinstance(outcome, requests.Malformed)
    assert outcome.error.to_info().code == "invalid_request"
    assert "half a character" in str(outcome.error)


@pytest.mark.parametrize("n_ctx", [0, -5, 2**40])
def test_a_wrong_context_length_has_the_message_that_python_has(n_ctx: int) -> None:
    outcome = requests.parse(request("set_n_ctx", {"n_ctx": n_ctx}))
    assert isinstance(outcome, requests.Malformed)
    with pytest.raises(InvalidRequestError) as caught:
        read_n_ctx(n_ctx)
    assert outcome.error.to_info() == caught.value.to_info()


@pytest.mark.parametrize("request_id", [None, 7, "", "x" * 65, ["a"]])
def test_an_unusable_id_is_malformed(request_id: object) -> None:
    assert requests.parse(request("hello", {}, request_id)) == requests.Malformed("", ProtocolError(""))


@pytest.mark.parametrize("content", [None, 3, "text", [], {}, {"kind": "something-else", "id": "a"}])
def test_messages_of_others_are_left_alone(content: object) -> None:
    assert requests.parse(content) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=12,
)


@given(method=json_values, params=json_values, request_id=json_values)
def test_nothing_that_comes_in_raises(method: object, params: object, request_id: object) -> None:
    outcome = requests.parse(request(method, params, request_id))
    assert isinstance(outcome, requests.Envelope | requests.Malformed)
