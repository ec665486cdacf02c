"""Trying the loaded model from the page."""

import threading
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import hf_hub_download

from modeldeck.widget.trial import cosine
from tests.waiting import PATIENCE_SECONDS
from tests.widget.pages import TINY, Page
from tools.localhub import LocalHub
from tools.localhub.tiny_models import write_chat_model, write_embedding_model

pytestmark = pytest.mark.llama

BASE = "owner/base-GGUF"
EMBEDDING = "owner/embedding-GGUF"
TURNS = "owner/turns-GGUF"
TURNS_TEMPLATE = (
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}"
    "{% endif %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}{{ eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ANSWER = "Hello from a tiny test model."


@pytest.fixture
def loaded(page: Page, demo_hub: LocalHub, tmp_path: Path) -> Page:
    """A page with a loaded model."""
    load(page, demo_hub, tmp_path, TINY, "tiny-chat-F16.gguf")
    return page


def load(page: Page, hub: LocalHub, folder: Path, repo_id: str, filename: str) -> None:
    hf_hub_download(repo_id, filename, endpoint=hub.endpoint, cache_dir=folder / "cache", token=False)
    page.ask("act_on_library", action="refresh")
    page.act_on(repo_id, filename, "load")
    page.until(lambda: page.traits["load"]["state"] == "ready")


def chat(page: Page) -> dict[str, Any]:
    view: dict[str, Any] = page.traits["chat"]
    return view


def test_an_answer_is_streamed_and_python_has_the_conversation(loaded: Page) -> None:
    assert loaded.traits["load"]["kind"] == "chat"
    assert loaded.ask("try", text="Hello?", system="Be brief.", temperature=0.0)["ok"]
    loaded.until(lambda: chat(loaded)["messages"] and chat(loaded)["state"] == "idle")
    said = [message["content"].strip() for message in chat(loaded)["messages"]]
    assert said[0] == "Hello?"
    assert said[1].startswith(ANSWER)
    assert chat(loaded)["first_token_seconds"] > 0
    assert chat(loaded)["tokens_per_second"] > 0
    conversation = loaded.bridge.chat
    assert [message["role"] for message in conversation] == ["system", "user", "assistant"]
    assert [new for name, _, new in loaded.announced if name == "chat"][-1] == conversation
    assert loaded.ask("compare", first="a", second="b")["error"]["code"] == "invalid_request"
    assert loaded.ask("act_on_chat", action="clear")["ok"]
    assert chat(loaded)["messages"] == []


def test_a_base_model_goes_on_with_a_text(page: Page, demo_hub: LocalHub, tmp_path: Path) -> None:
    name = "base-F16.gguf"
    demo_hub.add_repo(BASE, {name: write_chat_model(tmp_path / name, chat_template=None)})
    load(page, demo_hub, tmp_path, BASE, name)
    assert page.traits["load"]["kind"] == "completion"
    assert page.ask("try", text="Hello", temperature=0.0)["ok"]
    page.until(lambda: chat(page)["messages"] and chat(page)["state"] == "idle")
    llm = page.bridge.llm
    assert llm is not None
    expected = llm("Hello", max_tokens=256, temperature=0.0)["choices"][0]["text"]
    assert chat(page)["messages"][1]["content"] == expected
    assert chat(page)["tokens_per_second"] > 0
    assert page.bridge.chat[0] == {"role": "user", "content": "Hello"}


def test_it_waits_for_a_cell_and_can_be_given_up(page: Page, demo_hub: LocalHub, tmp_path: Path) -> None:
    name = "turns-F16.gguf"
    demo_hub.add_repo(TURNS, {name: write_chat_model(tmp_path / name, chat_template=TURNS_TEMPLATE)})
    load(page, demo_hub, tmp_path, TURNS, name)
    llm = page.bridge.llm
    assert llm is not None
    begun, may_end = threading.Event(), threading.Event()

    def use_in_a_cell() -> None:
        for _ in llm("Hello", max_tokens=8, stream=True):
            begun.set()
            assert may_end.wait(PATIENCE_SECONDS)

    cell = threading.Thread(target=use_in_a_cell)
    cell.start()
    try:
        assert begun.wait(PATIENCE_SECONDS)
        assert page.ask("try", text="Are you there?")["ok"]
        page.until(lambda: chat(page)["state"] == "waiting")
        assert page.ask("try", text="Twice")["error"]["code"] == "invalid_request"
        assert page.ask("act_on_chat", action="stop")["ok"]
        page.until(lambda: chat(page)["state"] == "idle")
        assert chat(page)["was_stopped"]
    finally:
        may_end.set()
        cell.join(PATIENCE_SECONDS)
    assert not cell.is_alive(), "the cell's own generation was not stopped"
    for text in ("And now?", "And again?"):
        assert page.ask("try", text=text)["ok"]
        page.until(lambda: chat(page)["state"] == "idle")
        assert chat(page)["error"] is None
    shown = [message["content"] for message in chat(page)["messages"] if message["role"] == "user"]
    assert shown == ["Are you there?", "And now?", "And again?"]
    assert [message["role"] for message in page.bridge.chat] == ["user", "assistant"] * 2
    assert page.bridge.chat[0]["content"] == "And now?"


