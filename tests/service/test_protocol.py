"""The frames and messages, and a server that nothing a client sends can upset."""

import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeldeck import __version__
from modeldeck._errors import ProtocolError
from modeldeck._loop import LoopThread
from modeldeck._types import DownloadRequest, DownloadSnapshot, DownloadState, GGUFFile
from modeldeck.engine.manager import DownloadManager
from modeldeck.service import messages
from modeldeck.service.engine_server import EngineServer
from modeldeck.service.shared_manager import SharedManager
from tests.service.engines import request_for, slow_down
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub

REQUEST = DownloadRequest(
    repo_id="owner/name",
    revision="main",
    commit_hash=None,
    variant_id="m.gguf",
    label="m",
    files=(GGUFFile(filename="m.gguf", size=5),),
    endpoint="https://hub.invalid",
    cache_dir="/cache",
)
HELLO = messages.Hello(id=0, protocol=messages.PROTOCOL, version=__version__)


# --- frames


@given(contents=st.lists(st.binary(max_size=50), max_size=8), cuts=st.lists(st.integers(0, 400), max_size=8))
def test_frames_survive_any_cut(contents: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frame(content) for content in contents)
    reader = messages.FrameReader(50)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    received = [content for start, stop in pairwise(edges) for content in reader.feed(stream[start:stop])]
    assert received == contents


@given(length=st.integers(51, 2**32 - 1))
def test_a_frame_that_says_it_is_too_long_is_refused_before_it_arrives(length: int) -> None:
    with pytest.raises(ProtocolError, match="longer than the 50 allowed"):
        messages.FrameReader(50).feed(length.to_bytes(4, "big"))


# --- messages


@pytest.mark.parametrize(
    "message",
    [
        HELLO,
        messages.Submit(id=1, request=REQUEST, token="t"),
        messages.Act(id=2, job_id="j", action="pause"),
        messages.Stop(id=3),
    ],
    ids=lambda message: type(message).__name__,
)
def test_requests_come_through_unchanged(message: messages.Request) -> None:
    (content,) = messages.FrameReader(messages.MAX_REQUEST_BYTES).feed(messages.encode(message))
    assert messages.decode_request(content) == message


def test_a_message_never_shows_the_token() -> None:
    assert "hf_secret" not in repr(messages.Submit(id=1, request=REQUEST, token="hf_secret"))


def test_snapshots_come_through_unchanged() -> None:
    snapshot = DownloadSnapshot(
        job_id="j",
        request=REQUEST,
        state=DownloadState.DOWNLOADING,
        received=2**62,
        rate=0.5,
        actions=("pause",),
        rev=3,
    )
    (content,) = messages.FrameReader(messages.MAX_REPLY_BYTES).feed(
        messages.encode(messages.Update(snapshot=snapshot))
    )
    assert messages.decode_reply(content) == messages.Update(snapshot=snapshot)


@pytest.mark.parametrize(
    ("content", "request_id"),
    [
        (b"", None),
        (b"null", None),
        (b"[1]", None),
        (b"\xff\xfe", None),
        (b'{"kind":"act"}', None),
        (b'{"kind":"act","id":"x","job_id":"j","action":"pause"}', None),
        (b'{"kind":"act","id":7,"job_id":8,"action":"pause"}', 7),
        (b'{"kind":"act","id":7,"job_id":"j","action":"pause","extra":1}', 7),
        (b'{"kind":"act","id":7,"job_id":"j","action":"delete"}', 7),
        (b'{"kind":"unheard_of","id":7}', 7),
        (b'{"kind":"submit","id":7,"request":{"repo_id":"a/b"}}', 7),
        (b'{"kind":"act","id":7,"job_id":"\xff","action":"pause"}', 7),
        (b'{"kind":"act","id":-7,"job_id":"j","action":"pause"}', None),
        (b'{"id":7}', 7),
        (b"[" * 100_000, None),
        (b'{"kind":"act","id":99999999999999999999999,"job_id":"j","action":"pause"}', None),
    ],
)
def test_a_bad_request_is_a_protocol_error(content: bytes, request_id: int | None) -> None:
    with pytest.raises(ProtocolError) as caught:
        messages.decode_request(content)
    assert caught.value.details == {"id": request_id}


def test_an_error_never_quotes_the_token() -> None:
    request = msgspec.to_builtins(messages.Submit(id=1, request=REQUEST, token="hf_secret"))
    for damage in [{"id": "x"}, {"token": ["hf_secret"]}, {"hf_secret": 1}, {"request": "hf_secret"}]:
        with pytest.raises(ProtocolError) as caught:
            messages.decode_request(msgspec.json.encode(request | damage))
        if "hf_secret" not in damage:
            assert "hf_secret" not in caught.value.message


# --- the server


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The socket of a server that runs on a thread, with a real manager behind it."""
    with tempfile.TemporaryDirectory(prefix="modeldeck-test-") as directory:
        path = str(Path(directory) / "s")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        thread = LoopThread("server")
        servers: list[EngineServer] = []

        async def serve() -> None:
            async with DownloadManager() as manager:
                servers.append(EngineServer(SharedManager(manager, "process"), idle_seconds=1000))
                await servers[0].serve(listener)

        running = thread.start(serve())
        yield path
        thread.post(servers[0].stop)
        running.result(PATIENCE_SECONDS)
        thread.stop()


class RawClient:
    """A client that can send anything."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_SECONDS)
        self._socket.connect(address)
        self._frames = messages.FrameReader(messages.MAX_REPLY_BYTES)
        self._contents: list[bytes] = []

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self) -> messages.Reply | None:
        """The next reply, or ``None`` when the server hangs up."""
        while not self._contents:
            try:
                data = self._socket.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._contents = self._frames.feed(data)
        return messages.decode_reply(self._contents.pop(0))

    def ask(self, request: messages.Request) -> messages.Reply | None:
        self.send(messages.encode(request))
        return self.receive()


