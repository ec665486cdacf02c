"""What modeldeck publishes, as huggingface_hub itself reads, verifies and removes it, and the reverse."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import hf_hub_download, scan_cache_dir, try_to_load_from_cache

from modeldeck.hub import cache
from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub

FILES = {"BF16/m-00001-of-00002.gguf": b"GGUF" + bytes(70_000), "BF16/m-00002-of-00002.gguf": b"GGUF" + bytes(50_000)}
NAME = "BF16/m-00001-of-00002.gguf"
HF = Path(sys.executable).with_name("hf")
DOWNLOAD = """
import json, sys
from huggingface_hub import hf_hub_download
print(json.dumps([hf_hub_download("o/n", name) for name in json.loads(sys.argv[1])]))
"""


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        hub.add_repo("o/n", FILES)
        yield hub


def published(cache_dir: Path, hub: LocalHub, **changes: Any) -> str:
    """Publish all files as the engine does; returns the commit."""
    repo = hub.catalogue.get("o/n")
    assert repo is not None
    commit_hash = repo.refs["main"]
    for filename, content in FILES.items():
        etag = hashlib.sha256(content).hexdigest()
        cache.prepare_repo(cache_dir, "o/n")
        partial = cache.blob_path(cache_dir, "o/n", etag).with_suffix(".1.part")
        partial.write_bytes(content)
        about = {"repo_id": "o/n", "commit_hash": commit_hash, "filename": filename, "etag": etag}
        cache.publish_blob(cache_dir, **{**about, **changes}, verified=partial)
    cache.write_ref(cache_dir, "o/n", "main", commit_hash)
    return commit_hash


def environment(hub: LocalHub, cache_dir: Path, **changes: str) -> dict[str, str]:
    unwanted = ("HF_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "PYTEST")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return {
        **inherited,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_CACHE": str(cache_dir),
        "HF_HOME": str(cache_dir.parent / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        **changes,
    }


def run(arguments: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(params=["symlinks", "no symlinks"])
def cache_dir(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "no symlinks":
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    return tmp_path / "hub"


def test_published_files_are_found_offline_by_branch_and_by_commit(hub: LocalHub, cache_dir: Path) -> None:
    commit_hash = published(cache_dir, hub)
    for revision in ("main", commit_hash):
        path = hf_hub_download("o/n", NAME, revision=revision, cache_dir=cache_dir, local_files_only=True)
        assert Path(path).read_bytes() == FILES[NAME]
        assert try_to_load_from_cache("o/n", NAME, revision=revision, cache_dir=cache_dir) == path
    assert len(hub.requests) == 0


def test_a_scan_is_clean_and_complete(hub: LocalHub, cache_dir: Path) -> None:
    commit_hash = published(cache_dir, hub)
    info = scan_cache_dir(cache_dir)
    assert info.warnings == []
    (repo,) = info.repos
    (revision,) = repo.revisions
    assert (repo.repo_id, revision.commit_hash, revision.refs) == ("o/n", commit_hash, frozenset({"main"}))
    assert {file.file_path.relative_to(revision.snapshot_path).as_posix() for file in revision.files} == set(FILES)
    assert info.size_on_disk == sum(map(len, FILES.values()))


def test_the_scan_is_clean_from_the_first_byte_to_the_last(hub: LocalHub, cache_dir: Path) -> None:
    cache.prepare_repo(cache_dir, "o/n")
    cache.blob_path(cache_dir, "o/n", "c" * 64).with_suffix(".1.part").write_bytes(b"half")
    assert scan_cache_dir(cache_dir).warnings == []
    commit_hash = published(cache_dir, hub)
    cache.remove(cache_dir, repo_id="o/n", commit_hash=commit_hash, filenames=[NAME])
    assert scan_cache_dir(cache_dir).warnings == []
    assert try_to_load_from_cache("o/n", NAME, cache_dir=cache_dir) is None
    cache.remove(cache_dir, repo_id="o/n", commit_hash=commit_hash, filenames=FILES)
    assert scan_cache_dir(cache_dir).warnings == []
    assert (cache_dir / "models--o--n" / "blobs" / f"{'c' * 64}.1.part").read_bytes() == b"half"


def test_hf_cache_verify_accepts_it(hub: LocalHub, cache_dir: Path) -> None:
    published(cache_dir, hub)
    said = run(
        [str(HF), "cache", "verify", "o/n", "--fail-on-missing-files", "--fail-on-extra-files"],
        environment(hub, cache_dir),
    )
    assert "checksums match" in said


def test_hf_cache_verify_would_notice_a_wrong_byte(hub: LocalHub, cache_dir: Path) -> None:
    commit_hash = published(cache_dir, hub)
    path = cache.snapshot_path(cache_dir, "o/n", commit_hash, NAME)
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"x")
    done = subprocess.run(
        [str(HF), "cache", "verify", "o/n"],
        env=environment(hub, cache_dir),
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode != 0


def test_an_online_download_reuses_it_without_a_byte(hub: LocalHub, cache_dir: Path) -> None:
    published(cache_dir, hub)
    paths = json.loads(
        run([sys.executable, "-c", DOWNLOAD, json.dumps(list(FILES))], environment(hub, cache_dir)).splitlines()[0]
    )
    assert [Path(path).read_bytes() for path in paths] == list(FILES.values())
    assert {record.method for record in hub.requests.snapshot()} == {"HEAD"}


def test_prune_keeps_it_and_rm_removes_it(hub: LocalHub, cache_dir: Path) -> None:
    published(cache_dir, hub)
    env = environment(hub, cache_dir)
    run([str(HF), "cache", "prune", "--yes"], env)
    assert len(cache.list_models(cache_dir)) == 2
    run([str(HF), "cache", "rm", "model/o/n", "--yes"], env)
    assert cache.list_models(cache_dir) == ()


@pytest.mark.parametrize("shared", ["with the shared store", "without"])
def test_what_huggingface_hub_downloads_is_listed_and_removed(hub: LocalHub, tmp_path: Path, shared: str) -> None:
    cache_dir = tmp_path / "hub"
    changes = {"HF_HUB_DISABLE_SHARED_BLOBS": "1"} if shared == "without" else {}
    run([sys.executable, "-c", DOWNLOAD, json.dumps(list(FILES))], environment(hub, cache_dir, **changes))
    files = cache.list_models(cache_dir)
    assert [(file.filename, file.size, file.sha256, file.revisions) for file in files] == [
        (name, len(content), hashlib.sha256(content).hexdigest(), ("main",)) for name, content in FILES.items()
    ]
    freed = cache.remove(cache_dir, repo_id="o/n", commit_hash=files[0].commit_hash, filenames=FILES)
    assert freed == sum(map(len, FILES.values()))
    assert not (cache_dir / "models--o--n").exists()
    assert scan_cache_dir(cache_dir).warnings == []


def share(cache_dir: Path, repo_id: str, content: bytes, xet_hash: str) -> None:
    """Move a blob into the shared store, by huggingface_hub's own hand."""
    from huggingface_hub.utils import _shared_blobs

    blob = cache.blob_path(cache_dir, repo_id, hashlib.sha256(content).hexdigest())
    assert _shared_blobs.publish_blob_to_shared_store(
        blob_path=str(blob), xet_hash=xet_hash, cache_dir=cache_dir, expected_size=len(content), replace_existing=False
    )
    assert blob.is_symlink()


