"""What each fault does on the wire, seen by plain sockets and by httpx."""

import contextlib
import gc
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub, faults

CONTENT = bytes(range(256)) * 12_000  # 3 MB, more than sockets hold
REPO = "owner/tiny-GGUF"
PATH = f"/{REPO}/resolve/main/tiny-Q4_0.gguf"


@pytest.fixture(params=["file", "memory"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalHub]:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(CONTENT)
    source = path if request.param == "file" else CONTENT
    with LocalHub(repos={REPO: {"tiny-Q4_0.gguf": source, "README.md": b"# hi"}}) as hub:
        yield hub


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(headers={"accept-encoding": "identity"}, timeout=PATIENCE_SECONDS) as client:
        yield client


def cdn_url(hub: LocalHub) -> str:
    return httpx.get(hub.endpoint + PATH).headers["location"]


def send(url: str, *, first: int | None = None, method: str = "GET") -> socket.socket:
    """A connection that has asked and has read nothing yet."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE_SECONDS)
    span = "" if first is None else f"Range: bytes={first}-\r\n"
    connection.sendall(f"{method} {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\n{span}\r\n".encode())
    return connection


def receive(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body, up to the end of the connection."""
    with connection:
        data = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


def is_quiet(connection: socket.socket, seconds: float = 0.3) -> bool:
    """Whether a connection is open and has nothing to read for a while."""
    return not select.select([connection], [], [], seconds)[0]


def get_range(client: httpx.Client, url: str, first: int, last: int) -> httpx.Response:
    return client.get(url, headers={"range": f"bytes={first}-{last}"})


# --- the connection ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 1_000_003])
def test_cut_sends_exactly_so_many_bytes(hub: LocalHub, after: int) -> None:
    hub.faults.add(faults.Cut(after), origin="cdn", times=1)
    url = cdn_url(hub)
    head, body = receive(send(url))
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert f"Content-Length: {len(CONTENT)}".encode() in head
    assert body == CONTENT[:after]
    record = hub.requests.wait_until(lambda records: records[-1].is_finished)[-1]
    assert (record.origin, record.status, record.bytes_sent) == ("cdn", 200, after)
    assert httpx.get(url).content == CONTENT


def test_cut_counts_from_the_start_of_a_range(hub: LocalHub) -> None:
    hub.faults.add(faults.Cut(1000), origin="cdn")
    assert receive(send(cdn_url(hub), first=5000))[1] == CONTENT[5000:6000]


def test_cut_instead_of_an_answer(hub: LocalHub) -> None:
    hub.faults.add(faults.Cut(-1), origin="hub", times=1)
    assert receive(send(hub.endpoint + PATH)) == (b"", b"")
    assert hub.requests[0].status is None


def test_cut_by_reset(hub: LocalHub) -> None:
    hub.faults.add(faults.Cut(0, is_reset=True), origin="cdn")
    with pytest.raises(ConnectionResetError):
        receive(send(cdn_url(hub)))


@pytest.mark.parametrize("after", [-1, 0, 70_000])
def test_stall(hub: LocalHub, after: int) -> None:
    hub.faults.add(faults.Stall(after), origin="cdn", times=1)
    expected = max(0, after)
    with send(cdn_url(hub)) as connection:
        head, body = b"", b""
        while after >= 0 and (not head or len(body) < expected):
            head, _, body = (head + b"\r\n\r\n" * bool(head) + body + connection.recv(1 << 16)).partition(b"\r\n\r\n")
        assert body == CONTENT[:expected]
        assert is_quiet(connection)
        assert not hub.requests[-1].is_finished
    hub.requests.wait_until(lambda records: records[-1].is_finished)


def test_throttle_limits_each_answer(hub: LocalHub, client: httpx.Client) -> None:
    hub.faults.add(faults.Throttle(bytes_per_second=1_000_000), origin="cdn")
    url = cdn_url(hub)
    started = time.monotonic()
    assert get_range(client, url, 0, 499_999).content == CONTENT[:500_000]
    assert time.monotonic() - started >= 0.49


def test_shared_throttle_limits_all_answers_together(hub: LocalHub) -> None:
    hub.faults.add(faults.Throttle(bytes_per_second=1_000_000, is_shared=True), origin="cdn")
    url = cdn_url(hub)
    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        bodies = list(pool.map(lambda _: httpx.get(url, headers={"range": "bytes=0-149999"}).content, range(4)))
    assert bodies == [CONTENT[:150_000]] * 4
    assert time.monotonic() - started >= 0.59


def test_a_throttle_may_let_bytes_pass_first(hub: LocalHub, client: httpx.Client) -> None:
    hub.faults.add(faults.Throttle(bytes_per_second=1, is_shared=True, free_bytes=150_000), origin="cdn")
    url = cdn_url(hub)
    assert get_range(client, url, 0, 99_999).content == CONTENT[:100_000]
    assert get_range(client, url, 0, 49_999).content == CONTENT[:50_000]
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(url, headers={"range": "bytes=0-9"}, timeout=1)


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_throttled_answer_ends_when_its_client_hangs_up_and_keeps_nobody_waiting(
    hub: LocalHub, is_reset: bool
) -> None:
    hub.faults.add(faults.Throttle(bytes_per_second=1, is_shared=True), origin="cdn")
    url = cdn_url(hub)
    gone = [send(url) for _ in range(60)]
    hub.requests.wait_until(
        lambda records: sum(record.origin == "cdn" and record.status == 200 for record in records) == 60
    )
    for connection in gone:
        if is_reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    hub.requests.wait_until(lambda records: all(record.is_finished for record in records))
    with send(url) as connection:  # each of the others had a turn of a second, and this one waits 30 s at most
        while not connection.recv(1 << 16).endswith(b"\r\n\r\n"):
            pass
        assert connection.recv(1) == CONTENT[:1]


def test_a_throttle_is_lifted_while_an_answer_is_on_its_way(hub: LocalHub, client: httpx.Client) -> None:
    throttle = hub.faults.add(faults.Throttle(bytes_per_second=1000), origin="cdn")
    with client.stream("GET", cdn_url(hub)) as answer:
        blocks = answer.iter_raw()
        got = next(blocks)
        hub.faults.remove(throttle)
        assert got + b"".join(blocks) == CONTENT


def test_slow_drip_is_byte_by_byte(hub: LocalHub) -> None:
    hub.faults.add(faults.Throttle(bytes_per_second=20), origin="cdn")
    started = time.monotonic()
    with send(cdn_url(hub)) as connection:
        received = b""
        while len(body := received.partition(b"\r\n\r\n")[2]) < 10:
            received += connection.recv(1)
        assert body == bytes(range(10))
        assert time.monotonic() - started >= 8 / 20, "faster than a byte in a twentieth of a second"


def test_latency(hub: LocalHub) -> None:
    hub.faults.add(faults.Latency(0.4), origin="hub")
    with send(hub.endpoint + "/api/models") as connection:
        started = time.monotonic()
        assert is_quiet(connection, 0.1)
        connection.recv(1)
        assert time.monotonic() - started >= 0.35


@pytest.mark.parametrize("status", [403, 429])
def test_no_more_than_so_many_at_once(hub: LocalHub, client: httpx.Client, status: int) -> None:
    hub.faults.add(faults.LimitConcurrency(2, status, {"Retry-After": "1"}), origin="cdn")
    url = cdn_url(hub)
    slow = hub.faults.add(faults.Stall(10), origin="cdn", times=2)
    held = [send(url), send(url)]
    hub.requests.wait_until(lambda records: sum(record.bytes_sent == 10 for record in records) == 2)
    refused = client.get(url)
    assert (refused.status_code, refused.headers["retry-after"]) == (status, "1")
    hub.faults.remove(slow)
    held.pop().close()
    hub.requests.wait_until(lambda records: sum(record.is_finished and record.status == 200 for record in records) == 1)
    assert client.get(url).content == CONTENT
    held.pop().close()


def test_stop_and_start_on_the_same_ports(hub: LocalHub, client: httpx.Client) -> None:
    url = cdn_url(hub)
    hub.faults.add(faults.Stall(1000), origin="cdn", times=1)
    with client.stream("GET", url) as answer:
        blocks = answer.iter_raw()
        assert next(blocks)
        hub.stop()
        with pytest.raises(httpx.TransportError):
            list(blocks)
    for origin in (hub.endpoint, hub.cdn_origin):
        with pytest.raises(httpx.ConnectError):
            client.get(origin)
    hub.start()
    assert client.get(url).content == CONTENT
    assert cdn_url(hub).startswith(hub.cdn_origin)


def knock(hub: LocalHub, is_knocking: threading.Event) -> list[socket.socket]:
    """Open connections until the hub refuses; fewer than can wait for it, because the kernel forgets one too many."""
    address = urlsplit(hub.endpoint)
    opened: list[socket.socket] = []
    with contextlib.suppress(OSError):
        while len(opened) < 200:
            opened.append(socket.create_connection((address.hostname, address.port), timeout=PATIENCE_SECONDS))
            is_knocking.set()
    return opened


def test_connections_that_come_while_it_stops_are_closed() -> None:
    gc.freeze()  # else each collection looks at all that the other tests have left
    for _ in range(10):
        is_knocking = threading.Event()
        with LocalHub() as hub, ThreadPoolExecutor() as threads:
            visitors = threads.submit(knock, hub, is_knocking)
            is_knocking.wait()
            hub.stop()
        del hub
        gc.collect()  # a connection that was forgotten is a ResourceWarning now
        for visitor in visitors.result():
            with visitor, contextlib.suppress(ConnectionError):
                assert visitor.recv(1) == b""
    gc.unfreeze()


# --- status and headers -----------------------------------------------------------------------------------------------


def test_bursts_of_server_errors_end(hub: LocalHub, client: httpx.Client) -> None:
    hub.faults.add(faults.Reply(503), origin="hub", path="*/resolve/*", times=2)
    hub.faults.add(faults.Reply(500), origin="hub", path="*/resolve/*", times=1, skip=1)
    assert [client.get(hub.endpoint + PATH).status_code for _ in range(4)] == [503, 500, 302, 302]
    hub.faults.add(faults.Reply(502, body=b"bad gateway"))
    assert {client.get(hub.endpoint + path).status_code for path in (PATH, "/api/models", "/")} == {502}


def test_rate_limit_headers_alone(hub: LocalHub, client: httpx.Client) -> None:
    hub.faults.add(faults.Reply(429, {"RateLimit": '"api";r=0;t=17'}), path="/api/*", times=1)
    answer = client.get(hub.endpoint + "/api/models")
    assert (answer.status_code, answer.headers["ratelimit"]) == (429, '"api";r=0;t=17')
    assert "retry-after" not in answer.headers


def test_rate_limits_are_counted() -> None:
    with LocalHub(rate_limits={"api": 2}) as hub:
        answers = [httpx.get(hub.endpoint + "/api/models") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[0].headers["ratelimit"].startswith('"api";r=1;t=')
        assert answers[2].headers["ratelimit"].startswith('"api";r=0;t=')
        assert answers[0].headers["ratelimit-policy"] == '"fixed window";"api";q=2;w=300'
        assert httpx.get(hub.endpoint + "/").headers["ratelimit"].startswith('"pages";r=')


def test_redirects(hub: LocalHub, client: httpx.Client) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/x"
        hub.faults.add(faults.Reply(302, {"Location": dead}), path="*/resolve/*", times=1)
        with pytest.raises(httpx.ConnectError):
            client.get(hub.endpoint + PATH, follow_redirects=True)
    hub.faults.add(faults.Reply(307, {"Location": "other.gguf"}), path="*/tiny-Q4_0.gguf", times=1)
    answer = client.get(hub.endpoint + PATH, follow_redirects=True)
    assert (str(answer.url), answer.status_code) == (f"{hub.endpoint}/{REPO}/resolve/main/other.gguf", 404)
    loop = hub.faults.add(faults.RedirectLoop(), origin="cdn")
    with pytest.raises(httpx.TooManyRedirects):
        client.get(cdn_url(hub), follow_redirects=True)
    assert hub.faults.fired(loop) == 21


def test_mirror_headers(hub: LocalHub, client: httpx.Client) -> None:
    hub.faults.add(faults.MirrorHeaders(), path="*/resolve/*")
    head = client.head(hub.endpoint + PATH)
    assert (head.status_code, head.headers["etag"]) == (200, hub.sha256(REPO, "tiny-Q4_0.gguf"))
    assert "x-linked-etag" not in head.headers
    assert "x-linked-size" not in head.headers
    assert client.get(head.headers["location"]).content == CONTENT
    assert client.get(hub.endpoint + PATH).status_code == 302


@pytest.mark.parametrize("length", ["3000000000", "-5", "many"])
def test_false_content_length(hub: LocalHub, length: str) -> None:
    hub.faults.add(faults.ChangeHeaders({"Content-Length": length}), origin="cdn")
    head, body = receive(send(cdn_url(hub)))
    assert f"Content-Length: {length}".encode() in head
    assert body == CONTENT


def test_wrong_linked_size(hub: LocalHub, client: httpx.Client) -> None:
    hub.faults.add(faults.WrongLinkedSize(-1), path="*/resolve/*")
    assert client.head(hub.endpoint + PATH).headers["x-linked-size"] == str(len(CONTENT) - 1)


# --- ranges -----------------------------------------------------------------------------------------------------------


def test_ranges_without_faults(hub: LocalHub, client: httpx.Client) -> None:
    url = cdn_url(hub)
    whole = client.get(url)
    assert (whole.status_code, whole.headers["accept-ranges"], whole.content) == (200, "bytes", CONTENT)
    part = get_range(client, url, 1_000_000, 1_999_999)
    assert (part.status_code, part.content) == (206, CONTENT[1_000_000:2_000_000])
    assert part.headers["content-range"] == f"bytes 1000000-1999999/{len(CONTENT)}"
    beyond = get_range(client, url, len(CONTENT), len(CONTENT) + 9)
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(CONTENT)}")
    assert whole.headers["etag"] != f'"{hub.sha256(REPO, "tiny-Q4_0.gguf")}"'
    assert client.get(url, headers={"if-none-match": whole.headers["etag"]}).status_code == 304
    assert client.get(url, headers={"range": "bytes=0-9", "if-range": '"old"'}).status_code == 200
    assert client.head(url).headers["content-length"] == str(len(CONTENT))


def test_range_ignored(hub: LocalHub, client: httpx.Client) -> None:
    url = cdn_url(hub)
    hub.faults.add(faults.IgnoreRange(), times=1)
    answer = get_range(client, url, 10, 19)
    assert (answer.status_code, answer.content, "content-range" in answer.headers) == (200, CONTENT, False)
    hub.faults.add(faults.IgnoreRange(has_content_range=True), times=1)
    answer = get_range(client, url, 10, 19)
    assert (answer.status_code, len(answer.content)) == (200, len(CONTENT))
    assert answer.headers["content-range"] == f"bytes 10-19/{len(CONTENT)}"
    hub.faults.add(faults.IgnoreRange(is_chunked=True), times=1)
    answer = get_range(client, url, 10, 19)
    assert (answer.status_code, answer.headers["transfer-encoding"], answer.content) == (200, "chunked", CONTENT)
    assert "content-length" not in answer.headers
    assert "accept-ranges" not in answer.headers


def test_ranges_elsewhere_shorter_longer_empty(hub: LocalHub, client: httpx.Client) -> None:
    url, total = cdn_url(hub), len(CONTENT)
    hub.faults.add(faults.MoveRange(-1000, -1000), times=1)
    hub.faults.add(faults.MoveRange(stop=-1), times=1, skip=1)
    hub.faults.add(faults.MoveRange(stop=+1), times=1, skip=2)
    hub.faults.add(faults.EmptyRange(), times=1, skip=3)
    hub.faults.add(faults.WrongTotal(-5), times=1, skip=4)
    hub.faults.add(faults.MoveRange(1, 1, is_honest=False), times=1, skip=5)
    answers = [get_range(client, url, 5000, 5999) for _ in range(7)]
    assert {answer.status_code for answer in answers} == {206}
    assert [answer.headers["content-range"] for answer in answers] == [
        f"bytes 4000-4999/{total}",
        f"bytes 5000-5998/{total}",
        f"bytes 5000-6000/{total}",
        f"bytes 5000-5999/{total}",
        f"bytes 5000-5999/{total - 5}",
        f"bytes 5000-5999/{total}",
        f"bytes 5000-5999/{total}",
    ]
    spans = [(4000, 5000), (5000, 5999), (5000, 6001), (5000, 5000), (5000, 6000), (5001, 6001), (5000, 6000)]
    assert [answer.content for answer in answers] == [CONTENT[start:stop] for start, stop in spans]


# --- content ----------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_once_and_always(hub: LocalHub, client: httpx.Client) -> None:
    url = cdn_url(hub)
    wrong = CONTENT[:2_000_000] + bytes([CONTENT[2_000_000] ^ 1]) + CONTENT[2_000_001:]
    hub.faults.add(faults.FlipBit(2_000_000), origin="cdn", times=1)
    assert get_range(client, url, 0, 1_999_999).content == CONTENT[:2_000_000]
    assert client.get(url).content == wrong
    assert client.get(url).content == CONTENT
    hub.faults.add(faults.FlipBit(2_000_000), origin="cdn")
    assert [get_range(client, url, 2_000_000, 2_000_009).content for _ in range(2)] == [wrong[2_000_000:2_000_010]] * 2


def test_longer_and_shorter_bodies(hub: LocalHub) -> None:
    url, total = cdn_url(hub), len(CONTENT)
    hub.faults.add(faults.Resize(+3), times=1)
    assert httpx.get(url).content == CONTENT + b"\0\0\0"
    hub.faults.add(faults.Resize(+3, is_promised=True), times=1)
    head, body = receive(send(url))
    assert f"Content-Length: {total}".encode() in head
    assert body == CONTENT + b"\0\0\0"
    hub.faults.add(faults.Resize(-3, is_promised=True), times=1)
    head, body = receive(send(url))
    assert f"Content-Length: {total}".encode() in head
    assert body == CONTENT[:-3]


def test_content_that_changes(hub: LocalHub, client: httpx.Client) -> None:
    url = cdn_url(hub)
    before = client.get(url).headers["etag"]
    hub.faults.add(faults.Content(b"other" * 10), origin="cdn", times=2)
    answer = get_range(client, url, 5, 9)
    assert (answer.content, answer.headers["content-range"]) == (b"other", "bytes 5-9/50")
    assert answer.headers["etag"] != before
    assert get_range(client, url, 50, 99).status_code == 416
    assert client.get(url).content == CONTENT


def test_a_new_commit_and_a_rewritten_one(hub: LocalHub, client: httpx.Client) -> None:
    first = client.head(hub.endpoint + PATH).headers
    new = hub.update_file(REPO, "tiny-Q4_0.gguf", b"new content")
    second = client.head(hub.endpoint + PATH).headers
    assert (second["x-repo-commit"], second["x-linked-size"]) == (new, "11")
    old_path = PATH.replace("main", first["x-repo-commit"])
    assert client.get(hub.endpoint + old_path, follow_redirects=True).content == CONTENT
    hub.rewrite_file(REPO, "tiny-Q4_0.gguf", b"rewritten")
    again = client.head(hub.endpoint + old_path).headers
    assert again["x-repo-commit"] == first["x-repo-commit"]
    assert again["x-linked-etag"] != first["x-linked-etag"]
    assert client.get(again["location"]).content == b"rewritten"


def test_gzip_when_asked_for(hub: LocalHub) -> None:
    hub.faults.add(faults.Gzip(), origin="cdn")
    url = cdn_url(hub)
    answer = httpx.get(url, headers={"range": "bytes=0-9", "accept-encoding": "gzip"})
    assert (answer.status_code, answer.headers["content-encoding"], answer.content) == (200, "gzip", CONTENT)
    answer = httpx.get(url, headers={"range": "bytes=0-9", "accept-encoding": "identity"})
    assert (answer.status_code, answer.content) == (206, CONTENT[:10])


def test_html_where_json_or_a_model_should_be(hub: LocalHub, client: httpx.Client) -> None:
    page = faults.Reply(200, {"Content-Type": "text/html"}, b"<html>log in</html>")
    hub.faults.add(page, path="/api/*", times=1)
    hub.faults.add(page, origin="cdn", times=1)
    for url in (hub.endpoint + "/api/models", cdn_url(hub)):
        answer = client.get(url)
        assert (answer.status_code, answer.text) == (200, "<html>log in</html>")


def test_hostile_json(hub: LocalHub, client: httpx.Client) -> None:
    hub.faults.add(
        faults.EditJSON(lambda entries: [{**entry, "size": -1, "path": "../x"} for entry in entries]), path="*/tree/*"
    )
    entries = client.get(f"{hub.endpoint}/api/models/{REPO}/tree/main").json()
    assert {(entry["size"], entry["path"]) for entry in entries} == {(-1, "../x")}
    hub.faults.add(
        faults.Reply(200, {"Content-Type": "application/json"}, b"[" * 100_000_000), path="/api/models", times=1
    )
    assert len(client.get(hub.endpoint + "/api/models").content) == 100_000_000


def test_chunked_answers(hub: LocalHub, client: httpx.Client) -> None:
    hub.faults.add(faults.Chunked())
    answer = client.get(f"{hub.endpoint}/api/models/{REPO}")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.json()["id"] == REPO
    hub.faults.add(faults.Cut(100_000), origin="cdn", times=1)
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(cdn_url(hub))


# --- signatures -------------------------------------------------------------------------------------------------------


def test_signatures_expire_at_the_cdn_only(hub: LocalHub, client: httpx.Client) -> None:
    old = cdn_url(hub)
    hub.expire_signatures()
    assert client.get(old).status_code == 403
    new = cdn_url(hub)
    assert client.get(new).content == CONTENT
    assert client.get(new.replace("Expires=1", "Expires=2")).status_code == 403
    assert client.get(hub.cdn_origin + urlsplit(new).path).status_code == 403


def test_signatures_have_a_lifetime() -> None:
    with LocalHub(repos={REPO: {"tiny-Q4_0.gguf": b"x"}}, signature_seconds=2.0) as hub:
        url = cdn_url(hub)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while httpx.get(url).status_code == 200 and time.monotonic() < deadline:
            threading.Event().wait(0.05)
        assert httpx.get(url).status_code == 403
        assert httpx.get(cdn_url(hub)).status_code == 200
