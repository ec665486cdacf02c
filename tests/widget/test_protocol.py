"""What the front end may say, and what becomes of everything else."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeldeck.widget import protocol


def request(method: object, params: object = None, request_id: object = "id-1") -> dict[str, Any]:
    return {"kind": "modeldeck-request", "id": request_id, "method": method, "params": {} if params is None else params}


@pytest.mark.parametrize(
    ("method", "params", "expected"),
    [
        ("hello", {}, protocol.Hello()),
        ("search", {"text": "qwen", "sort": "likes"}, protocol.Search("qwen", "likes")),
        ("search", {"text": ""}, protocol.Search("", "downloads")),
        ("search_more", {}, protocol.SearchMore()),
        ("open_repo", {"repo_id": "o/n"}, protocol.OpenRepo("o/n")),
        ("download", {"repo_id": "o/n", "variant_id": "a.gguf"}, protocol.StartDownload("o/n", "a.gguf")),
        ("pause", {"job_id": "j"}, protocol.Pause("j")),
        ("resume", {"job_id": "j"}, protocol.Resume("j")),
        ("cancel", {"job_id": "j"}, protocol.Cancel("j")),
        ("retry", {"job_id": "j"}, protocol.Retry("j")),
        ("dismiss", {"job_id": "j"}, protocol.Dismiss("j")),
        ("load", {"repo_id": "o/n", "variant_id": "a.gguf"}, protocol.Load("o/n", "a.gguf")),
        ("cancel_load", {}, protocol.CancelLoad()),
        ("unload", {}, protocol.Unload()),
        ("remove", {"repo_id": "o/n", "variant_id": "a.gguf"}, protocol.Remove("o/n", "a.gguf")),
        ("set_n_ctx", {"n_ctx": 8192}, protocol.SetContext(8192)),
        ("refresh", {}, protocol.Refresh()),
    ],
)
def test_every_method_is_understood(method: str, params: dict[str, Any], expected: protocol.Request) -> None:
    assert protocol.parse(request(method, params)) == protocol.Envelope("id-1", expected)


@pytest.mark.parametrize(
    "content",
    [
        request("no_such_method"),
        request(None),
        request("search"),
        request("search", {"text": 3}),
        request("search", {"text": "a", "sort": "rudeness"}),
        request("search", {"text": "a" * 1000}),
        request("search", ["text"]),
        request("set_n_ctx", {"n_ctx": 0}),
        request("set_n_ctx", {"n_ctx": -5}),
        request("set_n_ctx", {"n_ctx": 2**40}),
        request("set_n_ctx", {"n_ctx": "many"}),
        request("pause", {"job_id": None}),
    ],
)
def test_a_wrong_request_is_answered(content: dict[str, Any]) -> None:
    outcome = protocol.parse(content)
    assert isinstance(outcome, protocol.Malformed)
    answer = protocol.failure(outcome.id, outcome.error)
    assert answer["id"] == "id-1"
    assert answer["ok"] is False
    assert answer["error"]["code"] == "protocol"


@pytest.mark.parametrize("request_id", [None, 7, "", "x" * 65, ["a"]])
def test_an_unusable_id_is_malformed(request_id: object) -> None:
    assert protocol.parse(request("hello", {}, request_id)) == protocol.Malformed("", protocol.ProtocolError(""))


@pytest.mark.parametrize("content", [None, 3, "text", [], {}, {"kind": "something-else", "id": "a"}])
def test_messages_of_others_are_left_alone(content: object) -> None:
    assert protocol.parse(content) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=12,
)


@given(method=json_values, params=json_values, request_id=json_values)
def test_nothing_that_comes_in_raises(method: object, params: object, request_id: object) -> None:
    outcome = protocol.parse(request(method, params, request_id))
    assert isinstance(outcome, protocol.Envelope | protocol.Malformed)
