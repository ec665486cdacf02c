"""Faults of servers, mirrors and networks that have been seen: they end with the exact file, or with a clear error."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import pytest

from modeldeck._errors import InvalidRequestError
from modeldeck._types import DownloadState, EngineLimits, GGUFFile
from modeldeck.engine.patience import Patience
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub, faults
from tools.localhub.messages import HTTPRequest

if TYPE_CHECKING:
    from conftest import Playground, Until

pytestmark = pytest.mark.anyio

SIZE = 24 << 20
RESOLVE = "/*/resolve/*"
DEAD = "http://127.0.0.1:1/model"
"""Nothing listens there."""


def cdn(effect: Any, **how: Any) -> dict[str, Any]:
    return {"effect": effect, "origin": "cdn", **how}


def hub(effect: Any, **how: Any) -> dict[str, Any]:
    return {"effect": effect, "origin": "hub", "path": RESOLVE, **how}


HASTY = Patience(connect_seconds=5.0, silence_seconds=0.3, drip_seconds=0.6, drip_bytes=1000)
"""For what is silent until the connection is given up."""

DRIP_WATCHING = Patience(connect_seconds=5.0, silence_seconds=5.0, drip_seconds=0.6, drip_bytes=1000)
"""For what goes on, but too slowly. Its head may come late on a busy machine."""
PATIENCE = {
    **dict.fromkeys(("stall in the middle", "stall before the answer", "silence", "silence after the head"), HASTY),
    **dict.fromkeys(("slow drip", "bytes without end, one at a time"), DRIP_WATCHING),
}


def patience_for(name: str) -> dict[str, Patience]:
    return {"patience": PATIENCE[name]} if name in PATIENCE else {}


SURVIVED: dict[str, list[dict[str, Any]]] = {
    "cut with progress, always": [cdn(faults.Cut(after_bytes=1_000_000))],
    "cut without progress": [cdn(faults.Cut(after_bytes=0), times=3)],
    "cut before the answer": [cdn(faults.Cut(after_bytes=-1), times=3)],
    "reset in the middle": [cdn(faults.Cut(after_bytes=500_000, is_reset=True), times=4)],
    "hub cut before the answer": [hub(faults.Cut(after_bytes=-1), times=2)],
    "stall in the middle": [cdn(faults.Stall(after_bytes=1_000_000), times=2)],
    "stall before the answer": [cdn(faults.Stall(after_bytes=-1), times=2)],
    "slow drip": [cdn(faults.Throttle(bytes_per_second=100), times=1)],
    "200 for 206": [cdn(faults.IgnoreRange())],
    "200 for 206, chunked without length": [cdn(faults.IgnoreRange(is_chunked=True))],
    "200 with the range's Content-Range and the whole body": [cdn(faults.IgnoreRange(has_content_range=True))],
    "200 for 206, once, later": [cdn(faults.IgnoreRange(), times=1, skip=2)],
    "200 for 206, cut": [cdn(faults.IgnoreRange()), cdn(faults.Cut(after_bytes=5_000_000), times=2)],
    "200 with an honest Content-Range": [cdn(faults.ChangeStatus(200))],
    "206 elsewhere": [cdn(faults.MoveRange(start=100, stop=100))],
    "206 elsewhere, once": [cdn(faults.MoveRange(start=100, stop=100), times=1)],
    "206 elsewhere that lies, once": [cdn(faults.MoveRange(start=100, stop=100, is_honest=False), times=1)],
    "206 shorter": [cdn(faults.MoveRange(stop=-100_000))],
    "206 longer": [cdn(faults.MoveRange(stop=100_000))],
    "206 longer that lies": [cdn(faults.MoveRange(stop=100_000, is_honest=False), times=2)],
    "206 without bytes, twice": [cdn(faults.EmptyRange(), times=2)],
    "206 without bytes, always": [cdn(faults.EmptyRange())],
    "206 with another total, once": [cdn(faults.WrongTotal(by=1), times=1)],
    "206 without Content-Range": [cdn(faults.ChangeHeaders({"Content-Range": None}))],
    "206 with a Content-Range that is none": [cdn(faults.ChangeHeaders({"Content-Range": "bytes x-y/z"}))],
    "206 chunked": [cdn(faults.Chunked())],
    "416 once": [cdn(faults.Reply(416, {"Content-Range": f"bytes */{SIZE}"}), times=1)],
    "longer body than promised": [cdn(faults.Resize(by=1000, is_promised=True), times=2)],
    "shorter body than promised": [cdn(faults.Resize(by=-1000, is_promised=True), times=2)],
    "403 once": [cdn(faults.Reply(403), times=1)],
    "more than four connections are refused": [cdn(faults.LimitConcurrency(4)), cdn(faults.Throttle(12e6))],
    "more than two connections get 429": [cdn(faults.LimitConcurrency(2, status=429)), cdn(faults.Throttle(20e6))],
    "more than one connection get 503": [cdn(faults.LimitConcurrency(1, status=503)), cdn(faults.Throttle(40e6))],
    "429 with Retry-After": [cdn(faults.Reply(429, {"Retry-After": "1"}), times=1)],
    "429 of the hub with RateLimit alone": [hub(faults.Reply(429, {"RateLimit": '"resolvers";r=0;t=1'}), times=1)],
    "a burst of 503": [cdn(faults.Reply(503), times=3)],
    "a burst of 500 at the hub": [hub(faults.Reply(500), times=2)],
    "gzip if asked for": [cdn(faults.Gzip())],
    "packed once all the same": [cdn(faults.Reply(200, {"Content-Encoding": "gzip"}, gzip.compress(b"x")), times=1)],
    **{
        f"a Content-Encoding of {value!r}": [cdn(faults.ChangeHeaders({"Content-Encoding": value}))]
        for value in ("aws-chunked", "", "binary", "UTF-8", "Identity")
    },
    "two storage addresses that refuse the connection": [hub(faults.ChangeHeaders({"Location": DEAD}), times=2)],
    "a mirror's headers": [hub(faults.MirrorHeaders())],
    "a mirror's quoted headers": [hub(faults.MirrorHeaders(is_quoted=True))],
    "a larger size from the hub than it listed": [hub(faults.WrongLinkedSize(by=10))],
    "a smaller size from the hub than it listed": [hub(faults.WrongLinkedSize(by=-10))],
    "no size from the hub": [hub(faults.ChangeHeaders({"X-Linked-Size": None}))],
    "no headers from the hub": [
        hub(faults.ChangeHeaders({"X-Linked-Size": None, "X-Linked-Etag": None, "ETag": None}))
    ],
    "no commit from the hub": [hub(faults.ChangeHeaders({"X-Repo-Commit": None}))],
    "a long way to the first byte": [cdn(faults.Latency(0.3))],
    "a web page once": [cdn(faults.Reply(200, {"Content-Type": "text/html"}, b"<html>"), times=1)],
    "another etag at each answer": [cdn(faults.ChangeHeaders({"ETag": None}), times=3)],
}


@pytest.mark.parametrize("name", SURVIVED)
async def test_the_file_is_exact_all_the_same(playground: Playground, name: str) -> None:
    added = [playground.hub.faults.add(**fault) for fault in SURVIVED[name]]
    with anyio.fail_after(PATIENCE_SECONDS):
        done = await playground.download(**patience_for(name))
    playground.assert_exact(done)
    assert all(playground.hub.faults.fired(fault) > 0 for fault in added) or name == "gzip if asked for"


def chunked_and_short(length: int) -> faults.RawBytes:
    """Return an answer with a part of the file, whose length would be ``length`` if that counted beside the chunks."""
    head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n"
    return faults.RawBytes(head.encode() + b"%x\r\n" % 100_000 + bytes(100_000) + b"\r\n0\r\n\r\n")


REFUSED: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "endless 503": ("server_error", [cdn(faults.Reply(503))]),
    "endless 503 at the hub": ("server_error", [hub(faults.Reply(503))]),
    "endless 403 at the storage": ("server_error", [cdn(faults.Reply(403))]),
    "endless 404 at the storage": ("server_error", [cdn(faults.Reply(404))]),
    "endless 416": ("content_changed", [cdn(faults.Reply(416, {"Content-Range": "bytes */100"}))]),
    "endless cuts without progress": ("offline", [cdn(faults.Cut(after_bytes=0))]),
    "one byte for each connection": ("offline", [cdn(faults.Cut(after_bytes=1))]),
    "silence": ("timeout", [cdn(faults.Stall(after_bytes=-1))]),
    "silence after the head": ("timeout", [cdn(faults.Stall(after_bytes=0))]),
    "a rate limit of hours": ("rate_limited", [cdn(faults.Reply(429, {"Retry-After": "7200"}))]),
    "redirects in circles": ("server_error", [cdn(faults.RedirectLoop())]),
    "redirects in circles at the hub": ("server_error", [hub(faults.RedirectLoop())]),
    "a redirect to nowhere": ("offline", [cdn(faults.Reply(302, {"Location": "http://[nonsense"}))]),
    "a web page for the bytes": ("server_error", [cdn(faults.Reply(200, {"Content-Type": "text/html"}, b"<html>"))]),
    "a web page for the resolve": ("server_error", [hub(faults.Reply(200, {"Content-Type": "text/html"}, b"<html>"))]),
    "other content of another size": ("content_changed", [cdn(faults.Content(b"GGUF" + bytes(1000)))]),
    "another size in every answer": ("content_changed", [cdn(faults.WrongTotal(by=-1))]),
    "other content of the same size": ("integrity", [cdn(faults.Content(b"GGUF" + bytes(SIZE - 4)))]),
    "a bit that is always wrong": ("integrity", [cdn(faults.FlipBit(offset=20_000_000))]),
    "ranges that always lie": ("integrity", [cdn(faults.MoveRange(start=64, stop=64, is_honest=False))]),
    "bytes without end, one at a time": ("stalled", [cdn(faults.Throttle(bytes_per_second=50))]),
    "a storage that refuses every connection": ("offline", [hub(faults.ChangeHeaders({"Location": DEAD}))]),
    "a chunked body that ends early": ("server_error", [cdn(chunked_and_short(SIZE))]),
    "a chunked body that ends early beside another length": ("server_error", [cdn(chunked_and_short(100_001))]),
    "packed whatever is asked": ("server_error", [cdn(faults.ChangeHeaders({"Content-Encoding": "gzip"}))]),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_the_error_is_clean(playground: Playground, name: str) -> None:
    code, script = REFUSED[name]
    for fault in script:
        playground.hub.faults.add(**fault)
    with anyio.fail_after(PATIENCE_SECONDS):
        failed = await playground.download(**patience_for(name))
    playground.assert_failed(failed, code)
    assert failed.error is not None
    assert failed.error.message.endswith(".")
    assert len(playground.hub.requests) < 400


ODD: dict[str, Any] = {
    **{f"a {status}": faults.Reply(status) for status in (204, 304, 400, 401, 403, 404, 407, 409, 410, 421, 451, 511)},
    "an address that has expired": faults.Reply(400, {}, b"<Error><Code>ExpiredToken</Code></Error>"),
    "a web page": faults.Reply(200, {"Content-Type": "text/html"}, b"<html>"),
    "a redirect to a web page": faults.Reply(302, {"Location": "/login"}),
    "a redirect to a dead port": faults.Reply(302, {"Location": DEAD}),
    "bytes that are not HTTP": faults.RawBytes(b"\x00\x01garbage\r\n\r\n"),
    "an encoding that nobody knows": faults.RawBytes(b"HTTP/1.1 206 X\r\nTransfer-Encoding: gzip\r\n\r\n"),
    "two lengths": faults.RawBytes(b"HTTP/1.1 206 X\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
    "a broken chunk": faults.RawBytes(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nx"),
}


@pytest.mark.parametrize("name", ODD)
async def test_one_odd_answer_of_the_storage_in_the_middle_harms_nobody(playground: Playground, name: str) -> None:
    playground.hub.faults.add(faults.Cut(after_bytes=2_000_000), origin="cdn", times=1)
    odd = playground.hub.faults.add(ODD[name], origin="cdn", skip=1, times=1)
    playground.assert_exact(await playground.download(limits=EngineLimits(max_connections=1)))
    assert playground.hub.faults.fired(odd) == 1


@pytest.mark.parametrize(
    "name", ["a 400", "a 409", "a 511", "a web page", "bytes that are not HTTP", "a broken chunk", "two lengths"]
)
async def test_a_storage_that_answers_oddly_is_named(playground: Playground, name: str) -> None:
    playground.hub.faults.add(ODD[name], origin="cdn")
    failed = await playground.download()
    playground.assert_failed(failed, "server_error")
    assert failed.error is not None
    assert failed.error.message.startswith(f"The storage of {urlsplit(playground.hub.endpoint).netloc}")
    assert "HF_ENDPOINT" not in failed.error.message


async def test_a_storage_behind_a_proxy_that_wants_a_password(playground: Playground) -> None:
    playground.hub.faults.add(faults.Reply(407), origin="cdn")
    playground.assert_failed(await playground.download(), "proxy")


async def test_a_storage_that_cannot_be_reached_is_named(playground: Playground) -> None:
    playground.hub.faults.add(**hub(faults.ChangeHeaders({"Location": DEAD})))
    failed = await playground.download()
    assert failed.error is not None
    assert "its storage at 127.0.0.1, which cannot be reached" in failed.error.message


async def test_a_storage_whose_name_cannot_be_looked_up_is_named(playground: Playground) -> None:
    playground.hub.faults.add(**hub(faults.ChangeHeaders({"Location": "http://a..b/model"})))
    failed = await playground.download()
    playground.assert_failed(failed, "offline")
    assert failed.error is not None
    assert "its storage at a..b, which cannot be reached" in failed.error.message


async def test_signatures_that_expire_on_the_way_cost_no_retry(playground: Playground, until: Until) -> None:
    throttle = playground.hub.faults.add(faults.Throttle(2e6, is_shared=True), origin="cdn")
    async with playground.manager(limits=EngineLimits(max_connections=2)) as manager:  # so that it asks again and again
        job = await manager.submit(playground.request())
        for share in (3_000_000, 9_000_000):
            await until(lambda share=share: manager.snapshots()[0].received >= share)
            playground.hub.expire_signatures()
        playground.hub.faults.remove(throttle)
        done = await manager.wait(job.job_id)
    playground.assert_exact(done)
    assert done.attempt == 0
    assert 2 <= sum(record.method == "HEAD" for record in playground.hub.requests) <= 8


async def test_content_that_changes_between_attempts_is_not_mixed(playground: Playground, until: Until) -> None:
    playground.hub.faults.add(faults.Throttle(2e6, is_shared=True, free_bytes=3_000_000), origin="cdn")
    async with playground.manager() as manager:
        job = await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].received >= 3_000_000)
        await manager.act(job.job_id, "pause")
        playground.hub.rewrite_file(playground.repo_id, playground.filename, b"GGUF" + bytes(SIZE - 4))
        playground.hub.faults.clear()
        await manager.act(job.job_id, "resume")
        failed = await manager.wait(job.job_id)
    playground.assert_failed(failed, "content_changed")


async def test_a_redirect_of_the_storage_is_followed_without_the_token(playground: Playground) -> None:
    with LocalHub() as other:
        other.add_repo(playground.repo_id, {playground.filename: playground.content})
        url = other.endpoint + f"/{playground.repo_id}/resolve/main/{playground.filename}"
        playground.hub.faults.add(faults.Reply(302, {"Location": url}), origin="cdn")
        playground.assert_exact(await playground.download())
        assert not [record for record in other.requests if "authorization" in record.headers]
        assert other.requests.bytes_sent >= SIZE


async def test_a_redirect_to_a_dead_port_fails_and_says_so(playground: Playground) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    playground.hub.faults.add(faults.Reply(302, {"Location": f"http://127.0.0.1:{port}/x"}), origin="cdn")
    playground.assert_failed(await playground.download(), "offline")


async def test_the_token_goes_to_the_hub_only(playground: Playground) -> None:
    playground.assert_exact(await playground.download())
    assert all("authorization" in record.headers for record in playground.hub.requests.to("hub"))
    assert playground.hub.requests.to("cdn")


@pytest.mark.parametrize(
    ("token", "code"), [(None, "gated"), ("hf_testtesttest", "gated"), ("hf_unknown", "unauthorized")]
)
async def test_a_gated_repository(playground: Playground, token: str | None, code: str) -> None:
    playground.put(playground.content, gated="manual")
    failed = await playground.download(token=token)
    if failed.error is not None and code == "unauthorized":
        assert failed.error.code in ("unauthorized", "gated")
        return
    playground.assert_failed(failed, code)
    assert failed.error is not None
    assert failed.error.details["url"] == f"{playground.hub.endpoint}/{playground.repo_id}"
    assert playground.left_overs() == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"files": (GGUFFile(filename="not-there.gguf"),)}, "file_not_found"),
        ({"repo_id": "owner/not-there"}, "repo_not_found"),
        ({"commit_hash": "0" * 40}, "revision_not_found"),
    ],
)
async def test_what_is_not_there(playground: Playground, change: dict[str, Any], code: str) -> None:
    async with playground.manager() as manager:
        job = await manager.submit(playground.request(**change))
        failed = await manager.wait(job.job_id)
    assert failed.state is DownloadState.FAILED
    assert failed.error is not None
    assert failed.error.code == code


@pytest.mark.parametrize(
    "change",
    [
        {"files": ()},
        {"files": (GGUFFile(filename="../../evil.gguf"),)},
        {"files": (GGUFFile(filename="/etc/evil.gguf"),)},
        {"files": (GGUFFile(filename="a/../../evil.gguf"),)},
        {"files": (GGUFFile(filename="a\\..\\evil.gguf"),)},
        {"files": (GGUFFile(filename="evil\x00.gguf"),)},
        {"files": (GGUFFile(filename="x.gguf"), GGUFFile(filename="x.gguf"))},
        {"repo_id": "../../evil"},
        {"repo_id": "a/b/c"},
        {"revision": "../../../evil"},
        {"commit_hash": "../evil"},
    ],
)
async def test_no_way_out_of_the_cache(playground: Playground, change: dict[str, Any]) -> None:
    async with playground.manager() as manager:
        with pytest.raises(InvalidRequestError):
            await manager.submit(playground.request(**change))
        assert manager.snapshots() == ()
    assert len(playground.hub.requests) == 0


async def test_a_digest_from_the_listing_that_is_no_digest(playground: Playground) -> None:
    async with playground.manager() as manager:
        with pytest.raises(InvalidRequestError):
            await manager.submit(playground.request(files=(playground.file(sha256="../../evil"),)))


@pytest.mark.parametrize("is_wrong", [False, True])
async def test_a_git_file_is_checked_by_its_sha1(playground: Playground, is_wrong: bool) -> None:
    text = b"# Readme\n" * 200
    playground.hub.add_repo(playground.repo_id, {"README.md": text})
    request = playground.request(files=(GGUFFile(filename="README.md"),), commit_hash=None)
    if is_wrong:
        playground.hub.faults.add(faults.FlipBit(offset=7), method="GET")
    async with playground.manager() as manager:
        job = await manager.submit(request)
        done = await manager.wait(job.job_id)
    if is_wrong:
        assert done.error is not None
        assert done.error.code == "integrity"
        return
    assert done.state is DownloadState.READY, done.error
    assert done.commit_hash is not None
    assert (playground.repo_dir / "snapshots" / done.commit_hash / "README.md").read_bytes() == text
    assert (playground.repo_dir / "refs" / "main").read_text() == done.commit_hash


@pytest.mark.parametrize("by", [-10, 10])
async def test_a_size_of_the_hub_that_nobody_can_confirm(playground: Playground, by: int) -> None:
    playground.hub.faults.add(faults.WrongLinkedSize(by=by), origin="hub")
    async with playground.manager() as manager:
        job = await manager.submit(playground.request(files=(GGUFFile(filename=playground.filename),)))
        failed = await manager.wait(job.job_id)
    playground.assert_failed(failed, "content_changed")


BARE = {"X-Linked-Size": None, "X-Linked-Etag": None, "ETag": None, "X-Repo-Commit": None}


@pytest.mark.parametrize(
    "storage", [None, faults.IgnoreRange(), faults.IgnoreRange(is_chunked=True)], ids=["ranges", "whole", "chunked"]
)
async def test_a_mirror_that_tells_nothing(playground: Playground, storage: Any) -> None:
    """Nothing says the size or the digest, so the file is named by the sha256 of its bytes."""
    playground.hub.faults.add(faults.ChangeHeaders(BARE), origin="hub", path=RESOLVE)
    if storage is not None:
        playground.hub.faults.add(storage, origin="cdn")
    request = playground.request(files=(GGUFFile(filename=playground.filename),))
    async with playground.manager() as manager:
        job = await manager.submit(request)
        done = await manager.wait(job.job_id)
    playground.assert_exact(done)
    assert playground.blob.is_file()


async def test_a_mirror_that_tells_nothing_and_sends_something_else(playground: Playground) -> None:
    playground.hub.faults.add(faults.ChangeHeaders(BARE), origin="hub", path=RESOLVE)
    playground.hub.faults.add(faults.Content(b"not a model, whatever it says" * 1000), origin="cdn")
    async with playground.manager() as manager:
        job = await manager.submit(playground.request(files=(GGUFFile(filename=playground.filename),)))
        failed = await manager.wait(job.job_id)
    playground.assert_failed(failed, "not_gguf")


async def test_a_mirror_without_redirects(playground: Playground) -> None:
    """The endpoint itself serves the bytes, so it gets the token, and nobody else does."""
    whole = {"Content-Length": str(SIZE), "ETag": f'"{playground.sha256}"', "X-Repo-Commit": playground.commit_hash}
    playground.hub.faults.add(faults.Reply(200, whole, b""), origin="hub", path=RESOLVE, method="HEAD")
    playground.hub.faults.add(
        faults.Reply(200, {k: v for k, v in whole.items() if k != "Content-Length"}, playground.content),
        origin="hub",
        path=RESOLVE,
        method="GET",
    )
    playground.assert_exact(await playground.download())
    assert playground.hub.requests.to("cdn") == ()


@pytest.mark.parametrize(
    "told",
    [{"ETag": f'"{"ab" * 32}"', "Content-Length": str(SIZE)}, {"Content-Length": "0"}],
    ids=["the storage's ETag", "no length"],
)
async def test_a_mirror_that_follows_redirects_itself(playground: Playground, told: dict[str, str]) -> None:
    """Its answers are the storage's. The ETag of a Xet file there looks like a sha256 and is not one."""

    def answer(request: HTTPRequest) -> faults.Reply:
        headers = {"X-Repo-Commit": playground.commit_hash}
        if request.method == "HEAD":
            return faults.Reply(200, {**headers, **told}, b"")
        return faults.Reply(200, {**headers, **told, "Content-Length": str(SIZE)}, playground.content)

    playground.hub.faults.add(faults.ReplyBy(answer), origin="hub", path=RESOLVE)
    playground.assert_exact(await playground.download())
    assert playground.hub.requests.to("cdn") == ()


