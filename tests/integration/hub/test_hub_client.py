"""The client against recorded answers of the Hub, replayed by a real server."""

import hashlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modeldeck._errors import ModelDeckError
from modeldeck._settings import Settings
from modeldeck._types import GGUFFile, SearchQuery
from modeldeck.hub.client import USER_AGENT, HubClient
from modeldeck.hub.errors import error_from_response
from tools.localhub import LocalHub
from tools.localhub.faults import Cut, RawBytes, Reply, ReplyBy, json_reply
from tools.localhub.messages import HTTPRequest

pytestmark = pytest.mark.anyio

DATA = Path(__file__).parents[2] / "data"
COMMIT = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
SHA256 = "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"
INFO = "/api/models/o/n/revision/main"
TREE = f"/api/models/o/n/tree/{COMMIT}"
RESOLVE = "/o/n/resolve/main/m.gguf"


def recorded(name: str) -> Any:
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def info(**changes: Any) -> dict[str, Any]:
    return {"id": "o/n", "sha": COMMIT, "gated": False, "tags": ["gguf", "license:mit"], **changes}


def lfs_entry(path: str, content: bytes) -> dict[str, Any]:
    """A file as ``/tree`` lists it."""
    sha256, size = hashlib.sha256(content).hexdigest(), len(content)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    oid = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()
    lfs = {"oid": sha256, "size": size, "pointerSize": len(pointer)}
    return {"type": "file", "oid": oid, "size": size, "path": path, "lfs": lfs}


def lfs_headers(server: LocalHub, size: int = 10, target: str = "/cdn/m?Signature=s") -> dict[str, str]:
    """The first answer for a large file, as recorded, with a target that exists."""
    return {
        "Location": f"{server.endpoint}{target}",
        "X-Repo-Commit": COMMIT,
        "X-Linked-Size": str(size),
        "X-Linked-Etag": f'"{SHA256}"',
    }


# --- search -----------------------------------------------------------------------------------------------------------


async def test_search_reads_a_recorded_row(server: LocalHub, hub: HubClient) -> None:
    row = recorded("api/list-item.full-true.json")[0]
    row["gguf"] = recorded("api/gguf-object.unsloth--Qwen3.8-27B-GGUF.excerpt.json")["gguf"]
    server.faults.script("/api/models", json_reply([row]))
    page = await hub.search(SearchQuery(text="mellum", sort="modified", limit=5))
    (model,) = page.models
    assert model.repo_id == "JetBrains/Mellum2-12B-A2.5B-Thinking"
    assert (model.downloads, model.likes, model.gated, model.is_private) == (3516, 288, False, False)
    assert (model.license, model.pipeline_tag) == ("apache-2.0", "text-generation")
    assert (model.architecture, model.parameter_count, model.context_length) == ("qwen35", 27320697856, 262144)
    assert model.has_chat_template is True
    assert page.next_cursor is None
    (request,) = server.requests
    assert "search=mellum" in request.target
    assert request.headers["authorization"] == "Bearer hf_secret"
    assert request.headers["user-agent"] == USER_AGENT


async def test_the_index_of_a_projector_is_not_shown_as_the_model(server: LocalHub, hub: HubClient) -> None:
    clip = {"architecture": "clip", "total": 460_000_000, "context_length": 77, "chat_template": "x"}
    server.faults.script("/api/models", json_reply([{"id": "o/n", "likes": 3, "gguf": clip}]))
    (model,) = (await hub.search(SearchQuery())).models
    assert (model.repo_id, model.likes) == ("o/n", 3)
    known = (model.architecture, model.parameter_count, model.context_length, model.has_chat_template)
    assert known == (None, None, None, None)


