"""Proxies, NO_PROXY, and endpoints with a password or a path, for the client and the engine against a real hub."""

import logging
import os
import re
import socket
import struct
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpx
import pytest

from modeldeck._errors import ModelDeckError
from modeldeck._settings import Settings, resolve_settings
from modeldeck._types import DownloadState, SearchQuery
from modeldeck.engine.transport import EngineTransport
from modeldeck.hub.addresses import model_address
from modeldeck.hub.client import ClientLimits, HubClient
from modeldeck.session import Session
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub
from tools.localhub.faults import ChangeHeaders, Reply, ReplyBy, json_reply
from tools.localhub.messages import HTTPRequest

from .test_hub_client import COMMIT, info, lfs_entry

pytestmark = pytest.mark.anyio

KEY, ARCHITECTURE = b"general.architecture", b"llama"
HEADER = struct.pack(
    f"<4sIQQQ{len(KEY)}sIQ{len(ARCHITECTURE)}s", b"GGUF", 3, 0, 1, len(KEY), KEY, 8, len(ARCHITECTURE), ARCHITECTURE
)
CONTENT = HEADER + bytes(range(256)) * 4000
NAME = "m-Q4_K_M.gguf"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MODELDECK_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def local() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        hub.add_repo("o/n", {NAME: CONTENT}, gguf={})
        yield hub


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield unused.getsockname()[1]


async def download(endpoint: str, tmp_path: Path) -> DownloadState:
    async with Session(endpoint=endpoint, cache_dir=tmp_path / "cache", token=False, inline=True) as session:
        model = await session.download("o/n", "Q4_K_M")
        assert model.path.read_bytes() == CONTENT
        return (await session.downloads())[0].state


def text_of_files(folder: Path) -> str:
    return " ".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("no_proxy", ["127.0.0.0/8,::1/128", "localhost,[::1],127.0.0.1", "127.0.0.1/32", "*"])
async def test_no_proxy_holds_for_the_client_and_the_engine(
    local: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_port: int, no_proxy: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port}")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert await download(local.endpoint, tmp_path) is DownloadState.READY


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_a_dead_proxy_is_named_and_its_password_is_not(
    local: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_port: int, variable: str
) -> None:
    monkeypatch.setenv(variable, f"http://user:secret@127.0.0.1:{closed_port}")
    client = HubClient(Settings(endpoint=local.endpoint, cache_dir=tmp_path), limits=ClientLimits(retry_seconds=0.0))
    with pytest.raises(ModelDeckError, match=f"proxy 127.0.0.1:{closed_port} cannot be reached") as caught:
        await client.listing("o/n")
    await client.aclose()
    assert caught.value.code == "proxy"
    assert variable in caught.value.message
    assert "secret" not in caught.value.message


async def test_a_proxy_that_dies_before_the_download_is_named(
    local: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    async with Session(endpoint=local.endpoint, cache_dir=tmp_path / "cache", token=False, inline=True) as session:
        request = await session.request("o/n", "Q4_K_M")
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port}")
        job = await session.start(request)
        with pytest.raises(ModelDeckError, match=f"proxy 127.0.0.1:{closed_port} cannot be reached") as caught:
            with anyio.fail_after(PATIENCE_SECONDS):
                await job
        assert caught.value.code == "proxy"