def test_an_answer_can_be_stopped(loaded: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = loaded.bridge.llm
    assert llm is not None
    original = llm.create_chat_completion
    monkeypatch.setattr(
        llm,
        "create_chat_completion",
        lambda messages, **options: original(messages, **options, max_tokens=-1, logit_bias={llm.token_eos(): -100.0}),
    )
    loaded.ask("try", text="Go on for ever")
    loaded.until(lambda: chat(loaded)["state"] == "answering" and len(chat(loaded)["messages"]) == 2)
    loaded.ask("act_on_chat", action="stop")
    loaded.until(lambda: chat(loaded)["state"] == "idle")
    assert chat(loaded)["was_stopped"]
    assert chat(loaded)["error"] is None
    assert chat(loaded)["messages"][-1]["content"]
    loaded.act_on(TINY, "tiny-chat-F16.gguf", "unload")
    assert loaded.ask("try", text="Hello?")["error"]["code"] == "invalid_request"


def ask(page: Page, text: str) -> None:
    assert page.ask("try", text=text)["ok"]
    page.until(lambda: chat(page)["state"] == "idle")


def test_a_conversation_that_outgrows_the_context_goes_on_in_a_new_one(loaded: Page) -> None:
    ask(loaded, "Hello?")
    answered = loaded.bridge.chat
    ask(loaded, "word " * 400)
    assert chat(loaded)["error"]["code"] == "invalid_request"
    assert "Begin a new conversation" in chat(loaded)["error"]["message"]
    assert loaded.bridge.error is not None
    assert loaded.bridge.chat == answered
    assert loaded.ask("act_on_chat", action="clear")["ok"]
    ask(loaded, "Hello?")
    assert chat(loaded)["error"] is None
    assert loaded.bridge.chat == answered


def test_a_text_that_is_longer_than_the_context_is_refused(page: Page, demo_hub: LocalHub, tmp_path: Path) -> None:
    name = "base-F16.gguf"
    demo_hub.add_repo(BASE, {name: write_chat_model(tmp_path / name, chat_template=None)})
    load(page, demo_hub, tmp_path, BASE, name)
    ask(page, "word " * 400)
    assert "send a shorter text" in chat(page)["error"]["message"]
    ask(page, "Hello")
    assert chat(page)["error"] is None
    assert chat(page)["messages"][-1]["role"] == "assistant"


def test_an_unexpected_failure_ends_the_answer_and_is_shown(
    loaded: Page, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise RuntimeError("It is only a test.")

    with monkeypatch.context() as patch:
        patch.setattr(loaded.bridge.llm, "create_chat_completion", fail)
        ask(loaded, "Hello?")
    assert "RuntimeError: It is only a test." in chat(loaded)["error"]["message"]
    assert "RuntimeError: It is only a test." in caplog.text
    ask(loaded, "Hello?")
    assert chat(loaded)["error"] is None


@pytest.mark.parametrize("has_pooling_type", [True, False])
def test_texts_are_compared_where_the_model_makes_one_vector_for_each(
    page: Page, demo_hub: LocalHub, tmp_path: Path, has_pooling_type: bool
) -> None:
    name = "embedding-F32.gguf"
    path = write_embedding_model(tmp_path / name, has_pooling_type=has_pooling_type)
    demo_hub.add_repo(EMBEDDING, {name: path})
    load(page, demo_hub, tmp_path, EMBEDDING, name)
    assert page.traits["load"]["kind"] == "embedding"
    for _ in range(2):
        assert page.ask("compare", first="a b", second="a b")["ok"]
        page.until(lambda: chat(page)["state"] == "idle")
        if has_pooling_type:
            assert chat(page)["similarity"] == pytest.approx(1)
        else:
            assert chat(page)["error"]["code"] == "invalid_request"
            assert "a vector for each token" in chat(page)["error"]["message"]


def test_the_cosine_of_vectors() -> None:
    assert cosine([1.0, 2.0], [2.0, 4.0]) == pytest.approx(1)
    assert cosine([1.0, 0.0], [0.0, 3.0]) == 0
    assert cosine([0.0, 0.0], [1.0, 1.0]) == 0
