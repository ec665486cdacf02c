"""Memory in a container: control groups with a limit, of the version that this machine has."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.memory_group import MemoryGroup, limited_memory
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="control groups")

MIB = 1 << 20

JOIN = """
import os, shutil, sys
from pathlib import Path
from modeldeck.sizing.hardware import probe_hardware

group, path = (Path(argument) for argument in sys.argv[1:3])
(group / "cgroup.procs").write_text(str(os.getpid()))

def read(path):
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(1 << 20)
        while file.readinto(buffer):
            pass
"""

LOAD_THREE_TIMES = (
    JOIN
    + """
from modeldeck.llama import load

model = shutil.copy(path, sys.argv[3])  # its cached pages belong to the group
read(Path(model))
read(Path(model))
for _ in range(3):
    with load(model) as llm:
        llm("Hello", max_tokens=4)
        print(llm.n_ctx())
"""
)

USE_MEMORY = (
    JOIN
    + """
before = probe_hardware().ram_available
read(path)
read(path)
print(before, probe_hardware().ram_available)
wanted = int(sys.argv[3])
block = bytearray(wanted)
block[::4096] = bytes(len(range(0, wanted, 4096)))
print("used")
"""
)


def run_in(group: MemoryGroup, program: str, *arguments: object) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", program, str(group.path), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert group.kills == 0
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.mark.llama
def test_a_model_loads_again_and_again_in_little_memory(smollm2: Path, tmp_path: Path) -> None:
    with limited_memory(340 * MIB) as group:
        assert run_in(group, LOAD_THREE_TIMES, smollm2, tmp_path / "model.gguf") == ["4096"] * 3


def test_pages_of_a_file_that_was_read_twice_are_free(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1200 * MIB)
    with limited_memory(2048 * MIB) as group:
        before, after, used = run_in(group, USE_MEMORY, path, 1536 * MIB)
    assert int(after) > 1536 * MIB
    assert int(after) > int(before) - 64 * MIB
    assert used == "used"
