"""Using a loaded model: threads, streams, cancel, interrupt, unload."""

from __future__ import annotations

import base64
import gc
import pickle
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psutil
import pytest

from modeldeck._errors import GenerationCancelledError, InvalidRequestError, ModelUnloadedError
from modeldeck.llama import execution, grammars, load, vision
from tests.waiting import AT_ONCE_SECONDS, PATIENCE_SECONDS
from tools.localhub import tiny_models
from tools.localhub.tiny_models import ANSWER

pytestmark = pytest.mark.llama

MESSAGES = [{"role": "user", "content": "What?"}]
LONG_PROMPT = "one two three four five " * 600
PROMPT_SECONDS = 8.0  # less than the long prompt takes on one thread


@pytest.fixture
def llm(chat_model: Path) -> Iterator[Any]:
    with load(chat_model, n_threads=1, n_threads_batch=1) as llm:
        yield llm


@pytest.fixture
def slow_llm(smollm2: Path) -> Iterator[Any]:
    """A real model, whose long prompt takes seconds."""
    with load(smollm2, n_threads=1, n_threads_batch=1) as llm:
        yield llm


class Caller(threading.Thread):
    """Runs a function and keeps what it returned or raised."""

    def __init__(self, function: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(daemon=True)
        self._work = (function, args, kwargs)
        self.result: Any = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        function, args, kwargs = self._work
        try:
            self.result = function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def finish(self) -> Any:
        self.join(PATIENCE_SECONDS)
        assert not self.is_alive()
        return self.error or self.result


def until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def text_of(pieces: Any) -> str:
    return "".join(piece["choices"][0]["text"] for piece in pieces)


def test_calls_from_many_threads_queue(llm: Any) -> None:
    def chat() -> str:
        return llm.create_chat_completion(MESSAGES)["choices"][0]["message"]["content"]

    def complete() -> str:
        return llm("What?", max_tokens=20)["choices"][0]["text"]

    def stream() -> str:
        return text_of(llm("What?", max_tokens=20, stream=True))

    def look() -> str:
        for _ in range(100):
            assert llm.detokenize(llm.tokenize(b"hello", add_bos=False)) == b" hello"
        return ANSWER

    callers = [Caller(function) for function in (chat, complete, stream, look) * 5]
    assert [caller.finish() for caller in callers] == [ANSWER] * 20


def test_a_stream_keeps_its_turn_to_its_end(llm: Any) -> None:
    stream = llm("What?", max_tokens=20, stream=True)
    first = next(stream)
    other = Caller(llm, "Who?", max_tokens=20)
    other.join(0.2)
    assert other.is_alive()
    assert llm.n_ctx() == 2048  # looking something up needs no turn
    assert text_of([first, *stream]) == ANSWER
    assert other.finish()["choices"][0]["text"] == ANSWER
    with pytest.raises(StopIteration):
        next(stream)


def test_a_stream_left_in_the_middle_does_not_block(llm: Any) -> None:
    left = llm("What?", max_tokens=20, stream=True)
    next(left)
    assert llm("Who?", max_tokens=20)["choices"][0]["text"] == ANSWER
    with pytest.raises(GenerationCancelledError, match="another call"):
        next(left)
    dropped = llm("What?", max_tokens=20, stream=True)
    next(dropped)
    del dropped
    assert Caller(llm, "Who?", max_tokens=20).finish()["choices"][0]["text"] == ANSWER
    closed = llm("What?", max_tokens=20, stream=True)
    next(closed)
    closed.close()
    assert list(closed) == []
    assert Caller(llm, "Who?", max_tokens=20).finish()["choices"][0]["text"] == ANSWER


def test_a_thread_that_reads_for_two_clients_does_not_end_the_first_ones_stream(
    llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server's thread pool gives the second client the thread that has just read for the first one."""
    monkeypatch.setattr(execution, "UNREAD_SECONDS", PATIENCE_SECONDS)
    end = object()
    answers: dict[str, str] = {}

    async def serve(client: str, group: Any) -> None:
        stream = await anyio.to_thread.run_sync(lambda: llm("What?", max_tokens=20, stream=True))
        pieces: list[Any] = []
        while (piece := await anyio.to_thread.run_sync(next, stream, end)) is not end:
            pieces.append(piece)
            if client == "first" and len(pieces) == 2:
                group.start_soon(serve, "second", group)
                await anyio.sleep(0.3)  # the second client has its thread
        answers[client] = text_of(pieces)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            await serve("first", group)

    anyio.run(main)
    assert answers == {"first": ANSWER, "second": ANSWER}


def test_a_stream_that_another_thread_has_left_in_the_middle_does_not_block_it(
    llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "UNREAD_SECONDS", 0.5)

    def leave() -> str:
        left = llm("What?", max_tokens=20, stream=True)
        next(left)
        text = llm("Who?", max_tokens=20)["choices"][0]["text"]
        with pytest.raises(GenerationCancelledError, match="another call"):
            next(left)
        return text

    assert Caller(leave).finish() == ANSWER


def test_generate_is_a_generator(llm: Any) -> None:
    generator = llm.generate([5, 6, 7], temp=0.0)
    first = next(generator)
    second = next(generator)
    assert llm.detokenize([5, first, second]) == b" Hello from"
    assert llm.detokenize([5, first, second, generator.send(None)]) == b" Hello from a t"
    generator.close()


def test_cancel_ends_a_long_prompt_and_the_model_goes_on(slow_llm: Any) -> None:
    before = slow_llm("The capital of France is", max_tokens=5, temperature=0.0)["choices"][0]["text"]
    assert slow_llm.cancel() is False  # nothing runs
    running = Caller(slow_llm, LONG_PROMPT, max_tokens=5)
    until(lambda: slow_llm._execution.thread.is_busy)
    time.sleep(0.3)  # well inside the first batch
    asked = time.monotonic()
    assert slow_llm.cancel() is True
    assert isinstance(running.finish(), GenerationCancelledError)
    assert time.monotonic() - asked < PROMPT_SECONDS
    assert slow_llm("The capital of France is", max_tokens=5, temperature=0.0)["choices"][0]["text"] == before


@pytest.mark.parametrize("way", ["cancel", "unload"])
def test_cancel_ends_a_template_that_hangs(tmp_path: Path, way: str) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    path = tiny_models.write_chat_model(tmp_path / "endless.gguf", chat_template=endless)
    with load(path, n_threads=1, n_threads_batch=1) as llm:
        llm._execution.renderer._max_seconds = PATIENCE_SECONDS
        running = Caller(llm.create_chat_completion, MESSAGES)
        until(lambda: llm._execution.renderer._child.pid is not None)
        child = llm._execution.renderer._child.pid
        getattr(llm, way)()
        error = running.finish()
        assert isinstance(error, GenerationCancelledError if way == "cancel" else ModelUnloadedError)
        assert not psutil.pid_exists(child)
        if way == "cancel":
            assert llm("What?", max_tokens=20)["choices"][0]["text"] == ANSWER


ENDLESS_GRAMMAR = "".join(f"r{n} ::= r{n + 1} | r{n + 1}\n" for n in range(64)) + 'r64 ::= "a"\nroot ::= r0'
ENDLESS_SCHEMA = {"type": "string", "pattern": "^((a{0,1000}){0,1000}){0,1000}$"}


@pytest.mark.parametrize("way", ["cancel", "unload"])
@pytest.mark.parametrize("kind", ["grammar", "schema"])
def test_cancel_ends_the_trial_of_a_grammar(
    chat_model: Path, way: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama_cpp import LlamaGrammar

    monkeypatch.setattr(grammars, "TRIAL_SECONDS", PATIENCE_SECONDS)
    with load(chat_model, n_threads=1, n_threads_batch=1, chat_format="chatml") as llm:
        if kind == "grammar":
            running = Caller(llm, "x", grammar=LlamaGrammar.from_string(ENDLESS_GRAMMAR, verbose=False))
        else:
            response_format = {"type": "json_object", "schema": ENDLESS_SCHEMA}
            running = Caller(llm.create_chat_completion, MESSAGES, response_format=response_format)
        until(lambda: any(thread.name == "modeldeck-child" for thread in threading.enumerate()))
        asked = time.monotonic()
        getattr(llm, way)()
        assert isinstance(running.finish(), GenerationCancelledError if way == "cancel" else ModelUnloadedError)
        assert time.monotonic() - asked < AT_ONCE_SECONDS
        if way == "cancel":
            assert llm("What?", max_tokens=20)["choices"][0]["text"] == ANSWER


@pytest.mark.parametrize("way", ["cancel", "unload", "interrupt", "interrupt twice", "end of the process"])
def test_a_generation_that_does_not_end_is_given_up(run_child: Any, chat_model: Path, way: str) -> None:
    """A processor that waits without end stands for native code that does."""
    outcome = run_child(
        """
        import _thread, signal, threading
        from modeldeck.llama import handle, load, native_thread
        native_thread.STOP_SECONDS = 1.0
        signal.signal(signal.SIGINT, signal.default_int_handler)
        llm = load(chat_model, n_threads=1, n_threads_batch=1)
        inside = threading.Event()

        def hang(tokens, logits):
            inside.set()
            threading.Event().wait()

        def ask():
            try:
                llm("x", logits_processor=[hang])
            except BaseException as error:
                print(type(error).__name__)

        def interrupt():
            inside.wait()
            _thread.interrupt_main()

        if way.startswith("interrupt"):
            if way == "interrupt twice":
                native_thread.STOP_SECONDS = 1000
                threading.Timer(5, _thread.interrupt_main).start()
            threading.Thread(target=interrupt).start()
            ask()
            native_thread.STOP_SECONDS = 1.0
        else:
            asking = threading.Thread(target=ask)
            asking.start()
            inside.wait()
            {"cancel": llm.cancel, "unload": llm.unload, "end of the process": handle._unload_all}[way]()
            asking.join()
        llm.unload()
        print(llm.is_loaded)
        with load(chat_model, n_threads=1, n_threads_batch=1) as other:
            print(other("x", max_tokens=20)["choices"][0]["text"])
        """,
        chat_model=chat_model,
        way=way,
    )
    assert outcome.exit_code == 0, outcome.output
    error = "KeyboardInterrupt" if way.startswith("interrupt") else "LlamaCrashedError"
    assert outcome.lines == [error, "False", ANSWER]


def test_a_grammar_that_becomes_endless_late_can_be_cancelled(run_child: Any, chat_model: Path) -> None:
    outcome = run_child(
        """
        import threading
        from llama_cpp import LlamaGrammar
        from modeldeck.llama import load, native_thread
        native_thread.STOP_SECONDS = 0.5
        llm = load(chat_model, n_threads=1, n_threads_batch=1)
        rules = "".join(f'r{n} ::= ("a" (r{n + 1})?)? r{n + 1}\\n' for n in range(40))
        grammar = LlamaGrammar.from_string(rules + 'r40 ::= "a"?\\nroot ::= [a-z]{20} r0', verbose=False)
        cancel = threading.Timer(5, llm.cancel)

        def processor(tokens, logits):
            global cancel
            cancel.cancel()
            cancel = threading.Timer(5, llm.cancel)  # long after the last token
            cancel.start()
            return logits

        try:
            llm("x", max_tokens=40, grammar=grammar, logits_processor=[processor])
        except Exception as error:
            print(type(error).__name__, "does not end" in error.message)
        with load(chat_model, n_threads=1, n_threads_batch=1) as other:
            print(other("x", max_tokens=20)["choices"][0]["text"])
        """,
        chat_model=chat_model,
    )
    assert outcome.exit_code == 0, outcome.output
    assert outcome.lines[-2:] == ["LlamaCrashedError True", ANSWER]


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/image.png"


def picture(address: str) -> list[Any]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": address}}]}]


@pytest.fixture(params=[tiny_models.CHAT_TEMPLATE, None], ids=["template", "llava"])
def seeing_llm(request: pytest.FixtureRequest, tmp_path: Path, projector: Path) -> Iterator[Any]:
    path = tiny_models.write_chat_model(tmp_path / "seeing.gguf", chat_template=request.param)
    with load(path, n_threads=1, n_threads_batch=1, mmproj=projector) as llm:
        yield llm


@pytest.mark.parametrize("way", ["cancel", "unload"])
def test_cancel_ends_the_wait_for_an_image(seeing_llm: Any, silent_server: str, way: str) -> None:
    running = Caller(seeing_llm.create_chat_completion, picture(silent_server))
    until(lambda: any(thread.name == "modeldeck-image" for thread in threading.enumerate()))
    asked = time.monotonic()
    getattr(seeing_llm, way)()
    assert isinstance(running.finish(), GenerationCancelledError if way == "cancel" else ModelUnloadedError)
    assert time.monotonic() - asked < AT_ONCE_SECONDS
    if way == "cancel":
        assert seeing_llm("What?", max_tokens=20)["choices"][0]["text"] == ANSWER


def test_an_image_that_does_not_come_is_an_error(
    seeing_llm: Any, silent_server: str, red_square: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "red.png").write_bytes(base64.b64decode(red_square.partition(",")[2]))
    for address in (red_square, (tmp_path / "red.png").as_uri()):
        seeing_llm.create_chat_completion(picture(address), max_tokens=5)
    with pytest.raises(InvalidRequestError, match=r"An image of the message cannot be loaded: .*No such file"):
        seeing_llm.create_chat_completion(picture((tmp_path / "none.png").as_uri()))
    monkeypatch.setattr(vision, "IMAGE_SECONDS", 1.0)
    with pytest.raises(InvalidRequestError, match="An image of the message cannot be loaded: "):
        seeing_llm.create_chat_completion(picture(silent_server))
    assert seeing_llm("What?", max_tokens=20)["choices"][0]["text"] == ANSWER


def test_cancel_reaches_only_the_running_call(slow_llm: Any) -> None:
    running = Caller(slow_llm, LONG_PROMPT, max_tokens=5)
    until(lambda: slow_llm._execution.thread.is_busy)
    waiting = Caller(slow_llm, "Hello", max_tokens=2)
    slow_llm.cancel()
    assert isinstance(running.finish(), GenerationCancelledError)
    assert waiting.finish()["usage"]["completion_tokens"] == 2


def test_cancel_of_a_suspended_stream_frees_the_model(llm: Any) -> None:
    stream = llm("What?", max_tokens=20, stream=True)
    next(stream)
    assert llm.cancel() is True
    assert Caller(llm, "Who?", max_tokens=20).finish()["choices"][0]["text"] == ANSWER
    with pytest.raises(GenerationCancelledError):
        next(stream)


def test_an_interrupt_arrives_in_the_middle_of_a_prompt(run_child: Any, smollm2: Path) -> None:
    """Plain llama-cpp-python notices Ctrl-C only after the batch."""
    outcome = run_child(
        """
        import _thread, signal, threading, time
        from modeldeck.llama import execution, grammars, load, vision
        signal.signal(signal.SIGINT, signal.default_int_handler)
        llm = load(smollm2, n_ctx=4096, n_batch=4096, n_ubatch=4096, n_threads=1, n_threads_batch=1)
        at = []

        def interrupt():
            while not llm._execution.thread.is_busy:
                time.sleep(0.01)
            time.sleep(0.3)
            at.append(time.monotonic())
            _thread.interrupt_main()

        threading.Thread(target=interrupt).start()
        try:
            llm(prompt, max_tokens=3)
        except KeyboardInterrupt:
            print("interrupted", time.monotonic() - at[0])
        print(llm("The capital of France is", max_tokens=5, temperature=0.0)["choices"][0]["text"])
        """,
        smollm2=smollm2,
        prompt=LONG_PROMPT,
    )
    assert outcome.exit_code == 0, outcome.output
    word, seconds = outcome.lines[0].split()
    assert word == "interrupted"
    assert float(seconds) < PROMPT_SECONDS
    assert "Paris" in outcome.lines[1]


def test_unload_while_a_prompt_is_read(slow_llm: Any) -> None:
    running = Caller(slow_llm, LONG_PROMPT, max_tokens=5)
    until(lambda: slow_llm._execution.thread.is_busy)
    waiting = Caller(slow_llm, "Hello")
    time.sleep(0.3)
    asked = time.monotonic()
    slow_llm.unload()
    assert time.monotonic() - asked < PROMPT_SECONDS
    assert isinstance(running.finish(), ModelUnloadedError)
    assert isinstance(waiting.finish(), ModelUnloadedError)
    assert not slow_llm.is_loaded


def test_the_last_reference_unloads(chat_model: Path) -> None:
    llm = load(chat_model, n_threads=1, n_threads_batch=1)
    thread = llm._execution.thread._thread
    llm.create_chat_completion(MESSAGES)
    child = llm._execution.renderer._child.pid
    gone = weakref.ref(llm)
    gc.disable()
    try:
        del llm
        assert gone() is None
    finally:
        gc.enable()
    assert not thread.is_alive()
    assert not psutil.pid_exists(child)


def test_no_thread_and_no_child_is_left(run_child: Any, chat_model: Path) -> None:
    outcome = run_child(
        """
        import psutil, threading, time
        from modeldeck.llama import execution, grammars, load, vision
        load(path, n_threads=1, n_threads_batch=1).unload()
        threads = psutil.Process().num_threads()
        for _ in range(8):
            with load(path, n_threads=1, n_threads_batch=1) as llm:
                llm.create_chat_completion([{"role": "user", "content": "x"}])
        deadline = time.monotonic() + 300
        while psutil.Process().num_threads() > threads and time.monotonic() < deadline:
            time.sleep(0.01)  # OpenMP's workers go a little later
        print(threading.active_count(), psutil.Process().num_threads() <= threads, len(psutil.Process().children()))
        llm = load(path, n_threads=1, n_threads_batch=1)  # the interpreter ends with a model loaded
        stream = llm("x", stream=True)
        next(stream)
        """,
        path=chat_model,
    )
    assert outcome.exit_code == 0, outcome.output
    assert outcome.lines == ["1 True 0"]


@pytest.mark.parametrize("context_length", [10**9, 2**32 - 1])
def test_a_context_length_in_the_header_that_nobody_can_use_takes_no_memory(
    run_child: Any, tmp_path: Path, context_length: int
) -> None:
    path = tiny_models.write_chat_model(tmp_path / "long.gguf", context_length=context_length)
    outcome = run_child(
        """
        import psutil, resource
        from modeldeck.llama import execution, grammars, load, vision
        with load(path, n_threads=1, n_threads_batch=1) as llm:
            limit = psutil.Process().memory_info().vms + (1 << 30)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            print(llm("What?", max_tokens=20)["choices"][0]["text"])
            print(len(llm.tokenize(("ä" * 5000).encode())), llm.tokenize(b"", add_bos=False))
        """,
        path=path,
    )
    assert outcome.exit_code == 0, outcome.output
    assert outcome.lines == [ANSWER, "10002 []"]


def test_a_model_can_be_pickled_as_llama_can(llm: Any) -> None:
    with pickle.loads(pickle.dumps(llm)) as copy:
        assert copy.create_chat_completion(MESSAGES)["choices"][0]["message"]["content"] == ANSWER


def test_signatures_and_help_are_those_of_llama(llm: Any) -> None:
    import inspect

    import llama_cpp

    for name in ("create_chat_completion", "__call__", "tokenize"):
        assert inspect.signature(getattr(type(llm), name)) == inspect.signature(getattr(llama_cpp.Llama, name))
