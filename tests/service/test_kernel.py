"""What happens to a download when its notebook kernel is busy, interrupted, restarted or killed: with a real kernel."""

import hashlib
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

from tests.service.engines import Engines
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub
from tools.localhub.faults import Throttle

CONTENT = b"GGUF" + random.Random(1).randbytes(8_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
BYTES_PER_SECOND = 1e6

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

START = """
import asyncio, ctypes, os, time
from pathlib import Path
from modeldeck._settings import Settings
from modeldeck._types import DownloadRequest, GGUFFile
from modeldeck.service.connect import connect_engine
settings = Settings(endpoint={endpoint!r}, cache_dir=Path({cache_dir!r}))
engine = connect_engine(settings)
assert engine.mode == "process", engine.notice
job = await engine.submit(DownloadRequest(
    repo_id="owner/name", revision="main", commit_hash=None, variant_id="model.gguf", label="model",
    files=(GGUFFile(filename="model.gguf", size={size}, sha256={sha256!r}),),
    endpoint=settings.endpoint, cache_dir=str(settings.cache_dir)))
print(job.job_id)
"""


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        hub.add_repo("owner/name", {"model.gguf": CONTENT})
        hub.faults.add(Throttle(BYTES_PER_SECOND, is_shared=True), origin="cdn")
        yield hub


class Kernel:
    """A kernel that has just started a slow download."""

    def __init__(self, hub: LocalHub, cache_dir: Path) -> None:
        self.manager: KernelManager
        self.client: BlockingKernelClient
        self.manager, self.client = start_new_kernel(kernel_name="python3")
        self._start = START.format(endpoint=hub.endpoint, cache_dir=str(cache_dir), size=len(CONTENT), sha256=SHA256)

    def start_download(self) -> str:
        return self.run(self._start)

    def run(self, code: str) -> str:
        """Run a cell to its end and give what it printed."""
        printed: list[str] = []

        def hear(message: dict[str, dict[str, str]]) -> None:
            printed.append(message["content"].get("text", ""))

        reply = self.client.execute_interactive(code, timeout=PATIENCE_SECONDS, output_hook=hear)
        assert reply["content"]["status"] == "ok", reply["content"]
        return "".join(printed).strip()

    def begin(self, code: str) -> str:
        """Start a cell that does not end, and wait until it runs. Gives its message's id."""
        # Otherwise the kernel refuses for a moment, after an interrupt, what comes next.
        cell: str = self.client.execute(code, stop_on_error=False)
        while True:
            message = self.client.get_iopub_msg(timeout=PATIENCE_SECONDS)
            if message["msg_type"] == "stream" and "running" in message["content"]["text"]:
                return cell

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(engines: Engines, hub: LocalHub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    monkeypatch.setenv("MODELDECK_ENGINE_IDLE_SECONDS", "0.1")
    kernel = Kernel(hub, cache_dir)
    yield kernel
    kernel.close()
    engines.wait_until(lambda: engines.processes() == [])  # nothing is left running


def blob(cache_dir: Path) -> Path:
    return cache_dir / "models--owner--name" / "blobs" / SHA256


def assert_ends_exact(engines: Engines, hub: LocalHub, cache_dir: Path) -> None:
    """The download, which must still be running, ends with the exact file."""
    assert not blob(cache_dir).exists()
    hub.faults.clear()
    engines.wait_until(blob(cache_dir).exists)
    assert blob(cache_dir).read_bytes() == CONTENT


def interrupt(kernel: Kernel) -> None:
    cell = kernel.begin("print('running', flush=True); time.sleep(1000)")
    kernel.manager.interrupt_kernel()
    while kernel.client.get_shell_msg(timeout=PATIENCE_SECONDS)["parent_header"]["msg_id"] != cell:
        pass
    assert kernel.run("print((await engine.status()).active)") == "1"


def restart(kernel: Kernel) -> None:
    kernel.manager.restart_kernel(now=False)


def restart_at_once(kernel: Kernel) -> None:
    kernel.manager.restart_kernel(now=True)


def close_notebook(kernel: Kernel) -> None:
    kernel.manager.shutdown_kernel(now=False)


def kill(kernel: Kernel) -> None:
    kernel.begin("print('running', flush=True)\nwhile True: pass")
    kernel.manager.shutdown_kernel(now=True)


def exit_at_once(kernel: Kernel) -> None:
    kernel.client.execute("os._exit(1)")


def crash(kernel: Kernel) -> None:
    kernel.client.execute("ctypes.string_at(0)")


@pytest.mark.parametrize("end", [interrupt, restart, restart_at_once, close_notebook, kill, exit_at_once, crash])
def test_the_download_goes_on_when_the_kernel(
    engines: Engines, kernel: Kernel, hub: LocalHub, cache_dir: Path, end: Callable[[Kernel], None]
) -> None:
    kernel.start_download()
    end(kernel)
    assert_ends_exact(engines, hub, cache_dir)


@pytest.mark.parametrize(
    "busy",
    [
        "while True: pass",
        "time.sleep(1000)",
        "ctypes.PyDLL(None).sleep(1000)  # holds the GIL: nothing else in this kernel runs",
    ],
)
def test_the_download_ends_while_a_cell_runs(
    engines: Engines, kernel: Kernel, hub: LocalHub, cache_dir: Path, busy: str
) -> None:
    kernel.start_download()
    kernel.begin(f"print('running', flush=True); time.sleep(0.1)\n{busy}")
    assert_ends_exact(engines, hub, cache_dir)


def test_a_restarted_kernel_finds_its_download_and_steers_it(
    engines: Engines, kernel: Kernel, cache_dir: Path, hub: LocalHub
) -> None:
    job_id = kernel.start_download()
    kernel.manager.restart_kernel(now=True)
    kernel.client.wait_for_ready(timeout=PATIENCE_SECONDS)
    seen = kernel.run(f"""
from pathlib import Path
from modeldeck._settings import Settings
from modeldeck.service.connect import connect_engine
engine = connect_engine(Settings(endpoint={hub.endpoint!r}, cache_dir=Path({str(cache_dir)!r})))
(job,) = engine.snapshots()
paused = await engine.act(job.job_id, "pause")
resumed = await engine.act(job.job_id, "resume")
print(job.job_id, job.state.is_final, paused.state)
""")
    assert seen == f"{job_id} False paused"
    assert_ends_exact(engines, hub, cache_dir)