def frame(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=12,
)
almost_requests = st.fixed_dictionaries(
    {"kind": st.sampled_from(["hello", "submit", "act", "set_limits", "unheard_of"])},
    optional={
        "id": st.integers(1, 1000) | json_values,
        "job_id": st.text(max_size=20) | json_values,
        "action": st.sampled_from(["move_up", "pause", "resume", "cancel", "retry", "dismiss"]) | json_values,
        "request": json_values,
        "limits": st.lists(json_values),  # an object may be right by chance
        "token": json_values,
    },
)
bad_contents = st.one_of(
    st.binary(max_size=200), json_values.map(msgspec.json.encode), almost_requests.map(msgspec.json.encode)
)


@settings(max_examples=150, deadline=None)
@given(contents=st.lists(bad_contents, min_size=1, max_size=5))
def test_every_bad_message_gets_one_failure_and_nothing_else(address: str, contents: list[bytes]) -> None:
    with RawClient(address) as client:
        assert isinstance(client.ask(HELLO), messages.Answer)
        client.send(b"".join(map(frame, contents)))
        for _ in contents:
            assert isinstance(client.receive(), messages.Failure)
        status = client.ask(messages.Status(id=5000))
        assert isinstance(status, messages.Answer)
        assert status.id == 5000


@settings(max_examples=50, deadline=None)
@given(data=st.binary(min_size=1, max_size=300))
def test_a_stream_of_garbage_harms_nobody_else(address: str, data: bytes) -> None:
    with RawClient(address) as other:
        assert isinstance(other.ask(HELLO), messages.Answer)
        with RawClient(address) as client:
            client.send(data)
        assert isinstance(other.ask(messages.Status(id=1)), messages.Answer)


def test_a_too_long_frame_gets_a_failure_and_the_end(address: str) -> None:
    with RawClient(address) as client:
        assert isinstance(client.ask(HELLO), messages.Answer)
        client.send((messages.MAX_REQUEST_BYTES + 1).to_bytes(4, "big"))
        reply = client.receive()
        assert isinstance(reply, messages.Failure)
        assert (reply.id, reply.error.code) == (None, "protocol")
        assert isinstance(client.receive(), messages.Farewell)
        assert client.receive() is None


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (messages.Status(id=1), "first message"),
        (msgspec.structs.replace(HELLO, version="0.0.0"), "0.0.0"),
        (msgspec.structs.replace(HELLO, protocol=99), "engine is of modeldeck"),
    ],
)
def test_nothing_is_done_before_a_right_hello(address: str, request_: messages.Request, message: str) -> None:
    with RawClient(address) as client:
        reply = client.ask(request_)
        assert isinstance(reply, messages.Failure)
        assert message in reply.error.message
        assert isinstance(client.ask(HELLO), messages.Answer)
        again = client.ask(HELLO)
        assert isinstance(again, messages.Failure)


def test_an_observer_sees_the_status_and_steers_nothing(address: str) -> None:
    with RawClient(address) as client:
        assert isinstance(client.ask(msgspec.structs.replace(HELLO, is_observer=True)), messages.Answer)
        status = client.ask(messages.Status(id=1))
        assert isinstance(status, messages.Answer)
        assert msgspec.json.decode(status.result)["clients"] == 0
        reply = client.ask(messages.Act(id=2, job_id="j", action="pause"))
        assert isinstance(reply, messages.Failure)
        assert "observer" in reply.error.message


def test_a_client_that_does_not_read_is_owed_one_snapshot_of_each_download(
    address: str, slow_hub: LocalHub, cache_dir: Path
) -> None:
    """Nobody waits for it, the engine's memory does not grow, and what it gets when it reads again is the newest."""
    slow_down(slow_hub, 1e6)
    # The buffers of a socket hold only a few snapshots of this size.
    request = replace(request_for(slow_hub, cache_dir), label="x" * 200_000)

    def receive_until_ready(client: RawClient) -> list[DownloadSnapshot]:
        received: list[DownloadSnapshot] = []
        while not received or received[-1].state is not DownloadState.READY:
            reply = client.receive()
            if isinstance(reply, messages.Update):
                received.append(reply.snapshot)
        return received

    with RawClient(address) as stuck, RawClient(address) as client:
        assert isinstance(stuck.ask(HELLO), messages.Answer)
        assert isinstance(client.ask(HELLO), messages.Answer)
        client.send(messages.encode(messages.Submit(id=1, request=request)))
        live = receive_until_ready(client)
        job_id = live[-1].job_id
        client.send(messages.encode(messages.Act(id=2, job_id=job_id, action="dismiss")))
        while not isinstance(client.receive(), messages.Removed):
            pass
        late = receive_until_ready(stuck)  # how it ended comes through, though it is off the list already
        assert late[-1] == live[-1]
        assert len(late) < min(6, len(live))
        assert stuck.receive() == messages.Removed(job_id=job_id)
