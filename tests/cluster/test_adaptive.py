"""Adaptive clusters (``cluster.adapt``) that grow and shrink while prompts run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.conftest import FILE, REAL, MakeSite, is_empty, open_fleet, wait_until

pytestmark = pytest.mark.llama


def test_a_worker_that_is_added_takes_prompts_and_one_that_is_retired_hands_them_back(
    make_site: MakeSite, smollm2: Path
) -> None:
    site = make_site("first")
    site.hub.add_repo(REAL, {FILE: smollm2}, gguf={})
    prompts = [f"Story {number}:" for number in range(40)]
    with open_fleet(site, REAL) as fleet:
        site.hub.requests.clear()
        job = fleet.submit(prompts, max_tokens=24, temperature=0.0)
        site.cluster.adapt(minimum=3, maximum=3, interval="100ms")
        wait_until(lambda: len(fleet.members) == 3 and all(member.done for member in fleet.members))
        assert not job.progress.is_over, "the map must last until the cluster has grown"
        assert site.bytes_served == 0, "the added workers took the model from the first one"
        site.cluster.adapt(minimum=1, maximum=1, interval="100ms", wait_count=1)
        wait_until(lambda: len(fleet.members) == 1)
        assert not job.progress.is_over, "the map must last until the cluster has shrunk"
        texts = job.result()
        assert [bool(text) for text in texts] == [True] * len(prompts)
        assert texts[-4:] == fleet.map(prompts[-4:], max_tokens=24, temperature=0.0)
    assert is_empty(site)