@pytest.mark.parametrize(
    ("tags", "base_model", "relation", "languages"),
    [
        ([], None, None, ()),
        (["base_model:o/base", "base_model:quantized:o/base", "en", "pt"], "o/base", "quantized", ("en", "pt")),
        (["base_model:finetune:o/base", "gguf", "multilingual"], "o/base", "finetune", ()),
        (["base_model:o/base", "ai", "vl", "zh"], "o/base", None, ("zh",)),
        (["base_model:invented:o/base"], "o/base", None, ()),
        (["base_model:../../etc", "base_model:"], None, None, ()),
        (["base_model:adapter:../../etc", "base_model:merge:o/a", "base_model:merge:o/b"], "o/a", "merge", ()),
    ],
    ids=str,
)
async def test_base_model_and_languages_are_read_from_the_tags(
    server: LocalHub, hub: HubClient, tags: list[str], base_model: str | None, relation: str | None, languages: Any
) -> None:
    server.faults.script("/api/models", json_reply([{"id": "o/n", "tags": tags}]))
    (model,) = (await hub.search(SearchQuery())).models
    assert (model.base_model, model.base_model_relation, model.languages) == (base_model, relation, languages)


async def test_a_row_may_have_nothing_but_its_id(server: LocalHub, hub: HubClient) -> None:
    server.faults.script("/api/models", json_reply([{"id": "o/n"}]))
    (model,) = (await hub.search(SearchQuery())).models
    assert (model.repo_id, model.downloads, model.gated, model.tags, model.has_chat_template) == (
        "o/n",
        None,
        None,
        (),
        None,
    )


async def test_decoration_of_a_wrong_type_is_unknown_rather_than_an_error(server: LocalHub, hub: HubClient) -> None:
    row = {"id": "o/n", "downloads": "many", "likes": -3, "gated": [], "tags": {"a": 1}, "gguf": [1], "lastModified": 5}
    server.faults.script(
        "/api/models", json_reply([row, {"id": "../../etc"}, {"id": "a/b", "likes": 2**70, "gated": "manual"}])
    )
    models = (await hub.search(SearchQuery())).models
    assert [model.repo_id for model in models] == ["o/n", "a/b"]
    assert (models[0].downloads, models[0].likes, models[0].gated, models[0].tags) == (None, None, None, ())
    assert (models[1].likes, models[1].gated) == (None, "manual")


async def test_the_next_page_is_asked_for_word_by_word(server: LocalHub, hub: HubClient) -> None:
    link = f"{server.endpoint}/api/models?filter=gguf&cursor=eyJ%3D%3D&expand[]=gguf"
    server.faults.script(
        "/api/models",
        json_reply([{"id": "o/one"}], headers={"Link": f'<{link}>; rel="next"'}),
        json_reply([{"id": "o/two"}]),
    )
    first = await hub.search(SearchQuery())
    assert first.next_cursor == link
    second = await hub.search(SearchQuery(), cursor=first.next_cursor)
    assert [model.repo_id for model in second.models] == ["o/two"]
    assert second.next_cursor is None
    assert f"{server.endpoint}{server.requests[1].target}" == link


async def test_a_next_page_at_another_hub_is_asked_for_at_the_endpoint(
    server: LocalHub, servers: Callable[[], LocalHub], hub: HubClient
) -> None:
    other = servers()
    link = f"{other.endpoint}/api/models?filter=gguf&cursor=a%3D&expand[]=gguf"
    server.faults.script("/api/models", json_reply([], headers={"Link": f'<{link}>; rel="next"'}))
    page = await hub.search(SearchQuery())
    assert page.next_cursor == link.replace(other.endpoint, server.endpoint)
    await hub.search(SearchQuery(), cursor=page.next_cursor)
    assert server.requests[1].query == "filter=gguf&cursor=a%3D&expand[]=gguf"
    with pytest.raises(ModelDeckError) as caught:
        await hub.search(SearchQuery(), cursor=link)
    assert caught.value.code == "invalid_request"
    assert len(other.requests) == 0


async def test_a_next_page_of_something_else_is_none(server: LocalHub, hub: HubClient) -> None:
    link = f"{server.endpoint}/api/whoami"
    server.faults.script("/api/models", json_reply([], headers={"Link": f'<{link}>; rel="next"'}))
    assert (await hub.search(SearchQuery())).next_cursor is None
    with pytest.raises(ModelDeckError) as caught:
        await hub.search(SearchQuery(), cursor=link)
    assert caught.value.code == "invalid_request"


# --- listing ----------------------------------------------------------------------------------------------------------


