"""llama.cpp asked in a child process: exact numbers, refusals, aborts, time-outs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modeldeck.gguf.header import HeaderReader
from modeldeck.sizing import ask_child
from modeldeck.sizing.devices import list_llama_devices
from modeldeck.sizing.dry_run import CONTEXT_GRID, ContextMemory, DryRun, HeaderPart, dry_run_file, dry_run_header
from modeldeck.sizing.llama_child import read_sizes
from modeldeck.sizing.memory import ContextOptions
from tests.llama.fit_shapes import MODELS, write_header
from tests.waiting import PATIENCE_SECONDS
from tools.localhub.tiny_models import write_split_model

pytestmark = pytest.mark.llama

REAL_LOAD = """
import json, sys
import llama_cpp.llama_cpp as llama

lines = []
callback = llama.llama_log_callback(lambda level, text, _: lines.append(text.decode(errors="replace").strip()))
llama.llama_log_set(callback, None)
llama.llama_backend_init()
model = llama.llama_model_load_from_file(sys.argv[1].encode(), llama.llama_model_default_params())
params = llama.llama_context_default_params()
params.n_ctx, params.n_batch, params.n_ubatch = int(sys.argv[2]), 512, 512
params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
params.swa_full = True
assert llama.llama_init_from_model(model, params)
print(json.dumps(lines))
"""


def header_part(path: Path) -> HeaderPart:
    """What a remote reader would know of a file: its header's bytes and its size."""
    data = path.read_bytes()
    reader = HeaderReader(file_size=len(data), keeps_bytes=True)
    while reader.needed is not None:
        start, stop = reader.needed
        reader.feed(data[start:stop], start)
    assert reader.raw is not None
    return HeaderPart(header=reader.raw, size=len(data))


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("no process was expected")

    monkeypatch.setattr(subprocess, "Popen", fail)


