"""`modeldeck.fit`: models on disk are judged without any network."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import modeldeck
from modeldeck import FitEstimate, GGUFError, InvalidRequestError, LoadFailedError, RemoteFileNotFoundError
from modeldeck.llama import Measurement, MeasurementStore
from modeldeck.service.discovery import find_state_directory
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub
from tools.localhub.tiny_models import write_chat_model, write_projector, write_split_model

TINY = "modeldeck-demo/tiny-chat-GGUF"
VISION = "modeldeck-demo/tiny-vision-GGUF"

Judge = Callable[..., FitEstimate]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache; the Hub's address is one that nobody answers."""
    monkeypatch.setenv("MODELDECK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    return tmp_path / "cache"


@pytest.fixture
def judge(cache: Path) -> Judge:
    return partial(modeldeck.fit, cache_dir=cache)


@pytest.mark.llama
def test_a_file_is_judged_by_llama_cpp_and_by_formula(tmp_path: Path, cache: Path, judge: Judge) -> None:
    path = write_chat_model(tmp_path / "model.gguf")
    exact, quick = judge(path, n_ctx=1024), judge(str(path), n_ctx=1024, exact=False)
    assert (exact.verdict, exact.method, exact.n_ctx) == ("fits", "native", 1024)
    assert (quick.verdict, quick.method, quick.n_ctx) == ("fits", "formula", 1024)
    assert exact.max_n_ctx == quick.max_n_ctx == 2048
    assert judge(path, n_ctx=0).n_ctx == 2048


def test_a_split_model_counts_as_a_whole(tmp_path: Path, cache: Path, judge: Judge) -> None:
    parts = write_split_model(tmp_path, "split")
    whole = sum(part.stat().st_size for part in parts)
    fit = judge(parts[0], exact=False)
    other = judge(write_chat_model(tmp_path / "one.gguf"), exact=False)
    assert fit.needed_bytes is not None
    assert other.needed_bytes is not None
    assert fit.needed_bytes - other.needed_bytes == whole - (tmp_path / "one.gguf").stat().st_size
    with pytest.raises(LoadFailedError, match="not the first"):
        judge(parts[1])


def test_a_model_of_the_cache_has_many_names(demo_hub: LocalHub, cache: Path, judge: Judge) -> None:
    model = modeldeck.download(VISION, endpoint=demo_hub.endpoint, cache_dir=cache, inline=True)
    demo_hub.stop()
    named = [judge(name, exact=False) for name in (model, f"{VISION}:{model.label}", model.path, VISION)]
    needed = {fit.needed_bytes for fit in named}
    assert len(needed) == 1
    [with_projector] = needed
    alone = judge(model.path.resolve(), exact=False).needed_bytes
    assert with_projector is not None
    assert alone is not None
    assert with_projector - alone in (0, model.sidecar_paths[0].stat().st_size)


def test_a_measured_file_says_so(tmp_path: Path, cache: Path, judge: Judge) -> None:
    path = write_chat_model(tmp_path / "model.gguf")
    directory = find_state_directory(cache)
    assert directory is not None
    measured = Measurement(load_seconds=1.0, tokens_per_second=12.5, memory_bytes=1, n_ctx=512)
    MeasurementStore(directory).save(path, measured)
    fit = judge(path, exact=False)
    assert (fit.tokens_per_second, fit.speed_source) == (12.5, "measured")


def test_what_is_not_a_model_is_refused(tmp_path: Path, cache: Path, judge: Judge) -> None:
    zipped = tmp_path / "model.gguf"
    zipped.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(GGUFError, match="zip archive"):
        judge(zipped)
    with pytest.raises(LoadFailedError, match="vision projector"):
        judge(write_projector(tmp_path / "mmproj.gguf"))
    with pytest.raises(InvalidRequestError, match="neither a file nor a repository"):
        judge("missing.gguf")
    with pytest.raises(RemoteFileNotFoundError, match="not in the cache"):
        judge(TINY)
    with pytest.raises(InvalidRequestError, match="n_ctx"):
        judge(zipped, n_ctx=-1)


@pytest.mark.llama
def test_a_file_that_llama_cpp_refuses_is_unusable(tmp_path: Path, cache: Path, judge: Judge) -> None:
    path = tmp_path / "unknown.gguf"
    data = write_chat_model(tmp_path / "model.gguf").read_bytes()
    path.write_bytes(data.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0zzzzz", 1))
    fit: FitEstimate = judge(path)
    assert fit.verdict == "unusable"
    assert "zzzzz" in (fit.reason or "")


def test_the_command(tmp_path: Path, cache: Path) -> None:
    path = write_chat_model(tmp_path / "model.gguf")

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "modeldeck", "fit", str(path), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_SECONDS).stdout

    record = json.loads(run("--json", "--n-ctx", "512"))
    assert (record["verdict"], record["n_ctx"], record["max_n_ctx"]) == ("fits", 512, 2048)
    text = run()
    assert text.startswith("Fits. It needs ")
    assert "The context can be up to 2048 tokens long." in text
