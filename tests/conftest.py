from collections.abc import Iterator

import pytest

from modeldeck.localhub import LocalHub, demo


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
