from collections.abc import Iterator
from pathlib import Path

import pytest

from modeldeck.localhub import LocalHub
from modeldeck.localhub.demo import GATED_REPO_ID, TOKEN, add_demo_repos


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def demo_hub(tmp_path: Path) -> Iterator[LocalHub]:
    """A running hub with the demo's repositories, the real model among them."""
    folder = tmp_path / "demo-models"
    folder.mkdir()
    hub = LocalHub(tokens={TOKEN: {GATED_REPO_ID}})
    assert list(add_demo_repos(hub, folder)) == []
    with hub:
        yield hub
