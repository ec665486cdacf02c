"""What it costs to receive a body on a thread: the engine's connections against simpler clients.

Each client fetches the same file over TLS from nginx, in ranges, over kept connections, and drops the bytes. Nothing
else of a download is measured. The clients take turns, and each turn is a process of its own.

Example: ``python benchmarks/receiving.py --runs 5``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import resource
import socket
import ssl
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

CONNECTIONS = 2
BUFFER_BYTES = 512 << 10
LARGE_BYTES = 64 << 20
SMALL_BYTES = 64 << 10
Ranges = list[tuple[int, int]]


def ranges_of(size: int, step: int) -> Ranges:
    return [(start, min(start + step, size)) for start in range(0, size, step)]


def on_threads(fetch: Callable[[Ranges], int], ranges: Ranges) -> int:
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        return sum(threads.map(fetch, (ranges[first::CONNECTIONS] for first in range(CONNECTIONS))))


def by_http_client(url: str, ranges: Ranges) -> int:
    where = urlsplit(url)
    context = ssl.create_default_context()

    def fetch(mine: Ranges) -> int:
        connection = http.client.HTTPSConnection(str(where.hostname), where.port, context=context)
        buffer, received = memoryview(bytearray(BUFFER_BYTES)), 0
        for start, stop in mine:
            connection.request("GET", where.path, headers={"Range": f"bytes={start}-{stop - 1}"})
            response = connection.getresponse()
            while count := response.readinto(buffer):
                received += count
        connection.close()
        return received

    return on_threads(fetch, ranges)


def by_urllib3(url: str, ranges: Ranges) -> int:
    import urllib3

    pool = urllib3.PoolManager(maxsize=CONNECTIONS, ssl_context=ssl.create_default_context())

    def fetch(mine: Ranges) -> int:
        buffer, received = memoryview(bytearray(BUFFER_BYTES)), 0
        for start, stop in mine:
            headers = {"Range": f"bytes={start}-{stop - 1}"}
            response = pool.request("GET", url, headers=headers, preload_content=False)
            while count := response.readinto(buffer):
                received += count
            response.release_conn()
        return received

    return on_threads(fetch, ranges)


class Dropped:
    """A consumer that gives every buffer back."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.received = 0

    def consume(self, block: memoryview) -> None:
        from modeldeck.engine.network import recycle

        self.received += len(block)
        self.wanted -= len(block)
        recycle(block)

    def finish(self) -> None:
        pass

    def stop(self) -> None:
        pass


def by_engine(url: str, ranges: Ranges) -> int:
    import httpx

    from modeldeck.engine.connection import DIRECT_BODY
    from modeldeck.engine.transport import EngineTransport

    async def fetch(client: httpx.AsyncClient, mine: Ranges) -> int:
        received = 0
        for start, stop in mine:
            headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
            async with client.stream("GET", url, headers=headers) as response:
                consumer = Dropped(stop - start)
                await response.extensions[DIRECT_BODY].receive(consumer)
                received += consumer.received
        return received

    async def all_of_it() -> int:
        transport = EngineTransport(ssl_context=ssl.create_default_context())
        async with httpx.AsyncClient(transport=transport) as client:
            shares = [fetch(client, ranges[first::CONNECTIONS]) for first in range(CONNECTIONS)]
            received = sum(await asyncio.gather(*shares))
        await transport.shut_down()
        return received

    return asyncio.run(all_of_it())


def seconds_to_stop_http_client(url: str) -> float:
    """Seconds from the wish to stop a body that does not come to the end of its thread."""
    where = urlsplit(url)
    connection = http.client.HTTPSConnection(str(where.hostname), where.port, context=ssl.create_default_context())
    connection.connect()
    sock = connection.sock
    begun = threading.Event()

    def receive() -> None:
        begun.set()
        with contextlib.suppress(OSError):
            sock.recv(1)  # nothing was asked, so nothing comes

    thread = threading.Thread(target=receive)
    thread.start()
    begun.wait()
    began = time.perf_counter()
    socket.socket.shutdown(sock, socket.SHUT_RDWR)
    thread.join()
    return time.perf_counter() - began


CLIENTS = {"engine": by_engine, "http.client": by_http_client, "urllib3": by_urllib3}


def measure(name: str, url: str, size: int, step: int) -> dict[str, float]:
    CLIENTS[name](url, ranges_of(step, step))  # imports and the first handshake
    before = resource.getrusage(resource.RUSAGE_SELF)
    received = CLIENTS[name](url, ranges_of(size, step))
    after = resource.getrusage(resource.RUSAGE_SELF)
    if received != size:
        raise SystemExit(f"{name} received {received} of {size} bytes")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu": cpu}


def main() -> None:
    from stage import stage

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=1000)
    arguments = parser.parse_args()
    with stage([arguments.megabytes * 10**6]) as place:
        url = f"{place.storage}/{place.files[0].name}"
        environment = {**os.environ, "SSL_CERT_FILE": str(place.ca)}
        for title, size, step in (
            ("large requests, CPU s/GB", place.files[0].size, LARGE_BYTES),
            ("requests of 64 KiB, CPU ms each", 2000 * SMALL_BYTES, SMALL_BYTES),
        ):
            results: dict[str, list[dict[str, float]]] = {name: [] for name in CLIENTS}
            for _ in range(arguments.runs):
                for name in CLIENTS:
                    command = [sys.executable, __file__, name, url, str(size), str(step)]
                    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
                    results[name].append(json.loads(output))
            unit = size / 1e9 if step == LARGE_BYTES else size / step / 1e3
            for name, runs in results.items():
                cpu = statistics.median(run["cpu"] for run in runs) / unit
                paired = statistics.median(
                    run["cpu"] / own["cpu"] for run, own in zip(runs, results["engine"], strict=True)
                )
                print(f"{title}: {name:12} {cpu:6.2f}, {paired:5.2f} of the engine's")
        os.environ["SSL_CERT_FILE"] = str(place.ca)
        stops = [seconds_to_stop_http_client(url) for _ in range(20)]
        print(f"http.client, from the wish to stop to the end of the thread: {max(stops) * 1000:.1f} ms at most")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    if len(sys.argv) == 5 and sys.argv[1] in CLIENTS:
        print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
