"""The client against the local hub: a whole Hub with a second origin, over plain HTTP and TLS."""

import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from modeldeck._errors import InvalidRequestError, ModelDeckError
from modeldeck._settings import Settings
from modeldeck._types import SearchFilters, SearchQuery
from modeldeck.hub.client import ClientLimits, HubClient
from tools.localhub import LocalHub
from tools.localhub.faults import ChangeHeaders, Cut, MirrorHeaders, RedirectLoop, Reply
from tools.localhub.routes import LocalAccount

pytestmark = pytest.mark.anyio

CONTENT = b"GGUF" + bytes(range(256)) * 40
FILES = {"README.md": b"# m", "m-Q4_K_M.gguf": CONTENT, "BF16/m-BF16.gguf": CONTENT * 2}


@pytest.fixture
def local() -> Iterator[LocalHub]:
    with LocalHub(tokens={"hf_good": ["o/closed"], "hf_other": []}, tree_page_size=2) as hub:
        hub.add_repo("o/n", FILES, license="mit", likes=3, downloads=7, tags=["conversational"], aliases=["n"])
        hub.add_repo("o/closed", {"m.gguf": CONTENT}, gated="manual")
        hub.add_repo("o/gone", {"m.gguf": CONTENT}, is_disabled=True)
        for number in range(5):
            hub.add_repo(f"many/m{number}", {"m.gguf": b"GGUF%d" % number})
        yield hub


@pytest.fixture
async def connect(local: LocalHub, tmp_path: Path, anyio_backend: str) -> AsyncIterator[Callable[..., HubClient]]:
    clients: list[HubClient] = []

    def connect(token: str | None = None) -> HubClient:
        settings = Settings(endpoint=local.endpoint, cache_dir=tmp_path, token=token)
        clients.append(HubClient(settings, limits=ClientLimits(retry_seconds=0.0)))
        return clients[-1]

    yield connect
    for client in clients:
        await client.aclose()


@pytest.fixture
def client(connect: Callable[..., HubClient]) -> HubClient:
    return connect()


async def raised_by(call: Any) -> ModelDeckError:
    with pytest.raises(ModelDeckError) as caught:
        await call
    return caught.value


async def test_search_and_its_pages(client: HubClient) -> None:
    (model,) = (await client.search(SearchQuery(text="o/n"))).models
    assert (model.repo_id, model.license, model.likes, model.downloads) == ("o/n", "mit", 3, 7)
    names: list[str] = []
    cursor = None
    while True:
        page = await client.search(SearchQuery(author="many", limit=2), cursor=cursor)
        assert len(page.models) <= 2
        names += [model.repo_id for model in page.models]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert sorted(names) == [f"many/m{number}" for number in range(5)]