async def test_listing_reads_recorded_answers(server: LocalHub, hub: HubClient) -> None:
    body = recorded("api/model-info.ggml-org--gemma-3-12b-it-GGUF.json")
    tree = recorded("api/tree.google-bert--bert-base-uncased@dd4bc8b2.json")
    tree += recorded("api/tree.unsloth--Qwen3-8B-GGUF.excerpt.json")
    tree += recorded("api/tree.openai-community--gpt2.excerpt.json")[:1]
    name = "ggml-org/gemma-3-12b-it-GGUF"
    server.faults.script(f"/api/models/{name}/revision/main", json_reply(body))
    server.faults.script(f"/api/models/{name}/tree/{body['sha']}", json_reply(tree))
    listing = await hub.listing(name)
    assert (listing.repo_id, listing.revision, listing.commit_hash) == (name, "main", body["sha"])
    assert (listing.gated, listing.license) == (False, "gemma")
    assert [file.filename for file in listing.files] == [
        ".gitattributes",
        "config.json",
        "pytorch_model.bin",
        "tf_model.h5",
        "vocab.txt",
        "Qwen3-8B-BF16.gguf",
    ]
    assert listing.files[1] == GGUFFile(
        filename="config.json", size=313, sha256=None, oid="fca794a5f07ff8f963fe8b61e3694b0fb7f955df"
    )
    assert listing.files[5].sha256 == "5e416a2020fe63e76ea13c8979be35fc6070aaf3578f7876400c55c2f5c3eb30"
    assert listing.files[5].size == 16388044384
    assert all("recursive=true" in request.target for request in server.requests.to_path(TREE))


async def test_a_legacy_id_becomes_the_canonical_one(server: LocalHub, hub: HubClient) -> None:
    moved, found = recorded("http/legacy-id-307-then-model-info.json")
    canonical = f"{moved['headers']['Location']}/revision/main"
    server.faults.script(
        "/api/models/bert-base-uncased/revision/main",
        Reply(status=307, headers={"Location": canonical}, body=moved["body"].encode()),
    )
    server.faults.script(canonical, json_reply(found["body"]))
    server.faults.script(f"/api/models/google-bert/bert-base-uncased/tree/{found['body']['sha']}", json_reply([]))
    listing = await hub.listing("bert-base-uncased")
    assert listing.repo_id == "google-bert/bert-base-uncased"
    assert listing.license == "apache-2.0"
    assert [request.headers.get("authorization") for request in server.requests] == ["Bearer hf_secret"] * 3


async def test_all_pages_of_a_long_listing_are_read(server: LocalHub, hub: HubClient) -> None:
    def page(request: HTTPRequest) -> Reply:
        number = int(request.target.partition("cursor=")[2] or "0")
        entries = [lfs_entry(f"part/{number}-{index}.gguf", b"%d %d" % (number, index)) for index in range(100)]
        link = {"Link": f'<{TREE}?recursive=true&cursor={number + 1}>; rel="next"'} if number < 4 else {}
        return json_reply(entries, headers=link)

    server.faults.script(INFO, json_reply(info()))
    server.faults.script(TREE, ReplyBy(page))
    listing = await hub.listing("o/n")
    assert len(listing.files) == 500
    assert len(server.requests.to_path(TREE)) == 5


async def test_the_revision_is_one_quoted_part_of_the_address(server: LocalHub, hub: HubClient) -> None:
    server.faults.script("/api/models/o/n/revision/refs/pr/1", json_reply(info()))
    server.faults.script(TREE, json_reply([]))
    assert (await hub.listing("o/n", "refs/pr/1")).commit_hash == COMMIT


async def test_a_gated_repository_is_listed(server: LocalHub, hub: HubClient) -> None:
    server.faults.script(INFO, json_reply(info(gated="manual", tags=None, cardData={"license": "llama3"})))
    server.faults.script(TREE, json_reply([lfs_entry("m.gguf", b"x")]))
    listing = await hub.listing("o/n")
    assert listing.gated == "manual"
    assert listing.license == "llama3"
    assert len(listing.files) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"size": 133},
        {"size": None},
        {"oid": "0" * 40},
        {"oid": "x"},
        {"oid": SHA256},
        {"oid": 5},
        {"oid": None},
        {"pointerSize": 1},
        {"pointerSize": -5},
        {"pointerSize": "133"},
    ],
    ids=str,
)
async def test_git_s_own_facts_about_a_large_file_decide_nothing(
    server: LocalHub, hub: HubClient, change: dict[str, Any]
) -> None:
    entry = lfs_entry("m.gguf", b"content")
    (entry["lfs"] if "pointerSize" in change else entry).update(change)
    server.faults.script(INFO, json_reply(info()))
    server.faults.script(TREE, json_reply([entry]))
    (file,) = (await hub.listing("o/n")).files
    assert (file.filename, file.size, file.sha256) == ("m.gguf", 7, hashlib.sha256(b"content").hexdigest())


