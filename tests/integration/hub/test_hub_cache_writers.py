"""Publishing beside others who write the same cache, and under a process that is killed."""

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from modeldeck.hub import cache
from tools.localhub import LocalHub
from tools.localhub.faults import Throttle

from .test_hub_cache_readers import DOWNLOAD, environment

KILLS = 12
PUBLISHER = """
import hashlib, sys
from pathlib import Path
from modeldeck.hub import cache
cache_dir, first = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
for number in range(first, first + 10_000):
    content = b"GGUF %d" % (number // 3) * 1000
    etag = hashlib.sha256(content).hexdigest()
    cache.prepare_repo(cache_dir, "o/n")
    partial = cache.blob_path(cache_dir, "o/n", etag).with_suffix(".1.part")
    partial.write_bytes(content)
    commit_hash = hashlib.sha1(b"%d" % number).hexdigest()
    about = {"repo_id": "o/n", "commit_hash": commit_hash, "filename": "a/m.gguf", "etag": etag}
    path = cache.publish_blob(cache_dir, **about, verified=partial)
    cache.write_ref(cache_dir, "o/n", "main", commit_hash)
    if number % 4 == 0:
        cache.remove(cache_dir, repo_id="o/n", commit_hash=commit_hash, filenames=["a/m.gguf"])
"""


def assert_sound(cache_dir: Path) -> None:
    """Whatever has a final name is whole, and huggingface_hub finds nothing to complain about."""
    repository = cache.repo_dir(cache_dir, "o/n")
    for blob in (repository / "blobs").iterdir():
        if "." not in blob.name:
            assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    for file in cache.list_models(cache_dir):
        assert hashlib.sha256(file.path.read_bytes()).hexdigest() == file.sha256
    assert scan_cache_dir(cache_dir).warnings == []


def test_a_killed_process_leaves_a_sound_cache(tmp_path: Path) -> None:
    chance = random.Random(5)
    for kill in range(KILLS):
        with subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, str(tmp_path), str(kill * 10_000)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            try:
                process.wait(timeout=chance.uniform(0.01, 0.3))
            except subprocess.TimeoutExpired:
                process.kill()
        assert process.returncode == -9
        if any(tmp_path.glob("models--o--n/*")):  # the emptied folder may be gone, or just about to be
            assert_sound(tmp_path)


@pytest.fixture
def content() -> bytes:
    return b"GGUF" + random.Random(7).randbytes(300_000)


def test_publishing_while_huggingface_hub_downloads_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """It holds its lock all the while; both end with the one right file."""
    monkeypatch.setattr(cache, "_LOCK_WAIT_SECONDS", 0.2)
    cache_dir = tmp_path / "hub"
    with LocalHub() as hub:
        commit_hash = hub.add_repo("o/n", {"m.gguf": content})
        slow = hub.faults.add(Throttle(bytes_per_second=20_000), origin="cdn")
        command = [sys.executable, "-c", DOWNLOAD, json.dumps(["m.gguf"])]
        with subprocess.Popen(command, env=environment(hub, cache_dir), stdout=subprocess.PIPE) as other:
            hub.requests.wait_until(
                lambda records: any(record.bytes_sent for record in records if record.origin == "cdn")
            )
            etag = hashlib.sha256(content).hexdigest()
            partial = cache.blob_path(cache_dir, "o/n", etag).with_suffix(".1.part")
            partial.write_bytes(content)
            about = {
                "repo_id": "o/n",
                "commit_hash": commit_hash,
                "filename": "m.gguf",
                "etag": etag,
            }
            path = cache.publish_blob(cache_dir, **about, verified=partial)
            cache.write_ref(cache_dir, "o/n", "main", commit_hash)
            assert path.read_bytes() == content
            assert other.poll() is None
            hub.faults.remove(slow)
            assert other.stdout is not None
            assert json.loads(other.stdout.read()) == [str(path)]
        assert other.returncode == 0
    assert path.read_bytes() == content
    assert_sound(cache_dir)
