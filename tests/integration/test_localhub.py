"""The local hub on real sockets, asked as httpx, curl and huggingface_hub ask."""

import hashlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from huggingface_hub import HfApi, HfFileSystem, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub, RequestRecord

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REPO = "owner/tiny-GGUF"
FILES = {"tiny-Q4_0.gguf": CONTENT, "BF16/tiny-BF16.gguf": b"small", "README.md": b"# hi", "empty.txt": b""}
GATED = "owner/gated-GGUF"
TOKENS = {"hf_reader": {GATED}, "hf_other": set()}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(CONTENT)
    with LocalHub(repos={REPO: {**FILES, "tiny-Q4_0.gguf": path}}, tokens=TOKENS) as hub:
        hub.add_repo(GATED, {"secret.gguf": b"secret", "README.md": b"# secret"}, gated="manual")
        yield hub


@pytest.fixture
def api(hub: LocalHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=False)


def get(hub: LocalHub, path: str, token: str | None = None) -> httpx.Response:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return httpx.get(f"{hub.endpoint}{path}", headers=headers)


# --- huggingface_hub --------------------------------------------------------------------------------------------------


def test_huggingface_hub_downloads(hub: LocalHub, tmp_path: Path) -> None:
    for filename, content in FILES.items():
        got = hf_hub_download(REPO, filename, endpoint=hub.endpoint, cache_dir=tmp_path / "cache", token=False)
        assert Path(got).read_bytes() == content
    assert {path.name for path in tmp_path.glob("cache/*/blobs/*")} >= {SHA256}


def test_huggingface_hub_takes_a_snapshot_and_reads_a_part(hub: LocalHub, tmp_path: Path) -> None:
    folder = snapshot_download(REPO, endpoint=hub.endpoint, cache_dir=tmp_path / "cache", token=False)
    assert {path: Path(folder, path).read_bytes() for path in FILES} == FILES
    files = HfFileSystem(endpoint=hub.endpoint, token=False, skip_instance_cache=True)
    assert files.glob(f"{REPO}/**/*.gguf") == [f"{REPO}/BF16/tiny-BF16.gguf", f"{REPO}/tiny-Q4_0.gguf"]
    assert files.read_bytes(f"{REPO}/tiny-Q4_0.gguf", start=1000, end=1010) == CONTENT[1000:1010]


def test_huggingface_hub_reads_the_first_hop(hub: LocalHub) -> None:
    url = hf_hub_url(REPO, "tiny-Q4_0.gguf", endpoint=hub.endpoint)
    metadata = get_hf_file_metadata(url, endpoint=hub.endpoint, token=False)
    assert (metadata.size, metadata.etag) == (len(CONTENT), SHA256)
    assert metadata.commit_hash == HfApi(endpoint=hub.endpoint, token=False).model_info(REPO).sha
    assert metadata.location.startswith(hub.cdn_origin)


def test_huggingface_hub_lists(hub: LocalHub, api: HfApi) -> None:
    hub.add_repo("other/thing", {"a.txt": b""}, downloads=5)
    assert [model.id for model in api.list_models(search="TINY", filter="gguf")] == [REPO]
    assert [model.id for model in api.list_models(author="other")] == ["other/thing"]
    assert next(iter(api.list_models(sort="downloads", limit=1))).id == "other/thing"
    assert [model.gated for model in api.list_models(search="gated", expand=["gated"])] == ["manual"]
    paths = [entry.path for entry in api.list_repo_tree(REPO, recursive=True)]
    assert paths == ["BF16", "BF16/tiny-BF16.gguf", "README.md", "empty.txt", "tiny-Q4_0.gguf"]
    assert [entry.path for entry in api.list_repo_tree(REPO, "BF16")] == ["BF16/tiny-BF16.gguf"]
    info = api.model_info(REPO, files_metadata=True)
    sizes = {sibling.rfilename: (sibling.size, sibling.lfs and sibling.lfs.sha256) for sibling in info.siblings}
    assert sizes["tiny-Q4_0.gguf"] == (len(CONTENT), SHA256)
    assert sizes["README.md"] == (4, None)
    assert [entry.path for entry in api.get_paths_info(REPO, ["README.md", "BF16", "no"])] == ["README.md", "BF16"]
    assert [branch.target_commit for branch in api.list_repo_refs(REPO).branches] == [info.sha]