async def test_a_git_hash_of_another_form_is_unknown(server: LocalHub, hub: HubClient) -> None:
    server.faults.script(INFO, json_reply(info()))
    server.faults.script(TREE, json_reply([{"type": "file", "path": "m.gguf", "size": 7, "oid": SHA256}]))
    assert (await hub.listing("o/n")).files == (GGUFFile(filename="m.gguf", size=7),)


async def test_a_path_that_leaves_the_cache_is_not_offered(server: LocalHub, hub: HubClient) -> None:
    names = ["../../evil.gguf", "/etc/x.gguf", "a\\b.gguf", "C:x.gguf", "ok.gguf", "a//b.gguf"]
    server.faults.script(INFO, json_reply(info()))
    server.faults.script(TREE, json_reply([lfs_entry(name, b"x") for name in names]))
    assert [file.filename for file in (await hub.listing("o/n")).files] == ["ok.gguf"]


# --- resolve ----------------------------------------------------------------------------------------------------------


async def test_a_large_file_is_resolved_from_the_first_answer(
    server: LocalHub, servers: Callable[[], LocalHub], hub: HubClient
) -> None:
    cdn = servers()
    headers = {
        **recorded("http/resolve-lfs-302.json")[0]["headers"],
        "location": f"{cdn.endpoint}/x/y?Expires=1&Signature=a~b%2F",
    }
    server.faults.script(RESOLVE, Reply(status=302, headers=headers))
    resolved = await hub.resolve("o/n", "main", "m.gguf")
    assert (resolved.repo_id, resolved.filename, resolved.commit_hash) == ("o/n", "m.gguf", COMMIT)
    assert (resolved.size, resolved.sha256, resolved.etag) == (548105171, SHA256, SHA256)
    assert resolved.url == f"{cdn.endpoint}/x/y?Expires=1&Signature=a~b%2F"
    assert resolved.is_signed_elsewhere
    assert "Signature" not in repr(resolved)
    assert len(cdn.requests) == 0
    (request,) = server.requests
    assert request.method == "HEAD"
    assert request.headers["accept-encoding"] == "identity"


async def test_a_git_file_is_followed_on_the_same_origin(server: LocalHub, hub: HubClient) -> None:
    first, second, _ = recorded("http/resolve-git-307.json")
    server.faults.script("/o/n/resolve/main/config.json", Reply(status=307, headers=first["headers"]))
    server.faults.script(first["headers"]["location"].partition("?")[0], Reply(headers=second["headers"]))
    resolved = await hub.resolve("o/n", "main", "config.json")
    assert (resolved.commit_hash, resolved.size) == (COMMIT, 665)
    assert (resolved.sha256, resolved.etag) == (None, "10c66461e4c109db5a2196bff4bb59be30396ed8")
    assert resolved.url == f"{server.endpoint}{first['headers']['location']}"
    assert not resolved.is_signed_elsewhere


async def test_a_renamed_repository_is_followed(server: LocalHub, hub: HubClient) -> None:
    server.faults.script("/old/resolve/main/m.gguf", Reply(status=307, headers={"Location": RESOLVE}))
    server.faults.script(RESOLVE, Reply(status=302, headers=lfs_headers(server)))
    resolved = await hub.resolve("old", "main", "m.gguf")
    assert resolved.sha256 == SHA256
    assert resolved.url == f"{server.endpoint}/cdn/m?Signature=s"
    assert server.requests.to_path("/cdn/m") == ()