@pytest.mark.parametrize("proxy", ["unheard-of://user:secret@127.0.0.1:9", "http://[::1"])
async def test_a_proxy_setting_that_cannot_be_used_for_a_later_request_is_named(
    local: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    client = HubClient(Settings(endpoint=local.endpoint, cache_dir=tmp_path))
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(ModelDeckError, match="HTTP_PROXY") as caught:
        await client.search(SearchQuery())
    await client.aclose()
    assert (caught.value.code, caught.value.details["is_setting"]) == ("proxy", True)
    assert "secret" not in caught.value.message
    assert len(local.requests) == 0


async def test_a_refused_port_names_the_endpoint_s_setting(tmp_path: Path, closed_port: int) -> None:
    settings = Settings(endpoint=f"http://127.0.0.1:{closed_port}", cache_dir=tmp_path)
    client = HubClient(settings, limits=ClientLimits(retry_seconds=0.0))
    with pytest.raises(ModelDeckError, match="HF_ENDPOINT") as caught:
        await client.search(SearchQuery())
    await client.aclose()
    assert caught.value.code == "offline"
    assert "PROXY" not in caught.value.message


NAMES = (
    *("a..b", ".b.localhost", "a" * 64 + ".localhost", "a_b.localhost", "-a-.localhost", "*.localhost", "localhost."),
    *(
        "%61.localhost",
        "a|b.localhost",
        'a"b.localhost',
        "a<b.localhost",
        "xn--zzzzzz--.localhost",
        "xn--n3h.localhost",
    ),
    *("\ufb00.localhost", "\uff41.localhost", "\u00fc.localhost", "\u2603.localhost", "\u0663.localhost"),
    *("a\u200bb.localhost", "[::1%25lo]", "[::1%lo]", "[::1"),
)


async def list_at(endpoint: str, cache_dir: Path, transport: EngineTransport | None) -> None:
    settings = resolve_settings(endpoint=endpoint, cache_dir=cache_dir, token=False)
    model_address("hf.co/o/n", settings.endpoint)
    client = HubClient(settings, limits=ClientLimits(retry_seconds=0.0), transport=transport)
    try:
        await client.listing("o/n")
    finally:
        await client.aclose()


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("what", ["endpoint", "proxy"])
async def test_a_name_that_cannot_be_reached_is_a_clean_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_port: int, name: str, what: str
) -> None:
    """For the client's own connections and for the engine's."""
    address = f"http://{name}:{closed_port}"
    if what == "proxy":
        monkeypatch.setenv("HTTP_PROXY", address)
        address = "http://hub.localhost"
    engine = EngineTransport()
    for transport in (None, engine):
        with pytest.raises(ModelDeckError) as caught:
            await list_at(address, tmp_path, transport)
        assert caught.value.code in ("invalid_request", "offline", "proxy")
    await engine.shut_down()


async def test_a_storage_with_a_name_that_cannot_be_looked_up_is_not_found(local: LocalHub, tmp_path: Path) -> None:
    local.faults.add(ChangeHeaders({"Location": "http://a..b/file"}), path="*/resolve/*", origin="hub")
    client = HubClient(Settings(endpoint=local.endpoint, cache_dir=tmp_path), limits=ClientLimits(retry_seconds=0.0))
    with pytest.raises(ModelDeckError, match=r"a\.\.b") as caught:
        await client.fetch_range("o/n", "main", NAME, 0, 9)
    await client.aclose()
    assert caught.value.code == "offline"


async def test_a_password_in_the_endpoint_authenticates_and_appears_nowhere(local: LocalHub, tmp_path: Path) -> None:
    address = urlsplit(local.endpoint)
    endpoint = f"http://someone:sesame@{address.netloc}"
    async with Session(endpoint=endpoint, cache_dir=tmp_path / "cache", inline=True) as session:
        await session.search("o/n")
        model = await session.download("o/n")
        (snapshot,) = await session.downloads()
        seen = f"{session.settings!r} {snapshot!r} {model!r}"
        local.faults.add(Reply(500), path="/api/*")
        with pytest.raises(ModelDeckError) as caught:
            await session.describe("o/not-in-the-cache")
        seen += f" {caught.value!r} {caught.value.details}"
    basic = b64encode(b"someone:sesame").decode()
    assert {record.headers.get("authorization") for record in local.requests.to("hub")} == {f"Basic {basic}"}
    assert not any("authorization" in record.headers for record in local.requests.to("cdn"))
    seen += text_of_files(tmp_path)
    assert not re.search(f"sesame|someone|{re.escape(basic)}", seen)


