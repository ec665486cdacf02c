"""A hub with one model, an empty cache, and the invariants that hold after every download."""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import pytest

from modeldeck._types import DownloadRequest, DownloadSnapshot, DownloadState, EngineLimits, GGUFFile
from modeldeck.engine.manager import DownloadManager
from modeldeck.engine.patience import Patience
from modeldeck.engine.retry import RetryPolicy
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub
from tools.processes import without_hub_settings

TOKEN = "hf_testtesttest"
QUICK = RetryPolicy(max_attempts=5, base_seconds=0.01, cap_seconds=0.05)
IMPATIENT = Patience(connect_seconds=5.0, silence_seconds=1.0, drip_seconds=2.0, drip_bytes=1000)


@cache
def random_bytes(size: int, seed: int = 1) -> bytes:
    return b"GGUF" + random.Random(seed).randbytes(size - 4)


@cache
def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def user_environment(demo_hub: LocalHub, tmp_path: Path) -> dict[str, str]:
    """The environment of a user whose Hub is the demo's: for commands and scripts in processes of their own."""
    return {
        **without_hub_settings(os.environ),
        "HF_ENDPOINT": demo_hub.endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "MODELDECK_INLINE": "1",
        "MODELDECK_STATE_DIR": str(tmp_path / "state"),
        "MODELDECK_RUNTIME_DIR": str(tmp_path / "run"),
    }


@dataclass
class Playground:
    hub: LocalHub
    cache_dir: Path
    state_dir: Path
    repo_id: str = "owner/name"
    filename: str = "model-Q4_K_M.gguf"
    content: bytes = b""
    commit_hash: str = ""
    published: list[Path] = field(default_factory=list)

    def put(self, content: bytes, **repo: Any) -> None:
        self.content = content
        self.commit_hash = self.hub.add_repo(self.repo_id, {self.filename: content}, gguf={}, **repo)

    @property
    def sha256(self) -> str:
        return sha256_of(self.content)

    def file(self, **changes: Any) -> GGUFFile:
        return GGUFFile(**{"filename": self.filename, "size": len(self.content), "sha256": self.sha256, **changes})

    def request(self, **changes: Any) -> DownloadRequest:
        values: dict[str, Any] = {
            "repo_id": self.repo_id,
            "revision": "main",
            "commit_hash": self.commit_hash,
            "variant_id": self.filename,
            "label": "Q4_K_M",
            "files": (self.file(),),
            "endpoint": self.hub.endpoint,
            "cache_dir": str(self.cache_dir),
        }
        return DownloadRequest(**{**values, **changes})

    def manager(self, **changes: Any) -> DownloadManager:
        values: dict[str, Any] = {
            "limits": EngineLimits(),
            "state_dir": None,
            "policy": QUICK,
            "patience": IMPATIENT,
        }
        return DownloadManager(**{**values, **changes})

    async def download(self, *, token: str | None = TOKEN, **changes: Any) -> DownloadSnapshot:
        async with self.manager(**changes) as manager:
            job = await manager.submit(self.request(), token=token)
            return await manager.wait(job.job_id)

    @property
    def repo_dir(self) -> Path:
        return self.cache_dir / f"models--{self.repo_id.replace('/', '--')}"

    @property
    def blob(self) -> Path:
        return self.repo_dir / "blobs" / self.sha256

    @property
    def pointer(self) -> Path:
        return self.repo_dir / "snapshots" / self.commit_hash / self.filename

    def left_overs(self) -> list[str]:
        """Return the names in ``blobs`` that do not belong to blobs."""
        if not (self.repo_dir / "blobs").is_dir():
            return []
        return sorted(p.name for p in (self.repo_dir / "blobs").iterdir() if not re.fullmatch(r"[0-9a-f]{64}", p.name))

    def assert_exact(self, snapshot: DownloadSnapshot) -> None:
        assert snapshot.state is DownloadState.READY, snapshot.error
        assert snapshot.error is None
        assert snapshot.percent == 100
        assert snapshot.received == snapshot.total == len(self.content)
        assert self.pointer.read_bytes() == self.content
        assert (self.repo_dir / "refs" / "main").read_bytes() == self.commit_hash.encode()
        assert self.left_overs() == []

    def assert_failed(self, snapshot: DownloadSnapshot, code: str) -> None:
        assert snapshot.state is DownloadState.FAILED, snapshot
        assert snapshot.error is not None
        assert snapshot.error.code == code, snapshot.error
        assert not self.blob.exists()
        assert not self.pointer.exists()

    def assert_sound(self) -> None:
        """Assert that no unverified file has a final name, no other origin got a token, and nothing lies elsewhere."""
        for path in self.cache_dir.glob("models--*/blobs/*"):
            if re.fullmatch(r"[0-9a-f]{64}", path.name):
                assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        for path in self.cache_dir.glob("models--*/snapshots/*/**/*"):
            assert not path.is_file() or path.resolve().parent.name == "blobs"
        assert not [record for record in self.hub.requests.to("cdn") if "authorization" in record.headers]
        assert {p.name for p in self.cache_dir.parent.iterdir()} <= {"cache", "state", "hub", "elsewhere"}


Until = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.fixture
def until() -> Until:
    """Wait for a condition that has no event."""

    async def wait(condition: Callable[[], object]) -> None:
        with anyio.fail_after(PATIENCE_SECONDS):
            while not condition():  # noqa: ASYNC110
                await anyio.sleep(0.01)

    return wait


@pytest.fixture
def playground(tmp_path: Path) -> Iterator[Playground]:
    with LocalHub(tokens={TOKEN: ()}) as hub:
        place = Playground(hub, tmp_path / "cache", tmp_path / "state")
        place.put(random_bytes(24 << 20))
        yield place
        place.assert_sound()