@pytest.mark.parametrize(
    ("headers", "size", "sha256"),
    [
        ({"ETag": SHA256, "X-Repo-Commit": COMMIT, "Content-Length": "12"}, 12, SHA256),
        ({"ETag": f'W/"{SHA256.upper()}"', "X-Repo-Commit": COMMIT, "Content-Length": "12"}, 12, SHA256),
        ({"X-Linked-Etag": SHA256, "X-Linked-Size": "9", "X-Repo-Commit": COMMIT, "Content-Length": "12"}, 9, SHA256),
        ({"X-Repo-Commit": COMMIT, "Transfer-Encoding": "chunked"}, None, None),
        ({"X-Repo-Commit": COMMIT, "Content-Length": "0"}, None, None),
        ({"X-Repo-Commit": COMMIT, "Content-Length": "12", "Content-Encoding": "gzip"}, None, None),
        ({"ETag": f'"{SHA256}"', "X-Xet-Hash": SHA256, "X-Repo-Commit": COMMIT, "Content-Length": "12"}, 12, None),
    ],
)
async def test_mirrors_answer_200_with_what_they_have(
    server: LocalHub, hub: HubClient, headers: dict[str, str], size: int | None, sha256: str | None
) -> None:
    server.faults.script(RESOLVE, Reply(headers=headers))
    resolved = await hub.resolve("o/n", "main", "m.gguf")
    assert (resolved.size, resolved.sha256, resolved.commit_hash) == (size, sha256, COMMIT)
    assert resolved.url == f"{server.endpoint}{RESOLVE}"


async def test_a_mirror_may_answer_200_and_name_the_storage(
    server: LocalHub, servers: Callable[[], LocalHub], hub: HubClient
) -> None:
    cdn = servers()
    headers = {**lfs_headers(server, size=12), "Location": f"{cdn.endpoint}/blob"}
    server.faults.script(RESOLVE, Reply(headers=headers))
    resolved = await hub.resolve("o/n", "main", "m.gguf")
    assert (resolved.url, resolved.is_signed_elsewhere, resolved.size) == (f"{cdn.endpoint}/blob", True, 12)


async def test_a_mirror_without_the_commit_is_asked_for_it(server: LocalHub, hub: HubClient) -> None:
    server.faults.script(RESOLVE, Reply(headers={"Content-Length": "12", "Content-Type": "application/octet-stream"}))
    server.faults.script(INFO, json_reply(info()))
    assert (await hub.resolve("o/n", "main", "m.gguf")).commit_hash == COMMIT
    server.faults.script(f"/o/n/resolve/{COMMIT}/m.gguf", Reply(headers={"Content-Length": "12"}))
    assert (await hub.resolve("o/n", COMMIT, "m.gguf")).commit_hash == COMMIT
    assert len(server.requests.to_path(INFO)) == 1


async def test_a_file_of_another_commit_is_refused(server: LocalHub, hub: HubClient) -> None:
    server.faults.script(f"/o/n/resolve/{'a' * 40}/m.gguf", Reply(status=302, headers=lfs_headers(server)))
    with pytest.raises(ModelDeckError, match="another commit") as caught:
        await hub.resolve("o/n", "a" * 40, "m.gguf")
    assert caught.value.code == "server_error"


async def test_a_server_without_head_is_asked_with_get(server: LocalHub, hub: HubClient) -> None:
    server.faults.script(
        RESOLVE,
        ReplyBy(
            lambda request: (
                Reply(status=405)
                if request.method == "HEAD"
                else Reply(headers={"X-Repo-Commit": COMMIT, "ETag": SHA256}, body=b"x" * 12)
            )
        ),
    )
    resolved = await hub.resolve("o/n", "main", "m.gguf")
    assert (resolved.size, resolved.sha256) == (12, SHA256)


async def test_redirects_without_end_end(server: LocalHub, hub: HubClient) -> None:
    server.faults.script(RESOLVE, Reply(status=307, headers={"Location": RESOLVE}))
    with pytest.raises(ModelDeckError) as caught:
        await hub.resolve("o/n", "main", "m.gguf")
    assert caught.value.code == "server_error"
    assert len(server.requests) == 6


@pytest.mark.parametrize("location", ["file:///etc/passwd", "http://h:99999999/", "javascript:x"])
async def test_an_address_that_is_none_is_refused(server: LocalHub, hub: HubClient, location: str) -> None:
    server.faults.script(RESOLVE, Reply(status=302, headers={**lfs_headers(server), "Location": location}))
    with pytest.raises(ModelDeckError, match="that cannot be used") as caught:
        await hub.resolve("o/n", "main", "m.gguf")
    assert caught.value.code == "server_error"


