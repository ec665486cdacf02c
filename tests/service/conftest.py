"""Parts for the engine's tests: a source file, requests for it, and the copying manager."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from modeldeck._types import DownloadRequest, GGUFFile

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
