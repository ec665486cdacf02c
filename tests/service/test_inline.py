"""The engine on a thread of this process: when it begins and ends."""

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modeldeck._errors import EngineLostError
from tests.service.conftest import RequestFactory
from tests.service.engines import Engines, json_of, partials_of, slow_down
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub


@pytest.mark.anyio
async def test_last_user_ends_the_engine_and_keeps_the_partial(
    engines: Engines, make_request: RequestFactory, slow_hub: LocalHub
) -> None:
    slow_down(slow_hub, 1e5)
    await asyncio.to_thread(lambda: None)  # starts this loop's own executor
    before = set(threading.enumerate())
    engine = engines.connect(inline=True)
    request = make_request()
    job = await engine.submit(request)
    waiting = asyncio.create_task(engine.wait(job.job_id))
    await asyncio.to_thread(engines.wait_until, lambda: engine.snapshots()[0].received > 0)
    await engine.aclose()
    await engine.aclose()
    with pytest.raises(EngineLostError):
        await waiting
    with pytest.raises(EngineLostError):
        await engine.act(job.job_id, "pause")
    assert partials_of(request)

    def left() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("modeldeck")} - before

    await asyncio.to_thread(engines.wait_until, lambda: not left())


def test_an_engine_that_begins_waits_for_the_one_before_to_let_go(engines: Engines) -> None:
    """There are never two engines for one cache directory in a process, however fast clients come and go."""
    most = 0
    of_other_tests = set(threading.enumerate())
    is_over = threading.Event()

    def count() -> None:
        nonlocal most
        while not is_over.is_set():
            names = [thread.name for thread in threading.enumerate() if thread not in of_other_tests]
            most = max(most, names.count("modeldeck-engine"))
            time.sleep(0.001)

    def use() -> int:
        client = engines.connect(inline=True)
        clients = asyncio.run(client.status()).clients
        asyncio.run(client.aclose())
        return clients

    counter = threading.Thread(target=count)
    counter.start()
    with ThreadPoolExecutor(4) as pool:
        used = list(pool.map(lambda _: use(), range(24)))
    is_over.set()
    counter.join()
    assert min(used) >= 1
    assert most == 1


def test_process_ends_quietly_while_a_download_runs(
    engines: Engines, make_request: RequestFactory, slow_hub: LocalHub
) -> None:
    """Nothing is printed and nothing waits at the interpreter's exit, closed or not."""
    slow_down(slow_hub, 5e3)  # the download takes longer than the test's patience
    request = make_request()
    program = f"""
import asyncio
from pathlib import Path
import msgspec
from modeldeck._settings import Settings
from modeldeck._types import DownloadRequest
from modeldeck.service.connect import connect_engine
settings = Settings(endpoint="https://hub.invalid", cache_dir=Path({str(engines.cache_dir)!r}))
engine = connect_engine(settings, inline=True)
request = msgspec.json.decode({json_of(request)!r}, type=DownloadRequest)
asyncio.run(engine.submit(request))
while not list(Path({str(engines.cache_dir)!r}).rglob("*.part")):
    pass
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert partials_of(request)
    assert not Path(engines.place.socket_path).exists()
