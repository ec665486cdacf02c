"""What the tests of the engine's service share: a hub with slow files, requests for them, and engine processes."""

import hashlib
import random
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import msgspec
import psutil

from modeldeck._settings import Settings
from modeldeck._types import DownloadRequest, GGUFFile
from modeldeck.service.discovery import EnginePlace, find_place
from modeldeck.service.engine_client import EngineClient
from modeldeck.service.inline import InlineHome
from modeldeck.service.launch import ProcessHome
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub
from tools.localhub.faults import Throttle

TOKEN = "hf_secretsecretsecret"
SIZE_BYTES = 3_000_000
NAMES = ("model.gguf", "second.gguf", "third.gguf", "fourth.gguf")


@cache
def content_of(name: str) -> bytes:
    return b"GGUF" + random.Random(name).randbytes(SIZE_BYTES - 4)


def make_hub() -> LocalHub:
    """A hub with an open and a gated repository, which have the same files."""
    hub = LocalHub(tokens={TOKEN: {"gated/name"}})
    files = {name: content_of(name) for name in NAMES}
    hub.add_repo("owner/name", files, gguf={})
    hub.add_repo("gated/name", files, gguf={}, gated="manual")
    return hub


def slow_down(hub: LocalHub, bytes_per_second: float) -> None:
    """Make all downloads together as slow as this."""
    hub.faults.clear()
    hub.faults.add(Throttle(bytes_per_second, is_shared=True), origin="cdn")


def request_for(
    hub: LocalHub, cache_dir: Path, name: str = "model.gguf", *, repo_id: str = "owner/name"
) -> DownloadRequest:
    content = content_of(name)
    return DownloadRequest(
        repo_id=repo_id,
        revision="main",
        commit_hash=None,
        variant_id=name,
        label=name.removesuffix(".gguf"),
        files=(GGUFFile(filename=name, size=len(content), sha256=hashlib.sha256(content).hexdigest()),),
        endpoint=hub.endpoint,
        cache_dir=str(cache_dir),
    )


def blob_of(request: DownloadRequest) -> Path:
    digest = request.files[0].sha256
    assert digest is not None
    return blobs_of(request) / digest


def blobs_of(request: DownloadRequest) -> Path:
    return Path(request.cache_dir) / f"models--{request.repo_id.replace('/', '--')}" / "blobs"


def partials_of(request: DownloadRequest) -> list[Path]:
    return list(blobs_of(request).glob("*.part"))


def published(request: DownloadRequest) -> list[Path]:
    """Where the user finds the file; empty before the download is ready."""
    return list((blobs_of(request).parent / "snapshots").glob(f"*/{request.variant_id}"))


def assert_exact(request: DownloadRequest) -> None:
    """What the user finds is the file that the hub has."""
    (path,) = published(request)
    assert path.read_bytes() == content_of(request.variant_id)


def json_of(request: DownloadRequest) -> bytes:
    return msgspec.json.encode(request)


class Engines:
    """The engine processes of one test: in a runtime directory of its own, and gone at the end."""

    def __init__(self, runtime_dir: Path, cache_dir: Path) -> None:
        self.runtime_dir = runtime_dir
        self.cache_dir = cache_dir
        self.settings = Settings(endpoint="https://hub.invalid", cache_dir=cache_dir)
        self.kernels: list[subprocess.Popen[str]] = []

    @property
    def place(self) -> EnginePlace:
        return find_place(self.cache_dir)

    def connect(self, *, inline: bool = False) -> EngineClient:
        home = InlineHome(self.cache_dir) if inline else ProcessHome(self.place, self.cache_dir)
        return EngineClient(home)

    def processes(self) -> list[psutil.Process]:
        """Every process that was started for this test's runtime directory and still runs."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if str(self.runtime_dir) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def wait_until(self, condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true"
            time.sleep(0.01)
