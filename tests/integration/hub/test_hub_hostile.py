"""Answers that no Hub gives. Whatever comes, the caller sees a ``ModelDeckError`` of the right code, soon."""

import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modeldeck._errors import ModelDeckError
from modeldeck._settings import Settings
from modeldeck._types import SearchQuery
from modeldeck.hub.client import ClientLimits, HubClient
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub
from tools.localhub.faults import RawBytes, Reply, ReplyBy, Stall, json_reply
from tools.localhub.messages import HTTPRequest

from .test_hub_client import COMMIT, INFO, RESOLVE, TREE, info, lfs_entry

pytestmark = pytest.mark.anyio

Connect = Callable[..., HubClient]


@pytest.fixture
async def connect(server: LocalHub, tmp_path: Path, anyio_backend: str) -> AsyncIterator[Connect]:
    """Makes clients of the scripted hub with other limits."""
    async with AsyncExitStack() as stack:

        def connect(**limits: Any) -> HubClient:
            client = HubClient(Settings(endpoint=server.endpoint, cache_dir=tmp_path), limits=ClientLimits(**limits))
            stack.push_async_callback(client.aclose)
            return client

        yield connect


WEB_PAGE = Reply(
    headers={"Content-Type": "text/html"}, body=b"<!doctype html><title>Sign in to the hotel's network</title>"
)


def body(data: bytes, **headers: str) -> Reply:
    return Reply(headers={"Content-Type": "application/json", **headers}, body=data)