async def test_no_address_is_logged(local: LocalHub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """httpx logs each whole, and those of the storage are signed. Its log stays as it is for other programs."""
    caplog.set_level(logging.INFO)
    await download(local.endpoint, tmp_path)
    client = HubClient(Settings(endpoint=local.endpoint, cache_dir=tmp_path))
    await client.fetch_range("o/n", "main", NAME, 0, 9)
    await client.aclose()
    assert any("Signature=" in record.query for record in local.requests.to("cdn"))
    assert local.endpoint not in caplog.text
    assert "Signature=" not in caplog.text
    async with httpx.AsyncClient() as other:
        await other.get(f"{local.endpoint}/api/models")
    assert local.endpoint in caplog.text


# --- an endpoint with a path ------------------------------------------------------------------------------------------

PATH = "/api/hf"


async def test_a_mirror_below_a_path_is_never_left(tmp_path: Path) -> None:
    """It passes on what the Hub behind it says: redirects without the path, and next pages at the Hub itself."""

    def tree(request: HTTPRequest) -> Reply:
        number = int(request.target.partition("cursor=")[2] or "0")
        following = f"https://huggingface.co/api/models/o/n/tree/{COMMIT}?recursive=true&cursor={number + 1}"
        headers = {"Link": f'<{following}>; rel="next"'} if number < 2 else {}
        return json_reply([lfs_entry(f"{number}.gguf", b"content")], headers=headers)

    def search(request: HTTPRequest) -> Reply:
        more = {"Link": '<https://huggingface.co/api/models?cursor=2>; rel="next"'}
        return json_reply([{"id": "o/n"}], headers={} if "cursor" in request.target else more)

    with LocalHub() as mirror:
        mirror.faults.add(Reply(404))
        mirror.faults.script(f"{PATH}/api/models", ReplyBy(search))
        mirror.faults.script(
            f"{PATH}/api/models/o/old/revision/main",
            Reply(307, {"Location": "/api/models/o/n/revision/main"}),
        )
        mirror.faults.script(f"{PATH}/api/models/o/n/revision/main", json_reply(info()))
        mirror.faults.script(f"{PATH}/api/models/o/n/tree/{COMMIT}", ReplyBy(tree))
        mirror.faults.script(f"{PATH}/o/old/resolve/main/m.gguf", Reply(307, {"Location": "/o/n/resolve/main/m.gguf"}))
        mirror.faults.script(
            f"{PATH}/o/n/resolve/main/m.gguf", Reply(200, {"X-Repo-Commit": COMMIT, "ETag": f'"{"0" * 64}"'}, b"x" * 9)
        )
        client = HubClient(resolve_settings(endpoint=f"{mirror.endpoint}{PATH}/", cache_dir=tmp_path, token=False))
        page = await client.search(SearchQuery())
        assert page.next_cursor == f"{mirror.endpoint}{PATH}/api/models?cursor=2"
        assert (await client.search(SearchQuery(), page.next_cursor)).next_cursor is None
        listing = await client.listing("o/old")
        assert (listing.repo_id, [file.filename for file in listing.files]) == ("o/n", ["0.gguf", "1.gguf", "2.gguf"])
        assert (await client.resolve("o/old", "main", "m.gguf")).size == 9
        await client.search(SearchQuery(text=f"{mirror.endpoint}{PATH}/o/n/blob/main/m.gguf"))
        await client.aclose()
        assert all(record.path.startswith(f"{PATH}/") for record in mirror.requests)
        assert "search=o%2Fn&" in mirror.requests[-1].query


async def test_a_renamed_repository_downloads_through_a_mirror_below_a_path(tmp_path: Path) -> None:
    files = {NAME: CONTENT, "README.md": b"# m", "BF16/m-BF16.gguf": CONTENT * 2}
    with LocalHub(path=PATH, tree_page_size=1) as mirror:
        mirror.add_repo("o/n", files, aliases=["o/old"])
        mirror.add_repo("o/other", files)
        async with Session(endpoint=mirror.endpoint, cache_dir=tmp_path / "cache", token=False, inline=True) as session:
            first = await session.search(limit=1)
            second = await session.search(limit=1, cursor=first.next_cursor)
            assert {model.repo_id for page in (first, second) for model in page.models} == {"o/n", "o/other"}
            model = await session.download(f"{mirror.endpoint}/o/old/blob/main/{NAME}")
            assert (model.repo_id, model.path.read_bytes()) == ("o/n", CONTENT)
            small = await session.hub.fetch_range("o/old", "main", "README.md", 0, 9)
            assert small == b"# m"
        assert all(record.path.startswith(f"{PATH}/") for record in mirror.requests.to("hub"))
        assert mirror.requests.to("cdn")
