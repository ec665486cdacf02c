import multiprocessing
import signal
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext

import hypothesis
import pytest

from tools.localhub import LocalHub, demo
from tools.localhub.catalogue import Catalogue


def pytest_configure() -> None:
    """A run in the background or under nohup ignores these signals. What the tests start would inherit that.

    On a busy machine any example may take a second, which says nothing about the code.
    """
    hypothesis.settings.register_profile("busy machine", deadline=None)
    hypothesis.settings.load_profile("busy machine")
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def forkserver() -> ForkServerContext:
    """Starts processes of their own that need not import anything: one that has done so forks them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["llama_cpp", "modeldeck.engine.manager", "modeldeck.llama.handle", "modeldeck.llama.loading"]
    )
    return context


@pytest.fixture(scope="session")
def demo_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """The demo's repositories, the real model among them. Making and hashing them takes a moment."""
    hub = LocalHub()
    missing = list(demo.add_demo_repos(hub, tmp_path_factory.mktemp("demo")))
    assert missing == []
    return hub.catalogue


@pytest.fixture
def demo_hub(demo_catalogue: Catalogue) -> Iterator[LocalHub]:
    """A running hub with the demo's repositories, for one test."""
    with LocalHub(catalogue=demo_catalogue, tokens=demo.TOKENS) as hub:
        yield hub