def test_huggingface_hub_understands_the_errors(hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    def download(repo_id: str, filename: str = "x.gguf", token: str | bool = False, revision: str = "main") -> str:
        return hf_hub_download(
            repo_id, filename, revision=revision, endpoint=hub.endpoint, cache_dir=tmp_path / "cache", token=token
        )

    hub.add_repo("owner/disabled", {"x.gguf": b""}, is_disabled=True)
    with pytest.raises(RepositoryNotFoundError):
        download("owner/nothing")
    with pytest.raises(RepositoryNotFoundError):
        download("owner/nothing", token="hf_reader")
    with pytest.raises(RemoteEntryNotFoundError):
        download(REPO, "nothing.gguf")
    with pytest.raises(RevisionNotFoundError):
        download(REPO, "tiny-Q4_0.gguf", revision="nowhere")
    for token in (False, "hf_other", "hf_garbage"):
        with pytest.raises(GatedRepoError):
            download(GATED, "secret.gguf", token=token)
    with pytest.raises(DisabledRepoError):
        get_hf_file_metadata(hf_hub_url("owner/disabled", "x.gguf", endpoint=hub.endpoint), token=False)
    assert Path(download(GATED, "secret.gguf", token="hf_reader")).read_bytes() == b"secret"
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        api.model_info(REPO, token="hf_garbage")


def test_the_token_stays_with_the_hub(hub: LocalHub, tmp_path: Path) -> None:
    hf_hub_download(GATED, "secret.gguf", endpoint=hub.endpoint, cache_dir=tmp_path / "cache", token="hf_reader")
    assert all("authorization" in record.headers for record in hub.requests.to("hub"))
    assert hub.requests.to("cdn")
    assert not any("authorization" in record.headers for record in hub.requests.to("cdn"))


# --- the API ----------------------------------------------------------------------------------------------------------


def test_statuses_and_codes_of_errors(hub: LocalHub) -> None:
    def told(path: str, token: str | None = None) -> tuple[int, str | None]:
        answer = get(hub, path, token)
        assert answer.headers["ratelimit"]
        return answer.status_code, answer.headers.get("x-error-code")

    assert told("/api/models/owner/nothing") == (401, "RepoNotFound")
    assert told("/api/models/owner/nothing", "hf_other") == (404, "RepoNotFound")
    assert told(f"/api/models/{REPO}", "hf_garbage") == (401, None)
    assert told(f"/api/models/{REPO}/revision/bad") == (404, "RevisionNotFound")
    assert told(f"/api/models/{REPO}/tree/main/README.md") == (404, "EntryNotFound")
    assert told(f"/api/models/{REPO}/tree/main/nothing") == (404, "EntryNotFound")
    assert told(f"/{REPO}/resolve/main/nothing.gguf") == (404, "EntryNotFound")
    assert told(f"/{GATED}/resolve/main/secret.gguf") == (401, "GatedRepo")
    assert told(f"/{GATED}/resolve/main/secret.gguf", "hf_garbage") == (401, "GatedRepo")
    assert told(f"/{GATED}/resolve/main/secret.gguf", "hf_other") == (403, "GatedRepo")
    assert told(f"/{GATED}/resolve/main/secret.gguf", "hf_reader") == (302, None)
    assert told(f"/api/models/{GATED}") == (200, None)
    assert told(f"/api/models/{GATED}/tree/main") == (200, None)
    assert told("/api/models?sort=size") == (400, None)
    assert told("/api/models?expand=nonsense") == (400, None)
    assert told("/api/models?expand=gguf&full=true") == (400, None)
    assert told("/api/models?cursor=nonsense") == (400, None)
    assert told("/api/nothing") == (404, None)


def test_a_git_file_of_a_gated_repo_is_guarded_too(hub: LocalHub) -> None:
    target = get(hub, f"/{GATED}/resolve/main/README.md", "hf_reader").headers["location"]
    assert target.startswith("/api/resolve-cache/")
    assert get(hub, target).status_code == 401
    assert get(hub, target, "hf_reader").content == b"# secret"


def test_git_files(hub: LocalHub) -> None:
    hop = get(hub, f"/{REPO}/resolve/main/README.md")
    assert hop.status_code == 307
    assert hop.headers["location"].startswith("/api/resolve-cache/models/")
    oid = hashlib.sha1(b"blob 4\0# hi").hexdigest()
    assert hop.headers["x-linked-etag"] == f'"{oid}"'
    answer = get(hub, hop.headers["location"])
    assert (answer.content, answer.headers["etag"]) == (b"# hi", f'"{oid}"')
    again = httpx.get(f"{hub.endpoint}{hop.headers['location']}", headers={"if-none-match": f'"{oid}"'})
    assert again.status_code == 304


def test_pages_are_followed_by_link(hub: LocalHub) -> None:
    for number in range(7):
        hub.add_repo(f"many/{number}", {"x.gguf": b""}, downloads=7)
    url, seen = f"{hub.endpoint}/api/models?author=many&limit=3&expand[]=downloads&sort=downloads", []
    while url:
        answer = httpx.get(url)
        seen.append([row["id"] for row in answer.json()])
        url = answer.links.get("next", {}).get("url")
    assert [len(page) for page in seen] == [3, 3, 1]
    assert sorted(name for page in seen for name in page) == [f"many/{number}" for number in range(7)]


def test_the_tree_has_pages() -> None:
    files = {f"part {number:03}.gguf": b"x" for number in range(25)}
    with LocalHub(repos={REPO: files}, tree_page_size=10) as hub:
        entries = HfApi(endpoint=hub.endpoint, token=False).list_repo_tree(REPO, recursive=True)
        assert [entry.path for entry in entries] == sorted(files)
        assert [record.status for record in hub.requests] == [200] * 3


def test_old_and_wrongly_cased_ids_redirect(hub: LocalHub) -> None:
    hub.add_repo("owner/new-name", {"x.gguf": b"x"}, aliases=("old-name", "owner/old-name"))
    for path in ("/api/models/{}", "/api/models/{}/tree/main?recursive=true", "/{}/resolve/main/x.gguf"):
        for old in ("old-name", "owner/old-name", "Owner/New-Name"):
            answer = get(hub, path.format(old))
            assert (answer.status_code, answer.headers["location"]) == (307, path.format("owner/new-name"))


def test_revisions(hub: LocalHub) -> None:
    first = hub.add_repo("owner/r", {"dir name/x.gguf": b"1", "x?y.gguf": b"?"}, git_tags=["v1"])
    second = hub.update_file("owner/r", "dir name/x.gguf", b"2")
    for revision, content in (("v1", b"1"), (first, b"1"), ("main", b"2"), (second, b"2")):
        url = hf_hub_url("owner/r", "dir name/x.gguf", revision=revision, endpoint=hub.endpoint)
        assert httpx.get(url, follow_redirects=True).content == content
        assert get(hub, f"/api/models/owner/r/revision/{revision}").json()["sha"] in (first, second)
    odd = hf_hub_url("owner/r", "x?y.gguf", endpoint=hub.endpoint)
    assert httpx.get(odd, follow_redirects=True).content == b"?"
    refs = get(hub, "/api/models/owner/r/refs").json()
    assert refs["tags"] == [{"name": "v1", "ref": "refs/tags/v1", "targetCommit": first}]


def test_access_is_granted_while_it_runs(hub: LocalHub) -> None:
    path = f"/{GATED}/resolve/main/secret.gguf"
    assert get(hub, path, "hf_other").status_code == 403
    hub.grant("hf_other", GATED)
    hub.grant("hf_new")
    assert get(hub, path, "hf_other").status_code == 302
    assert get(hub, path, "hf_new").status_code == 403


def test_the_licence_page(hub: LocalHub) -> None:
    page = get(hub, f"/{GATED}")
    assert page.headers["content-type"].startswith("text/html")
    assert "accept its licence" in page.text


def test_the_first_hop_offers_nothing_but_http(hub: LocalHub) -> None:
    answer = httpx.head(f"{hub.endpoint}/{REPO}/resolve/main/tiny-Q4_0.gguf")
    assert answer.status_code == 302
    assert answer.headers["x-linked-size"] == str(len(CONTENT))
    assert answer.headers["x-linked-etag"] == f'"{SHA256}"'
    assert "x-xet-hash" not in answer.headers
    assert "link" not in answer.headers


# --- the server -------------------------------------------------------------------------------------------------------


def test_the_log_tells_requests_and_connections(hub: LocalHub) -> None:
    with httpx.Client() as client:
        url = client.get(f"{hub.endpoint}/{REPO}/resolve/main/tiny-Q4_0.gguf").headers["location"]
        for _ in range(2):
            client.get(url, headers={"range": "bytes=100-299"})
    httpx.get(url)
    hub.requests.wait_until(lambda records: all(record.is_finished for record in records))
    hub_records, cdn_records = hub.requests.to("hub"), hub.requests.to("cdn")
    assert [record.path for record in hub_records] == [f"/{REPO}/resolve/main/tiny-Q4_0.gguf"]
    assert [(record.range, record.status, record.bytes_sent) for record in cdn_records] == [
        ("bytes=100-299", 206, 200),
        ("bytes=100-299", 206, 200),
        (None, 200, len(CONTENT)),
    ]
    ids = [record.connection_id for record in cdn_records]
    assert ids[0] == ids[1] != ids[2]
    hub.requests.clear()
    assert len(hub.requests) == 0


def test_the_log_follows_an_answer_on_its_way(hub: LocalHub, tmp_path: Path) -> None:
    big = tmp_path / "big.gguf"
    with big.open("wb") as file:
        file.truncate(64_000_000)
    hub.add_repo("owner/big", {"big.gguf": big})
    with httpx.stream("GET", f"{hub.endpoint}/owner/big/resolve/main/big.gguf", follow_redirects=True) as answer:
        blocks = answer.iter_raw()
        assert next(blocks)

        def is_on_its_way(records: tuple[RequestRecord, ...]) -> bool:
            return not records[-1].is_finished and records[-1].status == 200

        hub.requests.wait_until(is_on_its_way)
    record = hub.requests.wait_until(lambda records: records[-1].is_finished)[-1]
    assert record.bytes_sent < 64_000_000
    with pytest.raises(TimeoutError):
        hub.requests.wait_until(lambda records: False, timeout_seconds=0.01)


def test_a_file_that_shrinks_ends_the_connection(hub: LocalHub, tmp_path: Path) -> None:
    path = tmp_path / "shrinks.gguf"
    path.write_bytes(CONTENT)
    hub.add_repo("owner/shrinks", {"x.gguf": path})
    path.write_bytes(b"short")
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{hub.endpoint}/owner/shrinks/resolve/main/x.gguf", follow_redirects=True)


def test_bad_requests(hub: LocalHub) -> None:
    assert httpx.delete(f"{hub.endpoint}/api/models/{REPO}").status_code == 405
    assert httpx.get(f"{hub.cdn_origin}/nothing").status_code == 404
    address = httpx.URL(hub.endpoint)
    with socket.create_connection((address.host, address.port), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 400 ")


def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    path = tmp_path / "tiny.gguf"
    path.write_bytes(CONTENT * 5)
    with LocalHub(repos={REPO: {"tiny.gguf": path}}, ssl_context=server) as hub, httpx.Client(verify=client) as http:
        assert hub.endpoint.startswith("https://")
        url = f"{hub.endpoint}/{REPO}/resolve/main/tiny.gguf"
        answer = http.get(url, follow_redirects=True)
        assert str(answer.url).startswith(f"{hub.cdn_origin}/")
        assert answer.content == CONTENT * 5
        part = http.get(answer.url, headers={"range": "bytes=1000000-1999999"})
        assert part.content == (CONTENT * 5)[1_000_000:2_000_000]
        unknown = http.get(f"{hub.endpoint}/api/models/no/body")
        assert (unknown.status_code, "x-error-code" in unknown.headers) == (401, False)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_resumes(hub: LocalHub, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    target.write_bytes(CONTENT[:300_000])
    url = f"{hub.endpoint}/{REPO}/resolve/main/tiny-Q4_0.gguf"
    subprocess.run(["curl", "-sSfL", "-C", "-", "-o", target, url], check=True)
    assert target.read_bytes() == CONTENT
    assert hub.requests.to("cdn")[-1].range == "bytes=300000-"
