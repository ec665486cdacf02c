"""A bridge over the real engine and a real hub, with a page that is played."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from modeldeck import Session
from modeldeck._loop import LoopThread
from modeldeck._types import SearchQuery
from modeldeck.widget.bridge import Bridge
from tests.widget.pages import Page
from tools.localhub import LocalHub


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    loop = LoopThread("bridge-under-test")
    yield loop
    loop.stop()


@pytest.fixture
def page(demo_hub: LocalHub, tmp_path: Path, loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    monkeypatch.setenv("MODELDECK_STATE_DIR", str(tmp_path / "state"))
    page = Page()
    session = Session(endpoint=demo_hub.endpoint, cache_dir=tmp_path / "cache", token=False, inline=True)
    page.bridge = Bridge(
        page, loop, session, query=SearchQuery(text="tiny", limit=3), revision="main", n_ctx=1024, comm_id="comm-1"
    )
    page.traits = {name.removeprefix("_"): value for name, value in page.bridge.initial_state().items()}
    serving = loop.start(page.bridge.run())
    page.close = serving.cancel
    yield page
    page.close()
