"""A hub, an empty cache, and engine processes that are gone after the test."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modeldeck._types import DownloadRequest
from tests.service.engines import Engines, make_hub, request_for
from tools.localhub import LocalHub

RequestFactory = Callable[..., DownloadRequest]


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    path = tmp_path / "hub"
    path.mkdir()
    return path


@pytest.fixture
def slow_hub() -> Iterator[LocalHub]:
    with make_hub() as hub:
        yield hub


@pytest.fixture
def make_request(slow_hub: LocalHub, cache_dir: Path) -> RequestFactory:
    def make(name: str = "model.gguf", *, repo_id: str = "owner/name") -> DownloadRequest:
        return request_for(slow_hub, cache_dir, name, repo_id=repo_id)

    return make


@pytest.fixture
def engines(tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engines]:
    with tempfile.TemporaryDirectory(prefix="modeldeck-test-") as directory:
        monkeypatch.setenv("MODELDECK_RUNTIME_DIR", directory)
        monkeypatch.setenv("MODELDECK_STATE_DIR", str(tmp_path / "state"))
        monkeypatch.setenv("MODELDECK_ENGINE_IDLE_SECONDS", "20")
        engines = Engines(Path(directory), cache_dir)
        yield engines
        for kernel in engines.kernels:
            kernel.kill()
            kernel.wait()
        for process in engines.processes():
            process.kill()
        engines.wait_until(lambda: not engines.processes())
