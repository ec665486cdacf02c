"""Loading: stages, cancel, reasons, defaults, split models, embeddings, images."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from modeldeck._errors import (
    DoesNotFitError,
    GGUFError,
    InvalidRequestError,
    LlamaMissingError,
    LoadCancelledError,
    LoadFailedError,
)
from modeldeck._types import LoadProgress
from modeldeck.llama import availability, load
from modeldeck.sizing.hardware import cpu_count
from tools.localhub import tiny_models
from tools.localhub.tiny_models import ANSWER

pytestmark = pytest.mark.llama

ONE_THREAD = {"n_threads": 1, "n_threads_batch": 1}
STAGES = ["reading", "opening", "loading", "ready"]


def stages_of(seen: list[LoadProgress]) -> list[str]:
    """Each stage once, in the order it was entered."""
    return [each.stage for number, each in enumerate(seen) if number == 0 or seen[number - 1].stage != each.stage]


# --- stages and cancel ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_mmap", [False, True])
def test_progress_goes_through_all_stages(smollm2: Path, use_mmap: bool) -> None:
    seen: list[LoadProgress] = []
    with load(smollm2, n_ctx=512, use_mmap=use_mmap, progress=seen.append) as llm:
        assert llm.is_loaded
    assert stages_of(seen) == STAGES
    for stage in STAGES:
        fractions = [each.fraction for each in seen if each.stage == stage and each.fraction is not None]
        assert fractions == sorted(fractions)
        assert all(0 <= fraction <= 1 for fraction in fractions)
    assert len([each for each in seen if each.stage == "loading"]) > 100
    if use_mmap:
        assert [each.fraction for each in seen if each.stage == "reading"][-1] == 1.0
    assert seen[-1] == LoadProgress(stage="ready", fraction=1.0)


@pytest.mark.parametrize("use_mmap", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_cancel_in_each_stage(smollm2: Path, stage: str, use_mmap: bool) -> None:
    cancel = threading.Event()
    seen: list[LoadProgress] = []

    def progress(now: LoadProgress) -> None:
        seen.append(now)
        if now.stage == stage and (now.fraction is None or now.fraction > 0.3):
            cancel.set()

    if stage == "ready":
        load(smollm2, n_ctx=512, use_mmap=use_mmap, progress=progress, cancel=cancel).unload()
        return  # too late: the caller has the model
    with pytest.raises(LoadCancelledError):
        load(smollm2, n_ctx=512, use_mmap=use_mmap, progress=progress, cancel=cancel)
    assert stages_of(seen)[-1] == stage
    assert len([each for each in seen if each.stage == "loading"]) < 250


def test_memory_comes_back(run_child: Any, smollm2: Path) -> None:
    """Memory is freed by unload, by dropping the last reference, and by cancelling a load, without the collector."""
    outcome = run_child(
        """
        import gc, psutil, threading
        from modeldeck.llama import load
        from modeldeck._errors import LoadCancelledError
        load(tiny).unload()
        gc.disable()
        process = psutil.Process()
        before = process.memory_info().rss

        def grown():
            return (process.memory_info().rss - before) >> 20

        llm = load(smollm2, n_ctx=2048, n_threads=1, n_threads_batch=1)
        llm("Hello", max_tokens=3)
        loaded = grown()
        llm.unload()
        print("unloaded", loaded, grown())

        llm = load(smollm2, n_ctx=2048, n_threads=1, n_threads_batch=1)
        stream = llm("Hello", max_tokens=9, stream=True)
        next(stream)
        del llm, stream
        print("dropped", grown())

        for _ in range(4):  # a cell that is run again
            llm = load(smollm2, n_ctx=2048, n_threads=1, n_threads_batch=1)
            llm("Hello", max_tokens=3)
        print("again", grown())
        del llm

        cancel = threading.Event()
        reached = []

        def watch(progress):
            reached.append(grown())
            if (progress.fraction or 0) > 0.9:
                cancel.set()

        try:
            load(smollm2, cancel=cancel, progress=watch)
        except LoadCancelledError:
            print("cancelled", max(reached), grown())
        """,
        smollm2=smollm2,
        tiny=smollm2,
    )
    assert outcome.exit_code == 0, outcome.output
    (_, loaded, after_unload), (_, after_drop), (_, again), (_, while_loading, after_cancel) = map(
        str.split, outcome.lines
    )
    assert int(loaded) > 130
    assert int(again) < int(loaded) + 25
    assert int(while_loading) > 60
    assert max(int(after_unload), int(after_drop), int(after_cancel)) < 25


def test_an_exception_in_progress_ends_the_load(chat_model: Path) -> None:
    def progress(now: LoadProgress) -> None:
        if now.stage == "loading":
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        load(chat_model, progress=progress)


def test_stdout_stays_where_it_is(run_child: Any, chat_model: Path) -> None:
    """Plain llama-cpp-python loses what is printed while it loads, and with two loads at once stdout itself."""
    outcome = run_child(
        """
        import os, sys, threading
        from modeldeck.llama import load

        def work():
            for _ in range(15):
                load(path, n_threads=1, n_threads_batch=1).unload()

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        count = 0
        while any(thread.is_alive() for thread in threads):
            print("line", count, flush=True)
            os.write(1, b"raw\\n")
            count += 1
        print("count", count)
        """,
        path=chat_model,
    )
    assert outcome.exit_code == 0, outcome.output
    count = int(outcome.lines[-1].split()[1])
    assert count > 10
    assert [line for line in outcome.lines if line.startswith("line")] == [f"line {n}" for n in range(count)]
    assert outcome.lines.count("raw") == count
    assert len(outcome.lines) == 2 * count + 1


def test_the_log_of_other_models_is_left_alone(chat_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import llama_cpp

    load(chat_model).unload()
    assert capfd.readouterr() == ("", "")
    with load(chat_model, verbose=True):
        pass
    assert "llama_model_loader: loaded meta data" in capfd.readouterr().err
    llama_cpp.Llama(str(chat_model), verbose=True).close()
    assert "llama_model_loader: loaded meta data" in capfd.readouterr().err


# --- files that cannot be loaded --------------------------------------------------------------------------------------


def test_reasons_are_readable(tmp_path: Path, chat_model: Path) -> None:
    data = chat_model.read_bytes()

    def refusal(name: str, content: bytes) -> str:
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        with pytest.raises((GGUFError, LoadFailedError)) as caught:
            load(path)
        return caught.value.message

    assert "not a GGUF file" in refusal("html", b"<!DOCTYPE html><html>")
    assert "not a GGUF file" in refusal("pointer", b"version https://git-lfs.github.com/spec/v1\n")
    assert "is incomplete: it has 0 bytes" in refusal("empty", b"")
    assert f"it has {len(data) - 1000:,} bytes" in refusal("truncated", data[:-1000])
    assert "unknown model architecture: 'llamb'" in refusal("architecture", data.replace(b"llama", b"llamb"))
    assert "blk.1.attn_q.weight" in refusal("tensor", data.replace(b"blk.1.attn_q.weight", b"blk.1.attn_x.weight"))
    with pytest.raises(LoadFailedError, match=r"^nowhere\.gguf cannot be read: No such file"):
        load(tmp_path / "nowhere.gguf")


def test_a_file_that_would_end_the_process(run_child: Any, tmp_path: Path, chat_model: Path) -> None:
    """llama.cpp asserts that no token is in the vocabulary twice, and the header does not show it."""
    path = tmp_path / "twice.gguf"
    path.write_bytes(
        chat_model.read_bytes().replace(b"<|user|>", b"</s>\0\0\0\0").replace(b"<|system|>", b"</s>\0\0\0\0\0\0")
    )
    outcome = run_child(
        """
        from modeldeck.llama import load
        for _ in range(2):
            try:
                load(path)
            except Exception as error:
                print(type(error).__name__, error)
        print(load(good, n_threads=1, n_threads_batch=1)("x", max_tokens=9)["choices"][0]["text"])
        """,
        path=path,
        good=chat_model,
    )
    assert outcome.exit_code == 0, outcome.output
    assert outcome.lines[0].startswith("LoadFailedError llama.cpp cannot load twice.gguf: llama-vocab.cpp")
    assert outcome.lines[-1] == ANSWER


def test_damaged_headers_never_end_the_process(run_child: Any, tmp_path: Path, chat_model: Path) -> None:
    outcome = run_child(
        """
        import random
        from modeldeck._errors import ModelDeckError
        from modeldeck.llama import load
        data = good.read_bytes()
        header = data.index(b"output_norm.weight") + 4000
        randomness = random.Random(7)
        loaded = refused = 0
        for number in range(150):
            mutated = bytearray(data)
            for _ in range(randomness.randint(1, 4)):
                place = randomness.randrange(header)
                mutated[place] = randomness.choice((0, 1, 0x7F, 0xFF, randomness.randrange(256)))
            path.write_bytes(mutated)
            try:
                with load(path, n_threads=1, n_threads_batch=1, n_ctx=256) as llm:
                    llm("x", max_tokens=3)
                loaded += 1
            except (ModelDeckError, RuntimeError, ValueError, IndexError) as error:
                refused += 1
        print(loaded, refused)
        """,
        path=tmp_path / "mutated.gguf",
        good=chat_model,
    )
    assert outcome.exit_code == 0, outcome.output[-3000:]
    loaded, refused = map(int, outcome.lines[-1].split())
    assert loaded > 30
    assert refused > 50


def test_too_large_is_refused_before_anything_is_allocated(smollm2: Path) -> None:
    with pytest.raises(DoesNotFitError, match=r"Up to n_ctx=\d+ fits") as caught:
        load(smollm2, n_ctx=50_000_000)
    assert caught.value.needed_bytes > caught.value.available_bytes > 0
    assert caught.value.max_n_ctx == 8192


# --- defaults and pass-through ----------------------------------------------------------------------------------------


def test_defaults_suit_a_notebook(chat_model: Path, smollm2: Path) -> None:
    import llama_cpp

    with load(chat_model) as llm:
        assert llm.n_ctx() == tiny_models.CONTEXT_LENGTH
        assert (llm.n_threads, llm.n_threads_batch) == (cpu_count(), cpu_count())
        assert llm.model_params.load_mode == llama_cpp.LLAMA_LOAD_MODE_NONE
        assert llm.context_params.flash_attn_type == llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        assert llm.verbose is False
        assert isinstance(llm, llama_cpp.Llama)
    with load(smollm2) as llm:
        assert llm.n_ctx() == 4096


def test_options_pass_through(chat_model: Path) -> None:
    import llama_cpp

    with load(
        chat_model, n_ctx=512, n_batch=64, n_threads=1, use_mmap=True, flash_attn=False, chat_format="chatml", seed=7
    ) as llm:
        assert (llm.n_ctx(), llm.n_batch, llm.n_threads, llm._seed) == (512, 64, 1, 7)
        assert llm.model_params.load_mode == llama_cpp.LLAMA_LOAD_MODE_MMAP
        assert llm.context_params.flash_attn_type == llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        assert llm.chat_format == "chatml"
    with load(chat_model, n_ctx=0) as llm:
        assert llm.n_ctx() == tiny_models.CONTEXT_LENGTH
    with pytest.raises(InvalidRequestError, match="has no option n_contexts"):
        load(chat_model, n_contexts=512)


@pytest.mark.parametrize(("asked", "got"), [(1, 256), (100, 256), (256, 256), (1000, 1024), (None, 2048), (0, 2048)])
def test_the_context_that_a_model_reports_can_be_used(chat_model: Path, asked: int | None, got: int) -> None:
    with load(chat_model, n_ctx=asked, **ONE_THREAD) as llm:
        assert llm.n_ctx() == llm._n_ctx == got
        assert f"n_ctx={got}" in repr(llm)
        llm.eval([5] * got)
        assert llm.n_tokens == got
        with pytest.raises(RuntimeError):
            llm.eval([5])


# --- split models, embeddings, images ---------------------------------------------------------------------------------


def test_a_split_model_in_a_cache_of_links(tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    parts = []
    for number, part in enumerate(tiny_models.write_split_model(tmp_path / "made", "model")):
        blob = tmp_path / "blobs" / str(number)
        blob.parent.mkdir(exist_ok=True)
        part.rename(blob)
        link = snapshot / part.name
        link.symlink_to(os.path.relpath(blob, snapshot))
        parts.append(link)
    with load(parts[0], **ONE_THREAD) as llm:
        assert llm("What?", max_tokens=20)["choices"][0]["text"] == ANSWER
    with pytest.raises(LoadFailedError, match=r"Load model-00001-of-00003\.gguf instead"):
        load(parts[1])
    with pytest.raises(LoadFailedError, match="do not rename it or resolve its link"):
        load(parts[0].resolve())
    parts[2].unlink()
    with pytest.raises(LoadFailedError, match=r"model-00003-of-00003\.gguf is missing"):
        load(parts[0])


def test_an_embedding_model_embeds_without_being_told(embedding_model: Path) -> None:
    with load(embedding_model, **ONE_THREAD) as llm:
        vectors = llm.embed(["the cat sat", "the cat sat", "quantum 123"], normalize=True)
        answer = llm.create_embedding("the cat sat")
        long_text = llm.embed("a b c d " * 500)
    assert len(vectors[0]) == 32
    assert vectors[0] == pytest.approx(vectors[1])
    assert vectors[0] != pytest.approx(vectors[2])
    assert len(answer["data"][0]["embedding"]) == 32
    assert len(long_text) == 32


@pytest.mark.parametrize("has_template", [True, False])
def test_a_vision_pair_sees_images(tmp_path: Path, projector: Path, red_square: str, has_template: bool) -> None:
    template = tiny_models.CHAT_TEMPLATE if has_template else None
    path = tiny_models.write_chat_model(tmp_path / "vision.gguf", chat_template=template)
    content = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": red_square}}]
    with load(path, mmproj=projector, **ONE_THREAD) as llm:
        with_image = llm.create_chat_completion([{"role": "user", "content": content}])
        without = llm.create_chat_completion([{"role": "user", "content": "What?"}])
        pieces = list(llm.create_chat_completion([{"role": "user", "content": content}], stream=True))
    for answer in (with_image, without):
        assert answer["choices"][0]["message"]["content"] == ANSWER
    assert "".join(piece["choices"][0]["delta"].get("content") or "" for piece in pieces) == ANSWER
    image_tokens = with_image["usage"]["prompt_tokens"] - without["usage"]["prompt_tokens"]
    assert not has_template or image_tokens == 4


def test_a_projector_of_another_model_is_an_error_of_the_load(
    smollm2: Path, projector: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(LoadFailedError, match=r"mmproj-chat\.gguf cannot be loaded with this model: .*n_embd"):
        load(smollm2, n_ctx=512, mmproj=projector)
    assert capfd.readouterr() == ("", "")


def test_a_projector_that_would_crash_is_refused(
    run_child: Any, tmp_path: Path, chat_model: Path, projector: Path
) -> None:
    """Without one of its tensors llama.cpp follows a null pointer."""
    path = tmp_path / "mmproj-damaged.gguf"
    path.write_bytes(projector.read_bytes().replace(b"mm.0.bias", b"mm.0.none"))
    outcome = run_child(
        """
        from modeldeck.llama import load
        try:
            load(model, mmproj=path)
        except Exception as error:
            print(type(error).__name__, error)
        """,
        path=path,
        model=chat_model,
    )
    assert outcome.exit_code == 0, outcome.output
    assert outcome.output.startswith("LoadFailedError The vision projector mmproj-damaged.gguf makes llama.cpp crash")


# --- llama-cpp-python itself ------------------------------------------------------------------------------------------


def test_it_is_imported_as_late_as_can_be() -> None:
    code = "import sys, modeldeck.llama as l; l.availability(); sys.exit('llama_cpp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert availability().is_available
    assert availability().version


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (
            "Failed to load shared library '/x/libllama.so': libgomp.so.1: cannot open shared object file: No such",
            "the system library libgomp.so.1 is missing. Install GNU OpenMP (apt-get install libgomp1,",
        ),
        ("libcudart.so.12: cannot open shared object file", "Install the CUDA version that this"),
        ("libother.so: cannot open shared object file", "Install the system package that has it, then restart"),
        (
            "/lib/libc.so.6: version `GLIBC_2.38' not found (required by /x/libllama.so)",
            "was built for a newer system: GLIBC_2.38 is missing here",
        ),
        ("No module named 'numpy'", "cannot be imported: No module named 'numpy'. Reinstall it with"),
    ],
)
def test_an_import_that_fails_says_what_is_missing(tmp_path: Path, reason: str, expected: str) -> None:
    """The test imports a package of that name, which fails as the real one does."""
    (tmp_path / "llama_cpp").mkdir()
    (tmp_path / "llama_cpp" / "__init__.py").write_text(f"raise RuntimeError({reason!r})")
    code = "from modeldeck.llama.install import import_llama_cpp\ntry: import_llama_cpp()\n"
    code += "except Exception as error: print(type(error).__name__, error)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    output = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert output.startswith("LlamaMissingError llama-cpp-python is installed")
    assert expected in output
    assert ("pip install" in output) == ("cannot open" not in reason)


def test_without_it_the_message_names_both_ways(chat_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = availability()
    assert not found.is_available
    with pytest.raises(LlamaMissingError) as caught:
        load(chat_model)
    for message in (found.message, caught.value.message):
        assert 'pip install "modeldeck[llama]"' in str(message)
        assert "CPU wheel index" in str(message)