NO_JSON = {
    "a web page": WEB_PAGE,
    "nothing": body(b""),
    "text": body(b"OK"),
    "half of it": body(b'[{"id":"o/n"'),
    "two values": body(b"[] []"),
    "no utf-8": body(b'[{"id":"\xff\xfe"}]'),
    "a lone surrogate": body(b'[{"id":"\\ud800"}]'),
    "NaN": body(b"NaN"),
    "null": body(b"null"),
    "a number": body(b"7"),
    "a huge number": body(b"1" * 10_000),
    "a float that is none": body(b"1e999"),
    "deep nesting": body(b"[" * 1_000_000),
    "deep nesting inside": body(b'[{"id":"o/n","tags":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}]"),
    "brotli": body(b"[]", **{"Content-Encoding": "br"}),
    "gzip that is none": body(b"not gzip", **{"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("reply", NO_JSON.values(), ids=NO_JSON)
@pytest.mark.parametrize("call", ["search", "listing", "tree"])
async def test_what_is_no_json_is_a_server_error(server: LocalHub, hub: HubClient, reply: Reply, call: str) -> None:
    if call == "tree":
        server.faults.script(INFO, json_reply(info()))
    server.faults.script({"search": "/api/models", "listing": INFO, "tree": TREE}[call], reply)
    with pytest.raises(ModelDeckError, match=r"Check|Try again") as caught:
        await (hub.search(SearchQuery()) if call == "search" else hub.listing("o/n"))
    assert caught.value.code == "server_error"
    if reply is WEB_PAGE:
        assert "a web page" in caught.value.message


@pytest.mark.parametrize("rows", [{}, [1], [None], [[]], [{}], [{"id": 5}], [{"id": None}], ["o/n"]])
async def test_a_search_of_another_shape_is_a_server_error(server: LocalHub, hub: HubClient, rows: Any) -> None:
    server.faults.script("/api/models", json_reply(rows))
    with pytest.raises(ModelDeckError) as caught:
        await hub.search(SearchQuery())
    assert caught.value.code == "server_error"


@pytest.mark.parametrize(
    "change",
    [
        {"sha": None},
        {"sha": "main"},
        {"sha": "A" * 40},
        {"sha": "../" * 13 + "x"},
        {"sha": f"{COMMIT}\n"},
        {"sha": 7},
        {"id": "../../etc/passwd"},
        {"id": ""},
        {"id": "a/b/c"},
        {"id": []},
    ],
    ids=str,
)
async def test_a_model_without_a_valid_name_or_commit_is_a_server_error(
    server: LocalHub, hub: HubClient, change: dict[str, Any]
) -> None:
    server.faults.script(INFO, json_reply(info(**change)))
    with pytest.raises(ModelDeckError) as caught:
        await hub.listing("o/n")
    assert caught.value.code == "server_error"
    assert len(server.requests) == 1


def entry(**changes: Any) -> dict[str, Any]:
    return {**lfs_entry("m.gguf", b"content"), **changes}


def lfs(**changes: Any) -> dict[str, Any]:
    made = lfs_entry("m.gguf", b"content")
    return {**made, "lfs": {**made["lfs"], **changes}}


HOSTILE_ENTRIES: list[Any] = [
    entry(size=-1),
    entry(size=2**60),
    entry(size=10**400),
    entry(size="7"),
    entry(size=7.5),
    entry(size=True),
    entry(path=None),
    entry(path=["m.gguf"]),
    entry(lfs=[]),
    entry(lfs={}),
    lfs(size=-1),
    lfs(size=2**53 + 1),
    lfs(size=None),
    lfs(oid="0" * 63),
    lfs(oid="G" * 64),
    lfs(oid=f"{'0' * 64}\n"),
    lfs(oid="../../../etc/passwd"),
    7,
    None,
    "m.gguf",
]


@pytest.mark.parametrize("hostile", HOSTILE_ENTRIES, ids=lambda value: str(value)[:60])
async def test_a_listing_with_a_hostile_entry_is_a_server_error(server: LocalHub, hub: HubClient, hostile: Any) -> None:
    server.faults.script(INFO, json_reply(info()))
    server.faults.script(TREE, body(json.dumps([lfs_entry("ok.gguf", b"ok"), hostile]).encode()))
    with pytest.raises(ModelDeckError) as caught:
        await hub.listing("o/n")
    assert caught.value.code == "server_error"


async def test_a_listing_with_ever_new_pages_ends(server: LocalHub, hub: HubClient) -> None:
    def page(request: HTTPRequest) -> Reply:
        number = int(request.target.partition("cursor=")[2] or "0")
        return json_reply([], headers={"Link": f'<{TREE}?cursor={number + 1}>; rel="next"'})

    server.faults.script(INFO, json_reply(info()))
    server.faults.script(TREE, ReplyBy(page))
    with pytest.raises(ModelDeckError, match="next page") as caught:
        await hub.listing("o/n")
    assert caught.value.code == "server_error"
    assert len(server.requests.to_path(TREE)) == 200


async def test_two_files_of_one_name_are_a_server_error(server: LocalHub, hub: HubClient) -> None:
    server.faults.script(INFO, json_reply(info()))
    server.faults.script(TREE, json_reply([lfs_entry("m.gguf", b"1"), lfs_entry("m.gguf", b"2")]))
    with pytest.raises(ModelDeckError, match="two files") as caught:
        await hub.listing("o/n")
    assert caught.value.code == "server_error"


@pytest.mark.parametrize("link", [f"{TREE}?recursive=true&cursor=1", "https://elsewhere.example/tree", "/api/whoami"])
async def test_a_listing_that_goes_on_for_ever_or_elsewhere_is_a_server_error(
    server: LocalHub, hub: HubClient, link: str
) -> None:
    server.faults.script(INFO, json_reply(info()))
    server.faults.script(TREE, json_reply([], headers={"Link": f'<{link}>; rel="next"'}))
    with pytest.raises(ModelDeckError, match="next page") as caught:
        await hub.listing("o/n")
    assert caught.value.code == "server_error"
    assert len(server.requests) <= 3


@pytest.mark.parametrize(
    "link", ["", "<", "<>; rel=next", "nonsense", ';;;,,,"', "<http://[>; rel=next", "<\\>;rel=next"]
)
async def test_a_broken_link_header_ends_the_search(server: LocalHub, hub: HubClient, link: str) -> None:
    server.faults.script("/api/models", json_reply([{"id": "o/n"}], headers={"Link": link}))
    page = await hub.search(SearchQuery())
    assert (len(page.models), page.next_cursor) == (1, None)


async def test_a_body_without_end_is_left_early(server: LocalHub, connect: Connect) -> None:
    server.faults.script("/api/models", body(b"[" + b" " * 50_000_000 + b"]"))
    with pytest.raises(ModelDeckError, match="more than 100000 bytes") as caught:
        await connect(json_bytes=100_000).search(SearchQuery())
    assert caught.value.code == "server_error"


async def test_a_small_body_that_unpacks_to_a_huge_one_is_left_early(server: LocalHub, hub: HubClient) -> None:
    packed = gzip.compress(b" " * (100 * 2**20), 9)
    server.faults.script("/api/models", body(packed, **{"Content-Encoding": "gzip"}))
    with pytest.raises(ModelDeckError, match="more than") as caught:
        await hub.search(SearchQuery())
    assert caught.value.code == "server_error"


async def test_a_body_that_trickles_in_is_given_up(server: LocalHub, connect: Connect) -> None:
    server.faults.script("/api/models", Stall(-1))
    with pytest.raises(ModelDeckError) as caught:
        await connect(call_seconds=0.3).search(SearchQuery())
    assert caught.value.code == "timeout"
    assert len(server.requests) == 1


async def test_a_call_can_be_cancelled_while_it_waits(server: LocalHub, hub: HubClient) -> None:
    server.faults.script("/api/models", Stall(-1))
    async with anyio.create_task_group() as group:
        group.start_soon(hub.search, SearchQuery())
        with anyio.fail_after(PATIENCE_SECONDS):
            await anyio.to_thread.run_sync(server.requests.wait_until, bool)
        group.cancel_scope.cancel()
    assert len(server.requests) == 1


async def test_a_web_page_where_a_file_should_be_is_told(server: LocalHub, hub: HubClient) -> None:
    server.faults.script(RESOLVE, WEB_PAGE)
    with pytest.raises(ModelDeckError, match="a web page where a file should be") as caught:
        await hub.resolve("o/n", "main", "m.gguf")
    assert caught.value.code == "server_error"


async def test_a_header_that_is_no_text_breaks_nothing(server: LocalHub, hub: HubClient) -> None:
    junk = b"HTTP/1.1 404 Not Found\r\nX-Error-Message: \xff\xfe\xe4\r\nRateLimit: \xff\r\nContent-Length: 0\r\n\r\n"
    server.faults.script(RESOLVE, RawBytes(junk))
    with pytest.raises(ModelDeckError) as caught:
        await hub.resolve("o/n", "main", "m.gguf")
    assert caught.value.code == "file_not_found"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
ROW = st.fixed_dictionaries(
    {},
    optional={
        name: JSON | st.sampled_from(["o/n", COMMIT])
        for name in ("id", "sha", "gated", "tags", "gguf", "cardData", "likes", "downloads", "lastModified", "private")
    },
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "type": st.just("file") | JSON,
        "path": st.just("m.gguf") | JSON,
        "oid": JSON,
        "size": st.integers() | JSON,
        "lfs": JSON | st.fixed_dictionaries({"oid": st.just("0" * 64) | JSON, "size": st.integers() | JSON}),
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, max_size=2) | JSON, model=ROW | JSON, entries=st.lists(ENTRY, max_size=2) | JSON)
async def test_no_json_breaks_the_client(server: LocalHub, hub: HubClient, rows: Any, model: Any, entries: Any) -> None:
    for path, value in (("/api/models", rows), ("/api/models/o/n/revision/main", model), ("*/tree/*", entries)):
        server.faults.script(path, json_reply(value))
    codes = []
    for call in (hub.search(SearchQuery()), hub.listing("o/n")):
        try:
            await call
        except ModelDeckError as error:
            codes.append(error.code)
    assert set(codes) <= {"server_error"}
    server.faults.clear()
