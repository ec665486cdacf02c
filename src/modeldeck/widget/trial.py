"""The trait ``_chat``: trying the loaded model from the page, beside the cells that use it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from msgspec.structs import replace

from modeldeck._errors import InvalidRequestError
from modeldeck._loop import LoopThread
from modeldeck.widget.pacer import Pacer
from modeldeck.widget.publisher import Publisher
from modeldeck.widget.tasks import Tasks, guard
from modeldeck.widget.traits import ChatMessageView, ChatView, ModelKind

if TYPE_CHECKING:
    from modeldeck.llama import Llama
    from modeldeck.llama.handle import LlamaStream

_TEMPLATE_KEY = "tokenizer.chat_template"
_PUBLISHED_PERIOD_SECONDS = 0.4
"""The pacer publishes four times in it: ten times a second."""
_DEFAULT_TEMPERATURE = 0.7
_COMPLETION_TOKENS = 256
_SIGNS_OF_LENGTH = ("exceed context window", "exceeds n_ctx")
"""What llama-cpp-python says of a prompt that is longer than the context, in text and with images."""


@dataclass(eq=False)
class _Turn:
    """One answer while it is made, on a thread of its own. Its fields are written there, under the lock."""

    is_stopped: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    is_generating: bool = False
    begun_at: float = field(default_factory=time.monotonic)
    first_at: float | None = None
    last_at: float = 0.0
    tokens: int = 0
    text: str = ""


@contextmanager
def _explained() -> Iterator[None]:
    """Say what to do about a prompt that is longer than the context."""
    try:
        yield
    except ValueError as error:
        if not any(sign in str(error) for sign in _SIGNS_OF_LENGTH):
            raise
        raise InvalidRequestError(
            "This is longer than the context of the loaded model. Begin a new conversation, send a shorter text, or "
            "load the model with a longer context."
        ) from error


class ChatOwner:
    """Owns the trait ``_chat``.

    A generation runs on a thread of its own. While a cell uses the model, it waits for its turn, as calls of several
    threads do; the page is told so.
    """

    def __init__(self, publisher: Publisher, loop: LoopThread, tasks: Tasks) -> None:
        self._publisher = publisher
        self._loop = loop
        self._tasks = tasks
        self._llm: Llama | None = None
        self._kind: ModelKind | None = None
        self._system = ""
        self._turn: _Turn | None = None
        self._view = ChatView()
        self._pacer = Pacer(self._publish_turn, period_seconds=_PUBLISHED_PERIOD_SECONDS)

    @property
    def conversation(self) -> list[dict[str, str]]:
        """What was said and answered, with the system prompt, as ``create_chat_completion`` takes it."""
        return _messages(self._system, _answered(self._view.messages))

    def take(self, llm: Llama) -> ModelKind:
        """Try this model from now on, in a new conversation. Returns what it is for."""
        self._llm, self._kind = llm, kind_of(llm)
        self._show(ChatView())
        return self._kind

    def drop(self) -> None:
        """The model is about to be unloaded."""
        self.stop()
        self._llm = self._kind = None

    def ask(self, text: str, *, system: str, temperature: float | None) -> None:
        """Have the model answer; one answer at a time."""
        llm = self._check_free("chat", "completion")
        self._system = system
        said, question = self._view.messages, ChatMessageView(role="user", content=text)
        view = replace(self._view, messages=(*said, question))
        options = {"temperature": _DEFAULT_TEMPERATURE if temperature is None else temperature, "stream": True}
        if self._kind == "chat":
            messages = _messages(system, (*_answered(said), question))
            self._begin(view, lambda: llm.create_chat_completion(messages, **options))
        else:
            self._begin(view, lambda: llm.create_completion(text, max_tokens=_COMPLETION_TOKENS, **options))

    def compare(self, first: str, second: str) -> None:
        """Have the model tell how similar two texts are."""
        llm = self._check_free("embedding")
        turn = self._turn = _Turn()
        self._show(ChatView(state="waiting"))
        self._tasks.start(self._compare, turn, llm, first, second)

    def stop(self) -> None:
        """Stop the answer. What it has said so far stays. One that still waits for the model is given up at once."""
        turn = self._turn
        if turn is None:
            return
        turn.is_stopped.set()
        with turn.lock:
            is_generating = turn.is_generating
            if is_generating and self._llm is not None:
                self._llm.cancel()
        if not is_generating:
            self._turn = None
            self._show(replace(self._view, state="idle", was_stopped=True))

    def clear(self) -> None:
        """Begin a new conversation."""
        if self._turn is not None:
            raise InvalidRequestError("The model is still answering. Stop it first.")
        self._show(ChatView())

    def _check_free(self, *kinds: ModelKind) -> Llama:
        if self._llm is None or not self._llm.is_loaded:
            raise InvalidRequestError("No model is loaded. Load one, then try it.")
        if self._kind not in kinds:
            raise InvalidRequestError(f"The loaded model is for another use ({self._kind}). Load another one.")
        if self._turn is not None:
            raise InvalidRequestError("The model is still answering. Wait for it, or stop it.")
        return self._llm

    def _begin(self, view: ChatView, generate: Callable[[], LlamaStream]) -> None:
        self._turn = _Turn()
        self._show(
            replace(
                view,
                state="waiting",
                was_stopped=False,
                first_token_seconds=None,
                tokens_per_second=None,
                error=None,
            )
        )
        self._tasks.start(self._answer, self._turn, generate)

    async def _answer(self, turn: _Turn, generate: Callable[[], LlamaStream]) -> None:
        before = self._view
        try:
            error = await guard(_on_thread, partial(self._generate, turn, generate))
        except BaseException:
            turn.is_stopped.set()
            raise
        if self._turn is not turn:  # given up
            return
        if turn.is_stopped.is_set():
            error = None
        self._turn = None
        self._show(
            replace(
                self._with_turn(before, turn),
                state="idle",
                was_stopped=turn.is_stopped.is_set(),
                error=None if error is None else error.to_info(),
            )
        )
        if error is not None:
            self._publisher.report(error)

    @_explained()
    def _generate(self, turn: _Turn, generate: Callable[[], LlamaStream]) -> None:
        """Run on a thread of its own: wait for the model, and take its pieces."""
        stream = generate()
        try:
            with turn.lock:
                turn.is_generating = True
                turn.begun_at = time.monotonic()
            self._loop.post(self._pacer.mark)
            for chunk in stream:
                if turn.is_stopped.is_set():
                    break
                piece = _text_of(chunk)
                if not piece:
                    continue
                with turn.lock:
                    turn.last_at = time.monotonic()
                    turn.first_at = turn.first_at or turn.last_at
                    turn.tokens += 1
                    turn.text += piece
                self._loop.post(self._pacer.mark)
        finally:
            with turn.lock:
                turn.is_generating = False
            stream.close()

    async def _compare(self, turn: _Turn, llm: Llama, first: str, second: str) -> None:
        similarity: float | None = None

        def embed() -> None:
            nonlocal similarity
            vectors = [item["embedding"] for item in llm.create_embedding([first, second])["data"]]
            if any(isinstance(part, list) for vector in vectors for part in vector):
                raise InvalidRequestError(
                    "This model makes a vector for each token instead of one for each text: its file names no pooling "
                    "type. Load another one, or load it in Python with pooling_type=1, which takes the mean."
                )
            similarity = cosine(vectors[0], vectors[1])

        error = await guard(_on_thread, embed)
        if self._turn is not turn:  # given up
            return
        self._turn = None
        self._show(ChatView(similarity=similarity, error=None if error is None else error.to_info()))
        if error is not None:
            self._publisher.report(error)

    def _with_turn(self, view: ChatView, turn: _Turn) -> ChatView:
        """The view with what the turn has said so far, and how fast."""
        with turn.lock:
            text, tokens, first_at, last_at = turn.text, turn.tokens, turn.first_at, turn.last_at
        if first_at is None:
            return view
        seconds = last_at - first_at
        return replace(
            view,
            messages=(*view.messages, ChatMessageView(role="assistant", content=text)),
            first_token_seconds=first_at - turn.begun_at,
            tokens_per_second=(tokens - 1) / seconds if tokens > 1 and seconds > 0 else None,
        )

    def _publish_turn(self) -> None:
        """Show how far the answer is. ``_view`` stays as it was before the answer."""
        turn = self._turn
        if turn is not None:
            self._publisher.publish("chat", replace(self._with_turn(self._view, turn), state="answering"))

    def _show(self, view: ChatView) -> None:
        before = self.conversation
        self._view = view
        self._publisher.publish("chat", view)
        self._publisher.announce("chat", before, self.conversation)


async def _on_thread(function: Callable[[], object]) -> None:
    await anyio.to_thread.run_sync(function, abandon_on_cancel=True)


def kind_of(llm: Llama) -> ModelKind:
    """What a loaded model is for."""
    if llm.context_params.embeddings:
        return "embedding"
    return "chat" if any(key.startswith(_TEMPLATE_KEY) for key in llm.metadata) else "completion"


def cosine(first: list[float], second: list[float]) -> float:
    """The cosine of the angle between two vectors; 0 if one of them has no length."""
    length = math.hypot(*first) * math.hypot(*second)
    return sum(a * b for a, b in zip(first, second, strict=True)) / length if length else 0.0


def _answered(said: tuple[ChatMessageView, ...]) -> tuple[ChatMessageView, ...]:
    """The messages without those of the user that no answer follows: many templates refuse two in a row."""
    return tuple(message for pair in pairwise(said) if pair[1].role == "assistant" for message in pair)


def _messages(system: str, said: tuple[ChatMessageView, ...]) -> list[dict[str, str]]:
    head = [{"role": "system", "content": system}] if system else []
    return [*head, *({"role": message.role, "content": message.content} for message in said)]


def _text_of(chunk: Any) -> str:
    """The text of one piece of a stream, of a chat or of a completion."""
    choice = chunk["choices"][0]
    text: str | None = choice["delta"].get("content") if "delta" in choice else choice["text"]
    return text or ""
