"""Measurements of a load are remembered for the next time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modeldeck.llama import Measurement, MeasurementStore, load

EXAMPLE = Measurement(load_seconds=1.5, tokens_per_second=20.0, memory_bytes=123, n_ctx=512)


@pytest.mark.llama
def test_the_first_generation_is_remembered(smollm2: Path, tmp_path: Path) -> None:
    store = MeasurementStore(tmp_path / "state")
    with load(smollm2, n_ctx=512, n_threads=1, n_threads_batch=1, measurements=store) as llm:
        llm("Hello", max_tokens=2)
        assert store.find(smollm2) is None  # too little to tell
        for _ in llm("Hello", max_tokens=16, stream=True):
            pass
        measured = store.find(smollm2)
        assert measured is not None
        llm("Hello", max_tokens=16)
        assert store.find(smollm2) == measured
    assert measured.n_ctx == 512
    assert 0 < measured.load_seconds < 60
    assert 0 < measured.tokens_per_second < 5000
    assert measured.memory_bytes > 50 << 20


def test_a_file_is_known_by_its_content_or_its_date(tmp_path: Path) -> None:
    store = MeasurementStore(tmp_path / "state")
    blob = tmp_path / ("ab" * 32)
    blob.write_bytes(b"x")
    (tmp_path / "a.gguf").symlink_to(blob)
    (tmp_path / "b.gguf").symlink_to(blob)
    store.save(tmp_path / "a.gguf", EXAMPLE)
    assert store.find(tmp_path / "b.gguf") == EXAMPLE

    plain = tmp_path / "plain.gguf"
    plain.write_bytes(b"x")
    store.save(plain, EXAMPLE)
    assert store.find(plain) == EXAMPLE
    os.utime(plain, ns=(1, 1))
    assert store.find(plain) is None


@pytest.mark.parametrize("damage", [b"[1, 2", b'{"\xff": 1}'])
def test_a_store_that_cannot_be_used_is_no_error(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "measured.json").write_bytes(damage)
    broken = MeasurementStore(tmp_path)
    assert broken.find(tmp_path / "x.gguf") is None
    broken.save(tmp_path / "x.gguf", EXAMPLE)
    assert broken.find(tmp_path / "x.gguf") == EXAMPLE
    (tmp_path / "file").write_text("")
    nowhere = MeasurementStore(tmp_path / "file")
    nowhere.save(tmp_path / "x.gguf", EXAMPLE)
    assert nowhere.find(tmp_path / "x.gguf") is None
