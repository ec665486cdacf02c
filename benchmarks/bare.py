"""The least that Python can do for a verified file, as a measure for the engine.

One connection. One thread receives and decrypts, another writes and hashes; no journal, no retry, no progress, no
publishing. Bytes are brought to the disk by the engine's own call.
"""

from __future__ import annotations

import hashlib
import os
import queue
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modeldeck.engine.disk import write_back

BLOCK_BYTES = 512 << 10
ROOM_BLOCKS = 32
BLOCKS_AT_ONCE = 128
"""After this many, 64 MiB, they are written back to the disk."""


def fetch(url: str, path: Path) -> str:
    """Download a file and return its sha256."""
    spare: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
    received: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
    for _ in range(ROOM_BLOCKS):
        spare.put(memoryview(bytearray(BLOCK_BYTES)))
    with ThreadPoolExecutor(2) as threads:
        storing = threads.submit(_store, path, spare, received, threads)
        _receive(url, spare, received)
        return storing.result()


def _receive(url: str, spare: queue.SimpleQueue[memoryview], received: queue.SimpleQueue[memoryview | None]) -> None:
    where = urlsplit(url)
    assert where.hostname is not None
    request = f"GET {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: close\r\n\r\n"
    plain = socket.create_connection((where.hostname, where.port or 443))
    with ssl.create_default_context().wrap_socket(plain, server_hostname=where.hostname) as connection:
        connection.sendall(request.encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(BLOCK_BYTES)
        rest = head[head.index(b"\r\n\r\n") + 4 :]
        is_at_end = False
        while not is_at_end:
            buffer = spare.get()
            buffer[: len(rest)] = rest
            filled, rest = len(rest), b""
            while filled < BLOCK_BYTES and not is_at_end:
                count = connection.recv_into(buffer[filled:], BLOCK_BYTES - filled)
                filled += count
                is_at_end = count == 0
            received.put(buffer[:filled])
    received.put(None)


def _store(
    path: Path,
    spare: queue.SimpleQueue[memoryview],
    received: queue.SimpleQueue[memoryview | None],
    threads: ThreadPoolExecutor,
) -> str:
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        begun = threads.submit(write_back, file.fileno())
        number = 0
        while (block := received.get()) is not None:
            file.write(block)
            digest.update(block)
            assert isinstance(block.obj, bytearray)
            spare.put(memoryview(block.obj))
            number += 1
            if number % BLOCKS_AT_ONCE == 0 and begun.done():
                begun = threads.submit(write_back, file.fileno())
        begun.result()
        os.fsync(file.fileno())
    return digest.hexdigest()


def fetch_all(work: dict[str, Any]) -> dict[str, float]:
    """Download all files, one after the other."""
    for file in work["files"]:
        if fetch(f"{work['storage']}/{file['name']}", Path(work["cache_dir"]) / file["name"]) != file["sha256"]:
            raise SystemExit(f"{file['name']}: the bytes are wrong")
    return {}
