"""The cache on disks that really refuse: full, read-only, or another user's."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from modeldeck._errors import DiskFullError, PermissionDeniedError
from modeldeck.hub import cache

NOBODY = 65_534
COMMIT = "a" * 40
CONTENT = b"GGUF" + bytes(40_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def publish(cache_dir: Path, commit_hash: str = COMMIT) -> Path:
    partial = cache.blob_path(cache_dir, "o/n", SHA256).with_suffix(".1.part")
    about = {"repo_id": "o/n", "commit_hash": commit_hash, "filename": "m.gguf", "etag": SHA256}
    path = cache.publish_blob(cache_dir, **about, verified=partial)
    cache.write_ref(cache_dir, "o/n", "main", commit_hash)
    return path


def with_partial(cache_dir: Path) -> Path:
    cache.prepare_repo(cache_dir, "o/n")
    partial = cache.blob_path(cache_dir, "o/n", SHA256).with_suffix(".1.part")
    partial.write_bytes(CONTENT)
    return partial


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A cache on a disk of 128 KiB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=128k", "none", disk], check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    yield disk / "hub"
    subprocess.run(["umount", disk], check=True)


@pytest.fixture
def own_rights() -> Iterator[Callable[[], None]]:
    """Called, it takes root's rights from this thread until the test ends."""

    def drop() -> None:
        if os.geteuid() == 0:
            os.seteuid(NOBODY)

    before = os.geteuid()
    yield drop
    os.seteuid(before)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user may walk to, as pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def fill(cache_dir: Path) -> Path:
    disk = cache_dir.parent
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    assert shutil.disk_usage(disk).free == 0
    return ballast


def test_a_full_disk_keeps_the_verified_bytes_and_publishing_goes_on_when_there_is_room(small_disk: Path) -> None:
    with_partial(small_disk)
    ballast = fill(small_disk)
    with pytest.raises(DiskFullError, match="full"):
        publish(small_disk)
    assert scan_cache_dir(small_disk).warnings == []
    assert cache.read_ref(small_disk, "o/n", "main") is None  # the first thing here that needs a block of its own
    ballast.unlink()
    about = {"repo_id": "o/n", "commit_hash": COMMIT, "filename": "m.gguf", "etag": SHA256}
    assert cache.link_blob(small_disk, **about).read_bytes() == CONTENT
    cache.write_ref(small_disk, "o/n", "main", COMMIT)
    assert cache.read_ref(small_disk, "o/n", "main") == COMMIT
    assert [path.name for path in cache.repo_dir(small_disk, "o/n").joinpath("blobs").iterdir()] == [SHA256]


def test_a_full_disk_can_be_cleaned(small_disk: Path) -> None:
    with_partial(small_disk)
    publish(small_disk)
    fill(small_disk)
    assert cache.remove(small_disk, repo_id="o/n", commit_hash=COMMIT, filenames=["m.gguf"]) == len(CONTENT)
    assert not (small_disk / "models--o--n").exists()


def test_a_read_only_disk_is_told_from_missing_rights(small_disk: Path) -> None:
    partial = with_partial(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk.parent], check=True)
    for call in (
        lambda: cache.prepare_repo(small_disk, "x/y"),
        lambda: publish(small_disk),
        lambda: cache.write_ref(small_disk, "o/n", "main", COMMIT),
    ):
        with pytest.raises(PermissionDeniedError, match="read-only"):
            call()
    assert partial.read_bytes() == CONTENT
    assert cache.list_models(small_disk) == ()


def test_another_users_cache_is_read_but_not_written(open_directory: Path, own_rights: Callable[[], None]) -> None:
    hub = open_directory / "hub"
    with_partial(hub)
    publish(hub)
    with_partial(hub)
    for folder in (hub, *(path for path in hub.rglob("*") if path.is_dir() and not path.is_symlink())):
        folder.chmod(0o555)
    own_rights()
    (file,) = cache.list_models(hub)
    assert file.path.read_bytes() == CONTENT
    for call in (
        lambda: publish(hub, "b" * 40),
        lambda: cache.prepare_repo(hub, "x/y"),
        lambda: cache.write_ref(hub, "o/n", "other", COMMIT),
        lambda: cache.remove(hub, repo_id="o/n", commit_hash=COMMIT, filenames=["m.gguf"]),
    ):
        with pytest.raises(PermissionDeniedError, match="No permission"):
            call()
    assert file.path.read_bytes() == CONTENT


def test_a_cache_that_may_not_be_read_has_no_models(open_directory: Path, own_rights: Callable[[], None]) -> None:
    hub = open_directory / "hub"
    with_partial(hub)
    publish(hub)
    (hub / "models--o--n").chmod(0o000)
    own_rights()
    assert cache.list_models(hub) == ()


def test_a_lock_that_cannot_be_taken_stops_nobody(open_directory: Path, own_rights: Callable[[], None]) -> None:
    hub = open_directory / "hub"
    (hub / ".locks").mkdir(parents=True)
    hub.chmod(0o777)
    own_rights()
    with_partial(hub)
    assert publish(hub).read_bytes() == CONTENT


def test_an_old_temporary_file_that_another_user_left_stops_nobody(
    open_directory: Path, own_rights: Callable[[], None]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make files of two users")
    hub = open_directory / "hub"
    with_partial(hub)
    left = hub / "models--o--n" / "blobs" / f"{'ab' * 16}.tmp"
    left.touch()
    os.utime(left, (0, 0))
    for folder in (hub, *(path for path in hub.rglob("*") if path.is_dir())):
        folder.chmod(0o1777)
    own_rights()
    cache.prepare_repo(hub, "o/n")
    assert left.exists()