@pytest.mark.parametrize("size", ["-1", "1e9", "12x", "9" * 40, "0x10"])
async def test_a_size_that_is_not_a_number_is_refused(server: LocalHub, hub: HubClient, size: str) -> None:
    server.faults.script(RESOLVE, Reply(status=302, headers={**lfs_headers(server), "X-Linked-Size": size}))
    with pytest.raises(ModelDeckError, match="size that is not a number"):
        await hub.resolve("o/n", "main", "m.gguf")


REFUSALS = [item for item in recorded("http/errors.json") if item.get("status", 200) >= 400]


@pytest.mark.parametrize("item", REFUSALS, ids=lambda item: item["case"])
async def test_every_recorded_refusal_is_raised_at_once(server: LocalHub, hub: HubClient, item: Any) -> None:
    headers = item.get("headers", {})
    server.faults.script(RESOLVE, Reply(status=item["status"], headers=headers))
    expected = error_from_response(
        item["status"],
        headers,
        repo_id="o/n",
        revision="main",
        filename="m.gguf",
        endpoint=server.endpoint,
        is_hub=True,
        has_token=True,
    )
    with pytest.raises(type(expected)) as caught:
        await hub.resolve("o/n", "main", "m.gguf")
    assert caught.value.to_info() == expected.to_info()
    assert len(server.requests) == 1


async def test_a_mirror_that_sends_on_is_not_followed_to_anywhere(server: LocalHub, hub: HubClient) -> None:
    server.faults.script(
        INFO, Reply(status=308, headers={"Location": "https://elsewhere.example/x", "Server": "Caddy"})
    )
    with pytest.raises(ModelDeckError, match=r"elsewhere\.example") as caught:
        await hub.listing("o/n")
    assert caught.value.code == "server_error"


async def test_the_licence_page_of_a_gated_file_is_told(server: LocalHub, hub: HubClient) -> None:
    server.faults.script(RESOLVE, Reply(status=403, headers={"X-Error-Code": "GatedRepo"}))
    with pytest.raises(ModelDeckError) as caught:
        await hub.resolve("o/n", "main", "m.gguf")
    assert caught.value.code == "gated"
    assert caught.value.url == f"{server.endpoint}/o/n"


# --- ranges -----------------------------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 4


def ranged(request: HTTPRequest) -> Reply:
    start, stop = (int(number) for number in request.headers["range"].removeprefix("bytes=").split("-"))
    body = CONTENT[start : stop + 1]
    headers = {"Content-Range": f"bytes {start}-{start + len(body) - 1}/{len(CONTENT)}"}
    return Reply(status=206, headers=headers, body=body)


@pytest.fixture
def storage(server: LocalHub, servers: Callable[[], LocalHub]) -> LocalHub:
    """A second origin with the bytes that the first one sends to."""
    storage = servers()
    headers = {**lfs_headers(server, size=len(CONTENT)), "Location": f"{storage.endpoint}/blob"}
    server.faults.script(RESOLVE, Reply(status=302, headers=headers))
    return storage


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 1024), (100, 612), (1000, 5000), (1023, 1024)])
async def test_ranges_are_exact(storage: LocalHub, hub: HubClient, start: int, stop: int) -> None:
    storage.faults.script("/blob", ReplyBy(ranged))
    assert await hub.fetch_range("o/n", "main", "m.gguf", start, stop) == CONTENT[start:stop]
    (request,) = storage.requests
    assert request.headers["accept-encoding"] == "identity"
    assert "authorization" not in request.headers
    assert request.headers["range"] == f"bytes={start}-{stop - 1}"


