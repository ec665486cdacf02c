"""The verdict's number for RAM against the memory a real process really takes."""

import subprocess
import sys
from pathlib import Path

import pytest

from modeldeck.gguf.header import read_header
from modeldeck.gguf.metadata import read_metadata
from modeldeck.sizing.memory import ContextOptions, memory_use
from tests.waiting import PATIENCE_SECONDS

pytestmark = [pytest.mark.llama, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

# VmHWM starts anew with the program; ru_maxrss would start at what the process of the tests had when it forked.
# The prompt fills the context: the scores of unused cells would never be touched. One thread: two are slower by far
# when the machine is busy.
PEAK = r"""
import pathlib, re, sys
from llama_cpp import Llama

path, n_ctx, flash_attn = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
llm = Llama(path, n_ctx=n_ctx, flash_attn=flash_attn, use_mmap=False, n_threads=1, n_threads_batch=1, verbose=False)
llm([llm.token_bos()] * (n_ctx - 8), max_tokens=2)
status = pathlib.Path("/proc/self/status").read_text()
print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024)
"""


@pytest.mark.parametrize("flash_attn", [False, True])
def test_ram_is_predicted_within_fifteen_percent(smollm2: Path, flash_attn: bool) -> None:
    n_ctx = 768
    command = [sys.executable, "-c", PEAK, str(smollm2), str(n_ctx), str(flash_attn)]
    run = subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE_SECONDS)
    peak = int(run.stdout.split()[-1])
    use = memory_use(
        read_metadata(read_header(smollm2)),
        weights_bytes=smollm2.stat().st_size,
        n_ctx=n_ctx,
        options=ContextOptions(flash_attn=flash_attn),
    )
    assert use is not None
    assert use.ram_bytes == pytest.approx(peak, rel=0.15)
