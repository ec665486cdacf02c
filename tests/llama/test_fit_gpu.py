"""What llama.cpp takes on a GPU is what was foreseen. Runs where llama.cpp can use a GPU, also one in software."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import modeldeck
from modeldeck.sizing.devices import list_llama_devices

pytestmark = pytest.mark.llama

N_CTX = 4096
PROGRAM = """
import sys
import modeldeck
llm = modeldeck.load(sys.argv[1], n_ctx=int(sys.argv[2]), n_gpu_layers=int(sys.argv[3]), verbose=True)
print(llm("The capital of France is", max_tokens=4, temperature=0)["choices"][0]["text"])
"""


def load_on_gpu(path: Path, n_gpu_layers: int) -> tuple[str, list[tuple[str, float]]]:
    """Return the answer, and the devices with the size of each of their buffers, in MiB, as llama.cpp reports them."""
    command = [sys.executable, "-c", PROGRAM, path, str(N_CTX), str(n_gpu_layers)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.findall(r"^\w+: +(\S+) (?:model|KV|compute) buffer size = +([\d.]+) MiB", result.stderr, re.MULTILINE)
    return result.stdout, [(device, float(mebibytes)) for device, mebibytes in found]


@pytest.mark.skipif(not list_llama_devices(), reason="llama.cpp can use no GPU here")
def test_all_layers_take_what_was_foreseen(smollm2: Path) -> None:
    foreseen = modeldeck.fit(smollm2, n_ctx=N_CTX)
    assert (foreseen.verdict, foreseen.method) == ("fits", "native")
    assert foreseen.needed_bytes is not None
    answer, buffers = load_on_gpu(smollm2, -1)
    assert "Paris" in answer
    on_gpu = [size for device, size in buffers if not device.startswith("CPU") and not device.endswith("_Host")]
    assert len(on_gpu) == 3, buffers
    assert sum(on_gpu) == pytest.approx(foreseen.needed_bytes / 2**20, abs=1)


@pytest.mark.skipif(not list_llama_devices(), reason="llama.cpp can use no GPU here")
def test_some_layers_answer_as_all_do(smollm2: Path) -> None:
    answer, buffers = load_on_gpu(smollm2, 10)
    assert "Paris" in answer
    assert any(device.startswith("CPU") and size > 0 for device, size in buffers)