async def test_several_files_are_one_download(playground: Playground) -> None:
    shards = {f"m-{n:05}-of-00020.gguf": playground.content[: 500_000 + n] for n in range(1, 21)}
    shards["mmproj-F16.gguf"] = playground.content[:3_000_000]
    commit_hash = playground.hub.add_repo(playground.repo_id, shards)
    files = tuple(
        GGUFFile(filename=name, size=len(data), sha256=playground.hub.sha256(playground.repo_id, name))
        for name, data in shards.items()
    )
    async with playground.manager() as manager:
        job = await manager.submit(playground.request(files=files, commit_hash=commit_hash))
        done = await manager.wait(job.job_id)
    assert done.state is DownloadState.READY, done.error
    assert done.received == done.total == done.bytes_fetched == sum(map(len, shards.values()))
    for name, data in shards.items():
        assert (playground.repo_dir / "snapshots" / commit_hash / name).read_bytes() == data
    assert (playground.repo_dir / "refs" / "main").read_text() == commit_hash


async def test_one_bad_file_of_several_publishes_no_ref(playground: Playground) -> None:
    content = {"a.gguf": playground.content[:2_000_000], "b.gguf": playground.content[:3_000_000]}
    commit_hash = playground.hub.add_repo(playground.repo_id, content)
    playground.hub.faults.add(faults.FlipBit(offset=2_500_000), origin="cdn")
    files = tuple(GGUFFile(filename=name) for name in content)
    async with playground.manager() as manager:
        job = await manager.submit(playground.request(files=files, commit_hash=commit_hash))
        failed = await manager.wait(job.job_id)
        assert failed.error is not None
        assert failed.error.code == "integrity"
        assert not (playground.repo_dir / "refs" / "main").exists()
        playground.hub.faults.clear()
        playground.hub.requests.clear()
        await manager.act(job.job_id, "retry")
        done = await manager.wait(job.job_id)
        assert done.state is DownloadState.READY, done.error


