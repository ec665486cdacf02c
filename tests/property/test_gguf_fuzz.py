"""Mutated headers: the reader answers or raises GGUFError, quickly, and refuses nothing that llama.cpp loads."""

import json
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modeldeck._errors import GGUFError
from modeldeck.gguf.header import GGUFHeader, HeaderReader
from modeldeck.gguf.metadata import read_metadata
from modeldeck.gguf.model_facts import model_traits
from modeldeck.sizing.estimate import estimate_fit
from modeldeck.sizing.hardware import Hardware
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import tiny_models

MUTATIONS = 20_000
MUTATIONS_FOR_LLAMA = 2_000
SLOWEST_SECONDS = 1.0
"""Of processor time: what a few kilobytes must never take. The longest is 2 ms; garbage may be collected meanwhile."""

MACHINE = Hardware(ram_total=8 << 30, ram_available=8 << 30, cpu_count=2)
INTERESTING = (
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    10,
    31,
    63,
    64,
    255,
    2**15,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**61,
    2**63,
    2**64 - 1,
)

# Each file is loaded in a fork, so that an abort costs one fork; importing llama_cpp for each would take minutes.
LOAD_EACH = """
import json, os, sys
import llama_cpp.llama_cpp as llama

callback = llama.llama_log_callback(lambda level, text, _: None)
llama.llama_log_set(callback, None)
llama.llama_backend_init()
params = llama.llama_model_default_params()
params.n_gpu_layers = 0
loaded = []
for path in json.load(sys.stdin):
    child = os.fork()
    if child == 0:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        os._exit(0 if llama.llama_model_load_from_file(path.encode(), params) else 1)
    _, status = os.waitpid(child, 0)
    if status == 0:
        loaded.append(path)
print(json.dumps(loaded))
"""


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("seeds")
    paths = [
        tiny_models.write_chat_model(folder / "chat.gguf"),
        tiny_models.write_embedding_model(folder / "embedding.gguf"),
        *tiny_models.write_split_model(folder, "split"),
    ]
    return [path.read_bytes() for path in paths]


def header_size(data: bytes) -> int:
    header = read(data, file_size=len(data))
    assert header.data_offset is not None
    return header.data_offset


def read(data: bytes, *, file_size: int | None, is_quick: bool = False, step: int = 1 << 30) -> GGUFHeader:
    reader = HeaderReader(file_size=file_size, is_quick=is_quick)
    while reader.needed is not None:
        start, stop = reader.needed
        reader.feed(data[start : min(stop, start + step)], start)
    assert reader.header is not None
    return reader.header


def mutated(random_: random.Random, seed: bytes, size: int) -> bytes:
    """One to three changes of a file, all of them inside its header."""
    data = bytearray(seed)
    for _ in range(random_.choice((1, 1, 1, 2, 3))):
        place = random_.randrange(min(size, len(data)))
        match random_.choice((0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 6)):
            case 0:
                data[place] ^= 1 << random_.randrange(8)
            case 1:
                data[place] = random_.randrange(256)
            case 2:
                data[place : place + 4] = struct.pack("<I", random_.choice(INTERESTING) & 0xFFFFFFFF)
            case 3:
                data[place : place + 8] = struct.pack("<Q", random_.choice(INTERESTING))
            case 4:
                del data[place : place + random_.randint(1, 16)]
            case 5:
                data[place:place] = random_.randbytes(random_.randint(1, 16))
            case 6:
                data = data[: place + 1]
    return bytes(data)


def mutations(seeds: list[bytes], count: int) -> Iterator[bytes]:
    random_ = random.Random(20261123)
    sized = [(seed, header_size(seed)) for seed in seeds]
    for _ in range(count):
        seed, size = random_.choice(sized)
        # Half of the changes hit the first part, where the counts and the model's numbers are.
        yield mutated(random_, seed, random_.choice((size, min(size, 2000))))


def is_refused(data: bytes) -> bool:
    try:
        read_metadata(read(data, file_size=len(data)))
    except GGUFError:
        return True
    return False


def test_only_gguf_errors_and_never_slow(seeds: list[bytes]) -> None:
    random_ = random.Random(1)
    refused, slowest = 0, 0.0
    for data in mutations(seeds, MUTATIONS):
        file_size = random_.choice((None, len(data)))
        step = random_.choice((1 << 30, 4096))
        started = time.thread_time()
        try:
            header = read(data, file_size=file_size, is_quick=random_.random() < 0.3, step=step)
            metadata = read_metadata(header)
            model_traits(metadata)
            estimate_fit(metadata, weights_bytes=len(data), n_ctx=4096, hardware=MACHINE)
        except GGUFError:
            refused += 1
        slowest = max(slowest, time.thread_time() - started)
    assert slowest < SLOWEST_SECONDS
    assert MUTATIONS / 10 < refused < MUTATIONS, "the changes matter, and not all of them are fatal"


def test_noise_is_refused() -> None:
    random_ = random.Random(2)
    for _ in range(1000):
        data = b"GGUF" + struct.pack("<I", 3) + random_.randbytes(random_.randint(0, 2000))
        with pytest.raises(GGUFError):
            read(data, file_size=random_.choice((None, len(data))))


@pytest.mark.llama
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_nothing_is_refused_that_llama_cpp_loads(seeds: list[bytes], tmp_path: Path) -> None:
    refused: list[str] = []
    accepted: list[str] = []
    whole = [seed for seed in seeds if b"split.count" not in seed]
    for number, data in enumerate(mutations(whole, MUTATIONS_FOR_LLAMA)):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(data)
        (refused if is_refused(data) else accepted).append(str(path))
    run = subprocess.run(
        [sys.executable, "-c", LOAD_EACH],
        input=json.dumps(refused + accepted).encode(),
        capture_output=True,
        check=True,
        timeout=PATIENCE_SECONDS,
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},
    )
    loaded = set(json.loads(run.stdout))
    assert not loaded & set(refused)
    assert len(loaded) > MUTATIONS_FOR_LLAMA / 10
    assert len(refused) > MUTATIONS_FOR_LLAMA / 10