@pytest.mark.parametrize(("start", "stop"), [(-1, 4), (4, 4), (5, 4), (0, 65 * 2**20), (1024, 1025)])
async def test_ranges_that_cannot_be_are_refused(storage: LocalHub, hub: HubClient, start: int, stop: int) -> None:
    with pytest.raises(ModelDeckError) as caught:
        await hub.fetch_range("o/n", "main", "m.gguf", start, stop)
    assert caught.value.code == "invalid_request"
    assert len(storage.requests) == 0


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Reply(status=200, body=CONTENT), "server_error"),
        (Reply(status=200, headers={"Content-Range": "bytes 4-7/1024"}, body=CONTENT), "server_error"),
        (Reply(status=206, body=CONTENT[4:8]), "server_error"),
        (Reply(status=206, headers={"Content-Range": "bytes 0-3/1024"}, body=CONTENT[:4]), "server_error"),
        (Reply(status=206, headers={"Content-Range": "bytes 4-6/1024"}, body=CONTENT[4:7]), "server_error"),
        (Reply(status=206, headers={"Content-Range": "bytes 4-8/1024"}, body=CONTENT[4:9]), "server_error"),
        (Reply(status=206, headers={"Content-Range": "bytes 4-7/2048"}, body=CONTENT[4:8]), "content_changed"),
        (Reply(status=206, headers={"Content-Range": "items 4-7/1024"}, body=CONTENT[4:8]), "server_error"),
        (Reply(status=206, headers={"Content-Range": "bytes 4-7/1024"}, body=CONTENT[4:7]), "server_error"),
        (Reply(status=206, headers={"Content-Range": "bytes 4-7/1024"}, body=CONTENT), "server_error"),
        (
            Reply(status=206, headers={"Content-Range": "bytes 4-7/1024", "Content-Length": "4"}, body=CONTENT[4:7]),
            "offline",
        ),
        (
            Reply(status=206, headers={"Content-Range": "bytes 4-7/1024", "Content-Encoding": "gzip"}, body=b"abcd"),
            "server_error",
        ),
        (Reply(status=416, headers={"Content-Range": "bytes */1024"}), "server_error"),
        (Reply(status=403), "server_error"),
        (Reply(status=302, headers={"Location": "/blob"}), "server_error"),
        (RawBytes(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "server_error"),
        (Cut(-1), "offline"),
    ],
)
async def test_anything_but_the_very_bytes_is_refused(
    storage: LocalHub, hub: HubClient, reply: Reply, code: str
) -> None:
    storage.faults.script("/blob", reply)
    with pytest.raises(ModelDeckError) as caught:
        await hub.fetch_range("o/n", "main", "m.gguf", 4, 8)
    assert caught.value.code == code


async def test_an_unknown_total_is_accepted_and_redirects_of_the_storage_are_followed(
    storage: LocalHub, servers: Callable[[], LocalHub], hub: HubClient
) -> None:
    third = servers()
    storage.faults.script("/blob", Reply(status=302, headers={"Location": f"{third.endpoint}/blob"}))
    third.faults.script("/blob", Reply(status=206, headers={"Content-Range": "bytes 4-7/*"}, body=CONTENT[4:8]))
    assert await hub.fetch_range("o/n", "main", "m.gguf", 4, 8) == CONTENT[4:8]
    assert "authorization" not in third.requests[0].headers


# --- what passes, and what does not -----------------------------------------------------------------------------------


async def test_a_burst_of_5xx_passes(server: LocalHub, hub: HubClient) -> None:
    server.faults.script("/api/models", Reply(status=503), Reply(status=500), json_reply([{"id": "o/n"}]))
    assert len((await hub.search(SearchQuery())).models) == 1
    assert len(server.requests) == 3


async def test_endless_5xx_end(server: LocalHub, hub: HubClient) -> None:
    server.faults.script("/api/models", Reply(status=502))
    with pytest.raises(ModelDeckError) as caught:
        await hub.search(SearchQuery())
    assert (caught.value.code, caught.value.status_code) == ("server_error", 502)
    assert len(server.requests) == 3


async def test_a_short_retry_after_is_waited_for(server: LocalHub, hub: HubClient) -> None:
    server.faults.script("/api/models", Reply(status=429, headers={"Retry-After": "0"}), json_reply([]))
    await hub.search(SearchQuery())
    assert len(server.requests) == 2


@pytest.mark.parametrize("headers", [{"Retry-After": "120"}, {"RateLimit": '"api";r=0;t=120'}])
async def test_a_long_rate_limit_is_told_at_once(server: LocalHub, hub: HubClient, headers: dict[str, str]) -> None:
    server.faults.script("/api/models", Reply(status=429, headers=headers))
    with pytest.raises(ModelDeckError) as caught:
        await hub.search(SearchQuery())
    assert (caught.value.code, caught.value.retry_after_seconds) == ("rate_limited", 120.0)
    assert len(server.requests) == 1


