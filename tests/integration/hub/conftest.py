"""A scripted Hub on a real socket: a test says which request gets which answer, and reads afterwards what was asked."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from modeldeck._settings import Settings
from modeldeck.hub.client import ClientLimits, HubClient
from tools.localhub import LocalHub
from tools.localhub.faults import Reply

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], LocalHub]]:
    """Starts hubs that answer 404 except for what a test scripts with ``faults.script``."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with ExitStack() as stack:

        def start() -> LocalHub:
            hub = stack.enter_context(LocalHub())
            hub.faults.add(Reply(404))
            return hub

        yield start


@pytest.fixture
def server(servers: Callable[[], LocalHub]) -> LocalHub:
    return servers()


@pytest.fixture
async def hub(server: LocalHub, tmp_path: Path, anyio_backend: str) -> AsyncIterator[HubClient]:
    """A client of the scripted hub, with a token, that does not pause between tries."""
    settings = Settings(endpoint=server.endpoint, cache_dir=tmp_path, token="hf_secret")
    client = HubClient(settings, limits=ClientLimits(retry_seconds=0.0))
    yield client
    await client.aclose()