def test_bytes_in_the_shared_store_go_when_their_last_user_goes(tmp_path: Path) -> None:
    content, xet_hash, etag = FILES[NAME], "ab" * 32, hashlib.sha256(FILES[NAME]).hexdigest()
    commits = {"o/n": "a" * 40, "x/y": "b" * 40}
    for repo_id, commit_hash in commits.items():
        cache.prepare_repo(tmp_path, repo_id)
        partial = cache.blob_path(tmp_path, repo_id, etag).with_suffix(".1.part")
        partial.write_bytes(content)
        about = {"repo_id": repo_id, "commit_hash": commit_hash, "filename": NAME, "etag": etag}
        cache.publish_blob(tmp_path, **about, verified=partial)
        cache.write_ref(tmp_path, repo_id, "main", commit_hash)
        share(tmp_path, repo_id, content, xet_hash)
    payload = tmp_path / "blobs" / "ab" / xet_hash
    (first, second) = cache.list_models(tmp_path)
    assert (first.sha256, first.size) == (etag, len(content))
    assert cache.remove(tmp_path, repo_id="o/n", commit_hash=first.commit_hash, filenames=[NAME]) == 0
    assert second.path.read_bytes() == content
    assert cache.remove(tmp_path, repo_id="x/y", commit_hash=second.commit_hash, filenames=[NAME]) == len(content)
    assert not payload.exists()
    assert cache.list_models(tmp_path) == ()
    assert scan_cache_dir(tmp_path).warnings == []