async def test_a_rate_limit_is_respected_before_it_hits(server: LocalHub, hub: HubClient) -> None:
    server.faults.script("/api/models", json_reply([], headers={"RateLimit": '"api";r=0;t=200'}))
    server.faults.script(RESOLVE, Reply(status=302, headers=lfs_headers(server)))
    await hub.search(SearchQuery())
    with pytest.raises(ModelDeckError) as caught:
        await hub.search(SearchQuery())
    assert caught.value.code == "rate_limited"
    assert 190 < caught.value.retry_after_seconds <= 200
    await hub.resolve("o/n", "main", "m.gguf")
    assert len(server.requests) == 2


async def test_nobody_there_is_offline(tmp_path: Path, hub: HubClient) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = HubClient(Settings(endpoint=f"http://127.0.0.1:{unused.getsockname()[1]}", cache_dir=tmp_path))
        with pytest.raises(ModelDeckError, match="cannot be reached") as caught:
            await client.search(SearchQuery())
        assert caught.value.code == "offline"
        await client.aclose()


async def test_a_name_that_nobody_knows_is_offline(tmp_path: Path, hub: HubClient) -> None:
    client = HubClient(Settings(endpoint="http://no-such-host.invalid", cache_dir=tmp_path))
    with pytest.raises(ModelDeckError) as caught:
        await client.search(SearchQuery())
    assert caught.value.code == "offline"
    await client.aclose()


async def test_offline_mode_asks_nobody(server: LocalHub, tmp_path: Path) -> None:
    client = HubClient(Settings(endpoint=server.endpoint, cache_dir=tmp_path, is_offline=True))
    for call in (
        client.search(SearchQuery()),
        client.listing("o/n"),
        client.resolve("o/n", "main", "m.gguf"),
        client.fetch_range("o/n", "main", "m.gguf", 0, 4),
    ):
        with pytest.raises(ModelDeckError, match="HF_HUB_OFFLINE") as caught:
            await call
        assert caught.value.code == "offline"
    assert len(server.requests) == 0
    await client.aclose()


async def test_a_proxy_of_the_environment_is_used(
    server: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.endpoint)
    assert "NO_PROXY" not in os.environ
    server.faults.script("http://hub.invalid/api/models", json_reply([{"id": "o/n"}]))
    client = HubClient(Settings(endpoint="http://hub.invalid", cache_dir=tmp_path))
    assert len((await client.search(SearchQuery())).models) == 1
    await client.aclose()


async def test_a_proxy_that_wants_a_login_is_told(
    server: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.endpoint)
    monkeypatch.setenv("HTTPS_PROXY", server.endpoint)
    server.faults.script("http://hub.invalid/api/models", Reply(status=407))
    server.faults.script("hub.invalid:443", Reply(status=407))
    for scheme in ("http", "https"):
        client = HubClient(Settings(endpoint=f"{scheme}://hub.invalid", cache_dir=tmp_path))
        with pytest.raises(ModelDeckError, match="HTTPS_PROXY") as caught:
            await client.search(SearchQuery())
        assert (caught.value.code, caught.value.status_code) == ("proxy", 407)
        await client.aclose()
    assert [request.method for request in server.requests] == ["GET", "CONNECT"]


# --- the token --------------------------------------------------------------------------------------------------------


async def test_the_token_stays_at_home(server: LocalHub, servers: Callable[[], LocalHub], hub: HubClient) -> None:
    other = servers()
    other.faults.script("/api/models", json_reply([]))
    server.faults.script("/api/models", Reply(status=307, headers={"Location": f"{other.endpoint}/api/models"}))
    with pytest.raises(ModelDeckError) as caught:
        await hub.search(SearchQuery())
    assert caught.value.code == "server_error"
    assert other.endpoint.removeprefix("http://") in caught.value.message
    assert len(other.requests) == 0


async def test_cookies_are_not_kept(server: LocalHub, hub: HubClient) -> None:
    server.faults.script("/api/models", json_reply([], headers={"Set-Cookie": "spy=1; Path=/"}))
    await hub.search(SearchQuery())
    await hub.search(SearchQuery())
    assert "cookie" not in server.requests[1].headers