async def test_what_is_in_the_cache_is_not_fetched_again(playground: Playground) -> None:
    playground.assert_exact(await playground.download())
    playground.hub.requests.clear()
    done = await playground.download()
    assert done.state is DownloadState.READY
    assert done.bytes_fetched == 0
    assert len(playground.hub.requests) == 0
    playground.pointer.unlink()
    done = await playground.download()
    playground.assert_exact(done)
    assert done.bytes_fetched == 0
    assert playground.hub.requests.to("cdn") == ()


async def test_a_cached_file_of_the_wrong_size_is_replaced(playground: Playground) -> None:
    playground.assert_exact(await playground.download())
    playground.blob.write_bytes(playground.content[:1000])
    playground.assert_exact(await playground.download())


def test_every_effect_is_used() -> None:
    """Every fault of the local hub is tested here, unless it is about listings."""
    used = {type(f["effect"]) for script in SURVIVED.values() for f in script}
    used |= {type(f["effect"]) for _, script in REFUSED.values() for f in script}
    effects: set[Callable[..., Any]] = {
        value
        for value in vars(faults).values()
        if isinstance(value, type) and hasattr(value, "apply") and value not in (faults.Effect, faults.Faults)
    }
    used |= {type(effect) for effect in ODD.values()}
    assert effects - {faults.EditJSON, faults.ReplyBy} <= used