def test_a_header_is_enough_for_the_numbers_of_a_real_load(smollm2: Path) -> None:
    part = header_part(smollm2)
    assert len(part.header) < 2 << 20 < part.size
    answer = dry_run_header([part], contexts=(2048,), options=ContextOptions(flash_attn=False))
    assert answer.status == "ok", answer.reason
    run = subprocess.run(
        [sys.executable, "-c", REAL_LOAD, str(smollm2), "2048"],
        capture_output=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    real = read_sizes(json.loads(run.stdout))
    [planned] = answer.contexts
    assert planned.cache_bytes == real["cache_bytes"] == 45 << 20
    assert planned.host_compute_bytes == real["host_compute_bytes"] > 0
    assert planned.output_bytes == real["output_bytes"] > 0
    assert answer.weights_bytes == 96_576_768
    assert answer.vocab_size == 49152


def test_split_models_are_asked_about_from_their_headers(tmp_path: Path, chat_model: Path) -> None:
    parts = write_split_model(tmp_path, "split")
    answer = dry_run_header([header_part(part) for part in parts], contexts=(512,))
    assert answer.status == "ok", answer.reason
    whole = dry_run_file(chat_model, contexts=(512,))
    assert answer.contexts == whole.contexts
    assert answer.weights_bytes == whole.weights_bytes
    assert dry_run_file(parts[0], contexts=(512,)) == answer


def test_a_missing_shard_is_refused_in_llama_cpps_words(tmp_path: Path) -> None:
    parts = write_split_model(tmp_path, "split")
    parts[1].unlink()
    answer = dry_run_file(parts[0])
    assert answer.status == "refused"
    assert answer.reason is not None


def test_options_and_contexts_change_the_answer(tmp_path: Path) -> None:
    path = write_header(next(model for model in MODELS if model.name == "Llama-3.1-8B"), tmp_path)
    plain = dry_run_file(path, contexts=(32768,), options=ContextOptions(flash_attn=False)).contexts[0]
    lean = dry_run_file(
        path, contexts=(32768,), options=ContextOptions(flash_attn=True, type_k="q8_0", type_v="q8_0")
    ).contexts[0]
    assert plain.cache_bytes == 4096 << 20
    assert lean.cache_bytes == 2176 << 20
    assert lean.host_compute_bytes < plain.host_compute_bytes / 5


def test_between_two_answers_memory_lies_on_the_line(tmp_path: Path) -> None:
    path = write_header(next(model for model in MODELS if model.name == "Gemma-3-4B"), tmp_path)
    grid = dry_run_file(path)
    wanted = (600, 3000, 5000, 12345, 100_000)
    exact = dry_run_file(path, contexts=wanted)
    for n_ctx in wanted:
        guess, truth = grid.memory(n_ctx), exact.memory(n_ctx)
        assert guess is not None
        assert truth is not None
        assert guess.cache_bytes == pytest.approx(truth.cache_bytes, rel=0.001), n_ctx
        assert 0.998 * truth.compute_bytes <= guess.compute_bytes, f"{n_ctx}: the error is to the safe side"
        assert guess.cache_bytes + guess.compute_bytes <= 1.03 * (truth.cache_bytes + truth.compute_bytes), n_ctx
    assert grid.memory(CONTEXT_GRID[-1] + 1) is None, "beyond the last answer nothing is claimed"


def test_another_quantization_differs_by_its_weights_only(chat_model: Path) -> None:
    answer = dry_run_file(chat_model)
    own, other = answer.memory(4096), answer.memory(4096, weights_bytes=123)
    assert own is not None
    assert other is not None
    assert own.weights_bytes == answer.weights_bytes
    assert other.weights_bytes == 123
    assert other.vram_bytes - 123 == own.vram_bytes - own.weights_bytes


def test_a_file_that_aborts_llama_cpp_is_an_answer(tmp_path: Path, chat_model: Path) -> None:
    path = tmp_path / "twice.gguf"
    data = chat_model.read_bytes()
    assert data.count(b"<0x01>") == 1
    path.write_bytes(data.replace(b"<0x01>", b"<0x00>"))
    answer = dry_run_file(path)
    assert answer.status == "would_abort"
    assert answer.reason is not None
    assert "GGML_ASSERT" in answer.reason
    assert answer.memory(512) is None


def test_a_file_llama_cpp_does_not_know_is_refused_with_its_reason(tmp_path: Path, chat_model: Path) -> None:
    path = tmp_path / "unknown.gguf"
    path.write_bytes(chat_model.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0zzzzz", 1))
    answer = dry_run_file(path)
    assert answer.status == "refused"
    assert "zzzzz" in (answer.reason or "")


def test_a_slow_answer_is_given_up(chat_model: Path) -> None:
    answer = dry_run_file(chat_model, timeout_seconds=0.001)
    assert answer.status == "unavailable"
    assert "did not answer" in (answer.reason or "")


def test_answers_are_remembered_by_the_header(
    monkeypatch: pytest.MonkeyPatch, chat_model: Path, request: pytest.FixtureRequest
) -> None:
    part = header_part(chat_model)
    first = dry_run_header([part], contexts=(768,))
    request.getfixturevalue("no_child")
    assert dry_run_header([part], contexts=(768,)) is first
    with pytest.raises(AssertionError, match="no process"):
        dry_run_header([part], contexts=(1280,))


@pytest.mark.usefixtures("no_child")
def test_without_llama_cpp_nothing_is_started(monkeypatch: pytest.MonkeyPatch, chat_model: Path) -> None:
    monkeypatch.setattr(ask_child, "is_llama_cpp_installed", lambda: False)
    answer = dry_run_file(chat_model)
    assert answer == DryRun(status="unavailable", reason="llama-cpp-python is not installed.")


def test_devices_are_listed() -> None:
    devices = list_llama_devices()
    assert devices is not None
    for device in devices:
        assert 0 <= device.free <= device.total


def test_answering_takes_at_most_two_and_a_half_seconds_of_processor(smollm2: Path) -> None:
    """The user waits for this when a repository is opened. Processor time, since the machine may be busy."""
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert dry_run_file(smollm2).status == "ok"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.5


def test_on_a_gpu_the_buffers_there_count() -> None:
    planned = ContextMemory(n_ctx=4096, cache_bytes=90, host_compute_bytes=6, device_compute_bytes=98, output_bytes=1)
    answer = DryRun(status="ok", weights_bytes=92, contexts=(planned,))
    memory = answer.memory(4096)
    assert memory is not None
    assert memory.vram_bytes == 92 + 90 + 98
