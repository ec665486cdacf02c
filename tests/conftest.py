import signal
from collections.abc import Iterator

import pytest

from tools.localhub import LocalHub, demo


def pytest_configure() -> None:
    """A run in the background or under nohup ignores these signals. What the tests start would inherit that."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def demo_hub() -> Iterator[LocalHub]:
    """A running hub with the demo's repositories, the real model among them."""
    missing: list[str] = []
    with demo.demo_hub(missing.append) as hub:
        assert missing == []
        yield hub
