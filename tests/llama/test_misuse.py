"""Each misuse that kills a kernel with plain llama-cpp-python, in its own process, which must survive it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.localhub import tiny_models

pytestmark = pytest.mark.llama

HARNESS = """
import threading, time
import llama_cpp
from llama_cpp import LlamaGrammar
from modeldeck._errors import ModelUnloadedError
import functools, modeldeck.llama
load = functools.partial(modeldeck.llama.load, n_threads=1, n_threads_batch=1)
llm = load(chat_model)
try:
    exec(compile(misuse, "<misuse>", "exec"))
except BaseException as error:
    print("raised", type(error).__name__, error)
else:
    print("returned")
with load(chat_model) as fresh:
    print("alive:" + fresh("What?", max_tokens=20)["choices"][0]["text"])
"""

UNLOADED = "ModelUnloadedError"
MISUSES = {
    # after unload: a null pointer in llama.cpp
    "completion after unload": ("llm.unload(); llm('x')", UNLOADED),
    "chat after close": ("llm.close(); llm.create_chat_completion([{'role': 'user', 'content': 'x'}])", UNLOADED),
    "tokenize after unload": ("llm.unload(); llm.tokenize(b'x')", UNLOADED),
    "n_ctx after unload": ("llm.unload(); llm.n_ctx()", UNLOADED),
    "save_state after unload": ("llm.unload(); llm.save_state()", UNLOADED),
    "native pointer after unload": ("llm.unload(); llm.ctx", UNLOADED),
    "tokenizer that outlives its model": ("t = llm.tokenizer(); llm.unload(); t.encode('x')", UNLOADED),
    "with block left": ("with llm: pass\nllm('x')", UNLOADED),
    "stream over unload": ("s = llm('x', stream=True); next(s); llm.unload(); next(s)", UNLOADED),
    "unload twice": ("llm.unload(); llm.unload(); llm.close()", None),
    # arguments on which llama.cpp gives up
    "token out of range": ("llm.detokenize([10**6])", "InvalidRequestError"),
    "negative token": ("llm.detokenize([-5])", "InvalidRequestError"),
    "evaluate a token out of range": ("llm.eval([10**6])", "RuntimeError"),
    "prompt beyond the context": ("llm.eval([5] * 10000)", "RuntimeError"),
    "sample at a wrong place": ("llm.eval([5, 6]); llm.sample(idx=9)", "InvalidRequestError idx must be a position"),
    "sample at a place without logits": ("llm.eval([5, 6]); llm.sample(idx=0)", "InvalidRequestError"),
    "sample at no place": ("llm.eval([5, 6]); llm.sample(idx='last')", "InvalidRequestError"),
    "sample after nothing": ("llm.sample()", "InvalidRequestError There is nothing to go on from"),
    "sample at the last place": ("llm.eval([5, 6]); llm.sample(temp=0.0, idx=1); llm.sample()", None),
    "sample at any place with all logits": (
        "full = load(chat_model, logits_all=True)\nfull.eval([5, 6]); full.sample(idx=0)\n"
        "full.eval([7, 8]); full.sample(idx=2)\nfull.sample(idx=1)",
        "InvalidRequestError idx must be a position from 2 to 3",
    ),
    "sample before anything": ("llm.n_tokens = 3; llm.sample()", "LlamaCrashedError"),
    "text of a token out of range": ("llm._model.token_get_text(10**6)", "InvalidRequestError"),
    "tokenizer and a token out of range": ("llm.tokenizer().decode([10**6])", "InvalidRequestError"),
    "exception in C++": (
        "llm._run_exclusively(lambda: llama_cpp.llama_vocab_get_text(llm._model.vocab, 10**6))",
        "LlamaCrashedError",
    ),
    "crash while looking something up": (
        "llm._execution.look_up(lambda: llama_cpp.llama_vocab_get_text(llm._model.vocab, 10**6))",
        "LlamaCrashedError",
    ),
    "crash on a thread of OpenMP": (
        "modeldeck.llama.Llama(str(embedding_model), embedding=True, n_ctx=4096, n_batch=4096, n_ubatch=4096,"
        " n_threads=2, n_threads_batch=2).embed('a b c d ' * 600)",
        "LlamaCrashedError",
    ),
    "use after a crash": (
        "llm.n_tokens = 3\ntry: llm.sample()\nexcept Exception: llm.unload()\nllm('x')",
        UNLOADED,
    ),
    "grammar that does not parse": (
        "llm('x', grammar=LlamaGrammar.from_string('root ::= \"a'))",
        "InvalidRequestError",
    ),
    "grammar without end": ("llm('x', grammar=LlamaGrammar.from_string('root ::= root \"a\"'))", "InvalidRequestError"),
    "state of something else": (
        "s = llm.save_state(); s.llama_state = b'x' * 100; s.llama_state_size = 100; llm.load_state(s)",
        "RuntimeError",
    ),
    # options on which llama.cpp gives up
    "thousands of threads": ("load(chat_model, n_threads=2000)", "InvalidRequestError"),
    "negative threads": ("load(chat_model, n_threads=-3)", "InvalidRequestError"),
    "unknown cache type": ("load(chat_model, type_k=99)", "InvalidRequestError"),
    "impossible cache type": ("load(chat_model, type_k=8)", "LoadFailedError"),
    "cache type without a kernel": ("load(chat_model, type_v=26)('x')", "InvalidRequestError"),
    "cache type that is not a number": ("load(chat_model, type_k='q8_0')", "InvalidRequestError"),
    "cache type that is a list": ("load(chat_model, type_v=[])", "InvalidRequestError"),
    "option of a wrong type": ("load(chat_model, rope_freq_base='x')", "InvalidRequestError"),
    "option beyond its range": ("load(chat_model, n_gpu_layers='all')", "InvalidRequestError"),
    "unknown pooling": ("load(chat_model, embedding=True, pooling_type=77)", "LoadFailedError"),
    "no batch": ("load(chat_model, n_batch=0)", "InvalidRequestError"),
    "negative batch": ("load(chat_model, n_batch=-1)('x')", "InvalidRequestError"),
    "negative physical batch": ("load(chat_model, n_ubatch=-1)", "InvalidRequestError"),
    "no layers": ("load(chat_model, kv_overrides={'llama.block_count': 0})", "LoadFailedError"),
    "a model as its own adapter": ("load(chat_model, lora_path=str(chat_model))", "InvalidRequestError"),
    "adapter that is missing": (
        "load(chat_model, lora_path='/nowhere.gguf')",
        "LoadFailedError nowhere.gguf cannot be",
    ),
    "adapter that is not a path": ("load(chat_model, lora_path=5)", "InvalidRequestError lora_path must be"),
    "plan with a missing adapter": (
        "modeldeck.llama.plan(chat_model, lora_path='/nowhere.gguf')",
        "LoadFailedError nowhere.gguf cannot be",
    ),
    "plan with an adapter that is not a path": (
        "modeldeck.llama.plan(chat_model, lora_path=5)",
        "InvalidRequestError lora_path must be",
    ),
    "overrides that are text": ("load(chat_model, kv_overrides='x')", "InvalidRequestError kv_overrides must be"),
    "overrides with a key in bytes": ("load(chat_model, kv_overrides={b'x': 1})", "InvalidRequestError kv_overrides"),
    "empty grammar": (
        "llm('x', grammar=LlamaGrammar.from_string(' '))",
        "InvalidRequestError The grammar is empty",
    ),
    "grammar of no characters": (
        "llm('x', grammar=LlamaGrammar.from_string(''))",
        "InvalidRequestError The grammar is empty",
    ),
    "no texts to embed": (
        "llm = load(embedding_model)\nassert llm.embed([]) == [] and llm.create_embedding([])['data'] == []\n"
        "assert llm.embed([], return_count=True) == ([], 0) and len(llm.embed('a')) == 32",
        None,
    ),
    "no texts to embed with a chat model": ("llm.embed([])", "RuntimeError"),
    "unknown option": ("load(chat_model, n_contexts=1)", "InvalidRequestError"),
    "negative context": ("load(chat_model, n_ctx=-1)", "InvalidRequestError"),
    "context of 10^9 tokens": ("load(chat_model, n_ctx=10**9)", "DoesNotFitError"),
    "all logits of 10^8 tokens": ("load(chat_model, n_ctx=10**8, logits_all=True)", "DoesNotFitError"),
    "projector as model": ("load(projector)", "LoadFailedError"),
    "model as projector": ("load(chat_model, mmproj=chat_model)", "LoadFailedError"),
    "chat with an embedding model": ("load(embedding_model)('x')", "InvalidRequestError"),
    "embedding beyond the model's length": ("load(embedding_model, n_ctx=4096).embed('a b c ' * 1000)", None),
    "embedding with a chat model": ("llm.embed('x')", "RuntimeError"),
    # two at once
    "two threads": (
        "threads = [threading.Thread(target=llm, args=('x',)) for _ in range(8)]\n"
        "for t in threads: t.start()\n"
        "for t in threads: t.join()",
        None,
    ),
    "call inside a stream": ("s = llm('hello', stream=True); next(s); llm('z'); next(s)", "GenerationCancelledError"),
    "reset inside a generation": (
        "g = llm.generate([5, 6, 7]); next(g); llm.reset(); llm.eval([5]); next(g)",
        "GenerationCancelledError",
    ),
    "unload inside its own generation": (
        "llm('x', max_tokens=50, stopping_criteria=lambda tokens, logits: bool(llm.unload()))",
        UNLOADED,
    ),
    "unload while generating": (
        "t = threading.Thread(target=list, args=(llm.generate([5]),)); t.start()\n"
        "while not llm.n_tokens: time.sleep(0.001)\n"
        "llm.unload(); t.join()",
        None,
    ),
    "use in a forked process": (
        "import os\npid = os.fork()\n"
        "if pid == 0:\n    try: llm('x')\n    except ModelUnloadedError: os._exit(1)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))",
        "SystemExit 1",
    ),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("name", MISUSES)
def test_misuse_raises_and_the_process_lives(
    name: str, run_child, chat_model: Path, embedding_model: Path, projector: Path
) -> None:
    misuse, expected = MISUSES[name]
    outcome = run_child(
        HARNESS, misuse=misuse, chat_model=chat_model, embedding_model=embedding_model, projector=projector
    )
    assert outcome.exit_code == 0, outcome.output
    assert outcome.lines[-1] == f"alive:{tiny_models.ANSWER}"
    assert any(line.startswith(f"raised {expected}" if expected else "returned") for line in outcome.lines), outcome


def test_plain_llama_cpp_dies_of_it(run_child, chat_model: Path) -> None:
    """The control: the harness notices when a process dies."""
    outcome = run_child(
        "import llama_cpp; llm = llama_cpp.Llama(str(m), verbose=False); llm.close(); llm('x')", m=chat_model
    )
    assert outcome.exit_code == -11
