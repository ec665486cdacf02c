"""The benchmarks' servers: nginx as Hub and storage over TLS, and relays that add a round trip or a limit."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import trustme

COMMIT = "c0ffee" + "0" * 34
REPO_ID = "bench/model"
LABEL = "Q4_K_M"
WINDOW_BYTES = 1 << 20

_CONFIG = """
worker_processes 1;
daemon off;{user}
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  ssl_certificate {folder}/server.pem;
  ssl_certificate_key {folder}/server.key;
  ssl_protocols TLSv1.2 TLSv1.3;
  server {{
    listen 127.0.0.1:{hub_port} ssl;
    location = /api/models/{repo_id}/revision/main {{ default_type application/json; alias {folder}/info.json; }}
    location = /api/models/{repo_id}/tree/{commit} {{ default_type application/json; alias {folder}/tree.json; }}
    {resolves}
  }}
  server {{
    listen 127.0.0.1:{cdn_port} ssl;
    root {folder}/files;
  }}
}}
"""
_RESOLVE = """
    location = /{repo_id}/resolve/{revision}/{name} {{
      add_header X-Repo-Commit {commit} always;
      add_header X-Linked-Size {size} always;
      add_header X-Linked-Etag '"{sha256}"' always;
      add_header ETag '"{sha256}"' always;
      return 302 {target}/{name};
    }}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The addresses and directories of a benchmark. ``storage`` is for the tools that do not know a Hub."""

    endpoint: str
    storage: str
    ca: Path
    files: tuple[File, ...]
    server: psutil.Process

    def server_cpu_seconds(self) -> float:
        """Return the CPU time of nginx so far, without the relays."""
        times = [process.cpu_times() for process in (self.server, *self.server.children())]
        return sum(each.user + each.system for each in times)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def gguf_header(size: int) -> bytes:
    """Return the header of a model with one tensor, for a file of this size."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    keys = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    weights = size - 256  # the data begins before, as the header is padded to 32 bytes
    tensor = text("token_embd.weight") + struct.pack("<IQIQ", 1, weights, 24, 0)  # type 24 is I8
    return b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + keys + tensor


def write_file(path: Path, size: int) -> str:
    """Write a header and random bytes, and return their sha256."""
    digest = hashlib.sha256()
    block = os.urandom(8 << 20)
    header = gguf_header(size)
    with path.open("wb") as file:
        left, piece = size, header + block[len(header) :]
        while left:
            piece = piece[: min(left, len(piece))]
            file.write(piece)
            digest.update(piece)
            left -= len(piece)
            block = block[1:] + block[:1]
            piece = block
    return digest.hexdigest()


@contextmanager
def stage(sizes: list[int], *, limit_bytes_per_second: int | None = None, rtt_seconds: float = 0.0) -> Iterator[Stage]:
    """Serve files of these sizes from memory.

    Parameters
    ----------
    limit_bytes_per_second
        Put a relay before the storage whose connections are paced by the kernel. nginx's own limit lets the first
        second of each request through at once, so that a tool with small requests is hardly limited.
    rtt_seconds
        Put a relay before the storage that adds this round trip and lets ``WINDOW_BYTES`` be in flight.
    """
    folder = Path(tempfile.mkdtemp(prefix="modeldeck-stage-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        certificate.private_key_pem.write_to_path(str(folder / "server.key"))
        for number, blob in enumerate(certificate.cert_chain_pems):
            blob.write_to_path(str(folder / "server.pem"), append=number > 0)
        (folder / "files").mkdir()
        files = []
        for number, size in enumerate(sizes, 1):
            name = f"m-{LABEL}-{number:05}-of-{len(sizes):05}.gguf"
            files.append(File(name=name, size=size, sha256=write_file(folder / "files" / name, size)))
        hub_port, cdn_port = free_port(), free_port()
        open_port = cdn_port
        for kind, amount in (("delay", rtt_seconds), ("pace", limit_bytes_per_second)):
            if amount:
                target, open_port = open_port, free_port()
                relay = [sys.executable, __file__, kind, str(open_port), str(target), str(amount)]
                processes.append(subprocess.Popen(relay))
        storage = f"https://localhost:{open_port}"
        resolves = "".join(
            _RESOLVE.format(
                repo_id=REPO_ID,
                revision=revision,
                name=f.name,
                commit=COMMIT,
                size=f.size,
                sha256=f.sha256,
                target=storage,
            )
            for f in files
            for revision in ("main", COMMIT)
        )
        (folder / "info.json").write_text(json.dumps({"id": REPO_ID, "sha": COMMIT, "gated": False}))
        (folder / "tree.json").write_text(
            json.dumps(
                [
                    {"type": "file", "path": f.name, "size": f.size, "lfs": {"oid": f.sha256, "size": f.size}}
                    for f in files
                ]
            )
        )
        config = folder / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                user="user root;" if os.geteuid() == 0 else "",
                folder=folder,
                repo_id=REPO_ID,
                commit=COMMIT,
                hub_port=hub_port,
                cdn_port=cdn_port,
                resolves=resolves,
            )
        )
        processes.append(subprocess.Popen(["nginx", "-c", str(config), "-p", str(folder), "-e", "stderr"]))
        for port in (hub_port, cdn_port, open_port):
            _wait_for(port)
        yield Stage(
            endpoint=f"https://localhost:{hub_port}",
            storage=storage,
            ca=folder / "ca.pem",
            files=tuple(files),
            server=psutil.Process(processes[-1].pid),
        )
    finally:
        for process in processes:
            process.terminate()
            process.wait()
        shutil.rmtree(folder)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


