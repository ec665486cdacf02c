"""Parts for the engine's tests: a source file, requests for it, and the copying manager."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from modeldeck._settings import Settings
from modeldeck._types import DownloadRequest, GGUFFile
from modeldeck.service.discovery import EnginePlace, find_place
from modeldeck.service.process import ProcessEngine

sys.path.append(str(Path(__file__).parent))  # for copying_manager, which the engine's child processes import too

RequestFactory = Callable[..., DownloadRequest]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.gguf"
    path.write_bytes(os.urandom(300_000))
    return path


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    path = tmp_path / "hub"
    path.mkdir()
    return path


@pytest.fixture
def make_request(source: Path, cache_dir: Path) -> RequestFactory:
    def make(name: str = "model.gguf", *, repo_id: str = "owner/name") -> DownloadRequest:
        return DownloadRequest(
            repo_id=repo_id,
            revision="main",
            commit_hash="c" * 40,
            variant_id=name,
            label=name,
            files=(GGUFFile(filename=name),),
            endpoint=str(source),
            cache_dir=str(cache_dir),
        )

    return make


class Engines:
    """The engine processes of one test: in a runtime directory of its own, and gone at the end."""

    def __init__(self, runtime_dir: Path, cache_dir: Path) -> None:
        self.runtime_dir = runtime_dir
        self.cache_dir = cache_dir
        self.settings = Settings(endpoint="https://hub.invalid", cache_dir=cache_dir)
        self.kernels: list[subprocess.Popen[str]] = []
        self.command = (sys.executable, str(Path(__file__).parent / "copying_engine.py"))

    @property
    def place(self) -> EnginePlace:
        return find_place(self.cache_dir)

    def connect(self) -> ProcessEngine:
        return ProcessEngine(self.place, self.cache_dir, command=self.command)

    def processes(self) -> list[psutil.Process]:
        """Every process that was started for this test's runtime directory and still runs."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if str(self.runtime_dir) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def wait_until(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true"
            time.sleep(0.01)


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
