"""The local hub on real sockets, asked as httpx, curl and huggingface_hub ask."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from huggingface_hub import HfApi, hf_hub_download

from modeldeck.localhub import LocalHub

CONTENT = bytes(range(256)) * 4096
REPO = "owner/tiny-GGUF"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(CONTENT)
    with LocalHub(repos={REPO: {"tiny-Q4_0.gguf": path, "BF16/tiny-BF16.gguf": b"small", "README.md": b"# hi"}}) as hub:
        yield hub


def test_huggingface_hub_downloads_and_lists(hub: LocalHub, tmp_path: Path) -> None:
    api = HfApi(endpoint=hub.endpoint, token=False)
    assert [model.id for model in api.list_models(search="tiny", filter="gguf")] == [REPO]
    paths = [entry.path for entry in api.list_repo_tree(REPO, recursive=True)]
    assert paths == ["BF16", "BF16/tiny-BF16.gguf", "README.md", "tiny-Q4_0.gguf"]
    for filename, content in {"tiny-Q4_0.gguf": CONTENT, "README.md": b"# hi"}.items():
        got = hf_hub_download(REPO, filename, endpoint=hub.endpoint, cache_dir=tmp_path / "cache", token=False)
        assert Path(got).read_bytes() == content


def test_first_hop_says_commit_size_and_digest(hub: LocalHub) -> None:
    answer = httpx.head(f"{hub.endpoint}/{REPO}/resolve/main/tiny-Q4_0.gguf")
    assert answer.status_code == 302
    assert answer.headers["x-linked-size"] == str(len(CONTENT))
    assert answer.headers["x-linked-etag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    assert len(answer.headers["x-repo-commit"]) == 40
    assert answer.headers["location"].startswith(hub.cdn_origin)
    assert "ratelimit" in answer.headers