# --- the relay that paces ---------------------------------------------------------------------------------------------

SO_MAX_PACING_RATE = 47
"""The socket option for the rate at which the kernel sends (socket(7), asm-generic/socket.h)."""


def pace(port: int, target: int, bytes_per_second: int) -> None:
    """Relay connections at this rate. The bytes stay in the kernel, so it costs little."""
    with socket.create_server(("127.0.0.1", port)) as server:
        while True:
            front, _ = server.accept()
            front.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, bytes_per_second)
            front.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 256 << 10)
            back = socket.create_connection(("127.0.0.1", target))
            for source, sink in ((front, back), (back, front)):
                threading.Thread(target=_splice, args=(source, sink), daemon=True).start()


def _splice(source: socket.socket, sink: socket.socket) -> None:
    pipe_out, pipe_in = os.pipe()
    with contextlib.suppress(OSError):
        while waiting := os.splice(source.fileno(), pipe_in, 256 << 10):
            while waiting:
                waiting -= os.splice(pipe_out, sink.fileno(), waiting)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    os.close(pipe_out)
    os.close(pipe_in)


# --- the relay that delays --------------------------------------------------------------------------------------------


class _Delay:
    """One direction: bytes leave half a round trip after they arrived, and their room is free as late."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, one_way_seconds: float) -> None:
        self._reader = reader
        self._writer = writer
        self._one_way = one_way_seconds
        self._in_flight = 0
        self._room = asyncio.Event()
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def run(self) -> None:
        sender = asyncio.create_task(self._send())
        loop = asyncio.get_running_loop()
        try:
            while data := await self._reader.read(min(64 << 10, WINDOW_BYTES - self._in_flight)):
                self._in_flight += len(data)
                self._queue.put_nowait((loop.time() + self._one_way, data))
                while self._in_flight >= WINDOW_BYTES:
                    self._room.clear()
                    await self._room.wait()
            self._queue.put_nowait((loop.time() + self._one_way, b""))
            await sender
        except (ConnectionError, asyncio.CancelledError):
            sender.cancel()
        finally:
            self._writer.close()

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await self._queue.get()
            wait = due - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            if not data:
                return
            try:
                self._writer.write(data)
                await self._writer.drain()
            except ConnectionError:  # the other side has left; the reading end will notice too
                return
            loop.call_later(self._one_way, self._acknowledge, len(data))

    def _acknowledge(self, count: int) -> None:
        self._in_flight -= count
        self._room.set()


async def delay(port: int, target: int, rtt_seconds: float) -> None:
    """Opening a connection takes one round trip, like TCP's handshake."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(rtt_seconds)
        try:
            back_reader, back_writer = await asyncio.open_connection("127.0.0.1", target)
        except ConnectionError:
            writer.close()
            return
        ways = {
            asyncio.create_task(_Delay(reader, back_writer, rtt_seconds / 2).run()),
            asyncio.create_task(_Delay(back_reader, writer, rtt_seconds / 2).run()),
        }
        _, others = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", port, limit=WINDOW_BYTES)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    kind, port, target, amount = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    if kind == "pace":
        pace(port, target, int(amount))
    else:
        asyncio.run(delay(port, target, float(amount)))