FILTERED = {
    "big/chat": {"tags": ["pt", "en"], "license": "apache-2.0", "gguf": {"total": 9 * 10**9, "context_length": 9}},
    "small/chat": {"tags": ["en"], "license": "mit", "gguf": {"total": 10**9, "context_length": 9}},
    "small/code": {"tags": ["code"], "license": "mit", "gguf": {"total": 5 * 10**8}, "gated": "auto"},
    "small/eyes": {"pipeline_tag": "image-text-to-text", "gguf": {"total": 2 * 10**9, "context_length": 9}},
    "small/vectors": {"pipeline_tag": "feature-extraction", "gguf": {"total": 10**8, "context_length": 9}},
}


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"task": "chat"}, {"big/chat", "small/chat"}),
        ({"task": "code"}, {"small/code"}),
        ({"task": "vision"}, {"small/eyes"}),
        ({"task": "embedding"}, {"small/vectors"}),
        ({"task": "feature-extraction"}, {"small/vectors"}),
        ({"license": "mit"}, {"small/chat", "small/code"}),
        ({"language": "pt"}, {"big/chat"}),
        ({"gated": True}, {"small/code"}),
        ({"gated": False}, {"big/chat", "small/chat", "small/eyes", "small/vectors"}),
        ({"app": "llama.cpp"}, {"big/chat", "small/chat", "small/eyes", "small/vectors"}),
        ({"app": "nothing"}, set()),
        ({"min_parameters": 2 * 10**9}, {"big/chat", "small/eyes"}),
        ({"max_parameters": 5 * 10**8}, {"small/code", "small/vectors"}),
        ({"min_parameters": 10**9, "max_parameters": 2 * 10**9}, {"small/chat", "small/eyes"}),
        ({"task": "chat", "license": "mit", "language": "en", "max_parameters": 10**9}, {"small/chat"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",  # a set has no order
)
async def test_the_hub_filters(tmp_path: Path, filters: dict[str, Any], found: set[str]) -> None:
    with LocalHub() as hub:
        for repo_id, about in FILTERED.items():
            if repo_id.endswith("/chat"):
                about = {**about, "gguf": {**about["gguf"], "chat_template": "x"}}
            hub.add_repo(repo_id, {"m.gguf": b"GGUF"}, **about)
        client = HubClient(Settings(endpoint=hub.endpoint, cache_dir=tmp_path))
        page = await client.search(SearchQuery(filters=SearchFilters(**filters)))
        await client.aclose()
    assert {model.repo_id for model in page.models} == found


async def test_a_listing_of_several_pages(client: HubClient, local: LocalHub) -> None:
    listing = await client.listing("o/n")
    assert {file.filename: (file.size, file.sha256) for file in listing.files} == {
        "README.md": (3, None),
        "m-Q4_K_M.gguf": (len(CONTENT), local.sha256("o/n", "m-Q4_K_M.gguf")),
        "BF16/m-BF16.gguf": (2 * len(CONTENT), local.sha256("o/n", "BF16/m-BF16.gguf")),
    }
    assert len([record for record in local.requests.snapshot() if "/tree/" in record.path]) > 1


async def test_an_old_id_leads_to_the_canonical_one(client: HubClient) -> None:
    assert (await client.listing("n")).repo_id == "o/n"
    assert (await client.resolve("n", "main", "m-Q4_K_M.gguf")).size == len(CONTENT)


async def test_a_file_is_resolved_and_read_in_part(client: HubClient, local: LocalHub) -> None:
    name = "BF16/m-BF16.gguf"
    resolved = await client.resolve("o/n", "main", name)
    assert resolved.sha256 == local.sha256("o/n", name)
    assert resolved.size == 2 * len(CONTENT)
    assert resolved.is_signed_elsewhere
    assert resolved.url.startswith(local.cdn_origin)
    assert await client.fetch_range("o/n", resolved.commit_hash, name, 100, 5000) == (CONTENT * 2)[100:5000]
    small = await client.resolve("o/n", "main", "README.md")
    assert (small.size, small.sha256, small.commit_hash) == (3, None, resolved.commit_hash)
    assert await client.fetch_range("o/n", "main", "README.md", 0, 100) == b"# m"


async def test_what_is_not_there_is_told_apart(client: HubClient) -> None:
    assert (await raised_by(client.listing("o/none"))).code == "repo_not_found"
    assert (await raised_by(client.listing("o/n", "v9"))).code == "revision_not_found"
    assert (await raised_by(client.resolve("o/none", "main", "m.gguf"))).code == "repo_not_found"
    assert (await raised_by(client.resolve("o/n", "v9", "m.gguf"))).code == "revision_not_found"
    assert (await raised_by(client.resolve("o/n", "main", "m.gguf"))).code == "file_not_found"
    assert (await raised_by(client.listing("not an id"))).code == "invalid_request"


async def test_a_gated_repository_is_listed_but_its_bytes_need_a_grant(
    connect: Callable[..., HubClient], local: LocalHub
) -> None:
    assert (await connect().listing("o/closed")).gated == "manual"
    for token in (None, "hf_other"):
        error = await raised_by(connect(token).resolve("o/closed", "main", "m.gguf"))
        assert (error.code, error.url) == ("gated", f"{local.endpoint}/o/closed")
    resolved = await connect("hf_good").resolve("o/closed", "main", "m.gguf")
    assert resolved.size == len(CONTENT)


async def test_a_token_that_nobody_made_is_told(connect: Callable[..., HubClient]) -> None:
    error = await raised_by(connect("hf_unknown").listing("o/n"))
    assert error.code in ("unauthorized", "repo_not_found")
    assert "HF_TOKEN" in error.message


async def test_the_token_never_reaches_the_cdn(connect: Callable[..., HubClient], local: LocalHub) -> None:
    client = connect("hf_good")
    assert await client.fetch_range("o/closed", "main", "m.gguf", 0, 4) == b"GGUF"
    to_cdn = local.requests.to("cdn")
    assert len(to_cdn) == 1
    assert not any("authorization" in record.headers for record in to_cdn)
    assert all("authorization" in record.headers for record in local.requests.to("hub"))


@pytest.mark.parametrize("effect", [RedirectLoop(), Reply(503), Reply(418)])
async def test_a_strange_hub_gives_a_clean_error(client: HubClient, local: LocalHub, effect: Any) -> None:
    local.faults.add(effect, origin="hub", path="*/resolve/*")
    assert (await raised_by(client.resolve("o/n", "main", "m-Q4_K_M.gguf"))).code == "server_error"


@pytest.mark.parametrize("is_quoted", [False, True])
async def test_a_mirror_without_linked_headers_is_understood(
    client: HubClient, local: LocalHub, is_quoted: bool
) -> None:
    local.faults.add(MirrorHeaders(is_quoted=is_quoted), origin="hub", path="*/resolve/*")
    resolved = await client.resolve("o/n", "main", "m-Q4_K_M.gguf")
    assert (resolved.sha256, resolved.size) == (local.sha256("o/n", "m-Q4_K_M.gguf"), None)
    assert await client.fetch_range("o/n", "main", "m-Q4_K_M.gguf", 4, 900) == CONTENT[4:900]


async def test_the_ranges_of_one_file_are_resolved_once_until_the_address_expires(
    client: HubClient, local: LocalHub
) -> None:
    commit_hash = (await client.listing("o/n")).commit_hash
    local.requests.clear()

    async def read(start: int) -> None:
        data = await client.fetch_range("o/n", commit_hash, "m-Q4_K_M.gguf", start, start + 9)
        assert data == CONTENT[start : start + 9]

    for start in (0, 9, 1000):
        await read(start)
    assert [record.method for record in local.requests.to("hub")] == ["HEAD"]
    local.expire_signatures()
    await read(500)
    assert [record.status for record in local.requests.to("cdn")] == [206, 206, 206, 403, 206]
    assert len(local.requests.to("hub")) == 2
    local.faults.add(Reply(400), origin="cdn", times=1)  # S3's and GCS's answer to an expired token
    await read(600)
    assert len(local.requests.to("hub")) == 3


@pytest.mark.parametrize("is_kept", [False, True])
async def test_a_storage_address_that_does_not_answer_is_resolved_again(
    client: HubClient, local: LocalHub, is_kept: bool
) -> None:
    commit_hash = (await client.listing("o/n")).commit_hash

    async def read() -> bytes:
        return await client.fetch_range("o/n", commit_hash, "m-Q4_K_M.gguf", 0, 9)

    with LocalHub() as dead:
        dead.add_repo("o/n", FILES)
        elsewhere = {"Location": f"{dead.endpoint}/o/n/resolve/main/m-Q4_K_M.gguf"}
        local.faults.add(ChangeHeaders(elsewhere), origin="hub", path="*/resolve/*", times=1)
        if is_kept:
            assert await read() == CONTENT[:9]
            assert len(local.requests.to("cdn")) == 0
    assert await read() == CONTENT[:9]
    assert len(local.requests.to("cdn")) == 1


async def test_a_storage_that_never_answers_is_named(client: HubClient, local: LocalHub) -> None:
    local.faults.add(ChangeHeaders({"Location": "http://127.0.0.1:1/m"}), origin="hub", path="*/resolve/*")
    error = await raised_by(client.fetch_range("o/n", "main", "m-Q4_K_M.gguf", 0, 9))
    assert error.code == "offline"
    assert "its storage at 127.0.0.1, which cannot be reached" in error.message


async def test_a_cut_range_is_fetched_again(client: HubClient, local: LocalHub) -> None:
    local.faults.add(Cut(after_bytes=100), origin="cdn", times=1)
    assert await client.fetch_range("o/n", "main", "m-Q4_K_M.gguf", 0, 4096) == CONTENT[:4096]


async def test_a_hub_that_goes_away_is_offline(client: HubClient, local: LocalHub) -> None:
    await client.listing("o/n")
    local.stop()
    assert (await raised_by(client.listing("o/n"))).code == "offline"
    local.start()
    assert (await client.listing("o/n")).repo_id == "o/n"


async def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with LocalHub(ssl_context=context) as hub:
        hub.add_repo("o/n", FILES)
        settings = Settings(endpoint=hub.endpoint, cache_dir=tmp_path)
        distrusting = HubClient(settings)
        error = await raised_by(distrusting.listing("o/n"))
        assert error.code == "tls"
        assert "SSL_CERT_FILE" in error.message
        await distrusting.aclose()
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        trusting = HubClient(settings)
        assert await trusting.fetch_range("o/n", "main", "m-Q4_K_M.gguf", 0, 4) == b"GGUF"
        await trusting.aclose()
        plain = HubClient(Settings(endpoint=hub.endpoint.replace("https", "http"), cache_dir=tmp_path))
        assert (await raised_by(plain.listing("o/n"))).code in ("offline", "server_error")
        await plain.aclose()


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("ALL_PROXY", "socks5://user:secret@127.0.0.1:9", "proxy"),
        ("ALL_PROXY", "secret://127.0.0.1:9", "proxy"),
        ("HTTP_PROXY", "http://[::1", "proxy"),
        ("SSL_CERT_FILE", "/there/is/no/secret", "tls"),
        ("SSL_CERT_FILE", __file__, "tls"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, code: str
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv(name, value)
    with pytest.raises(ModelDeckError) as caught:
        HubClient(Settings(endpoint="http://127.0.0.1:9", cache_dir=tmp_path))
    assert caught.value.code == code
    assert name in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("endpoint", ["https://xn--a", "https://xn--zzzzzz.com/hf"])
def test_an_endpoint_whose_name_cannot_be_sent_is_refused(tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(InvalidRequestError, match="HF_ENDPOINT"):
        HubClient(Settings(endpoint=endpoint, cache_dir=tmp_path))


async def test_https_to_a_server_that_speaks_http(local: LocalHub, tmp_path: Path) -> None:
    client = HubClient(Settings(endpoint=local.endpoint.replace("http", "https"), cache_dir=tmp_path))
    assert (await raised_by(client.listing("o/n"))).code == "tls"
    await client.aclose()


@pytest.mark.parametrize(
    ("account", "can_read_gated"),
    [
        (LocalAccount("ana"), True),
        (LocalAccount("ana", can_read_gated=True), True),
        (LocalAccount("ana", can_read_gated=False), False),
    ],
)
async def test_whose_a_token_is(
    local: LocalHub, connect: Callable[..., HubClient], account: LocalAccount, can_read_gated: bool
) -> None:
    local.grant("hf_of_ana", account=account)
    found = await connect("hf_of_ana").account()
    assert (found.name, found.can_read_gated) == ("ana", can_read_gated)
    assert "hf_of_ana" not in repr(found)


async def test_a_refused_token_is_called_that_and_without_one_nobody_is_asked(
    local: LocalHub, connect: Callable[..., HubClient]
) -> None:
    before = len(local.requests)
    assert (await connect().account()).name is None
    assert len(local.requests) == before
    error = await raised_by(connect("hf_old").account())
    assert error.code == "unauthorized"
    assert "does not accept the token" in error.message
    assert "hf_old" not in error.message
