"""The cache on a real disk: what publishing leaves, what is found again, and what removing takes away."""

import contextlib
import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from modeldeck._errors import DiskFullError, InvalidRequestError, PermissionDeniedError, StorageError
from modeldeck.hub import cache
from tests.waiting import PATIENCE_SECONDS

COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40
CONTENT = b"GGUF" + bytes(1000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REPO = "models--o--n"


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def publish(
    cache_dir: Path,
    filename: str = "m.gguf",
    *,
    content: bytes = CONTENT,
    commit_hash: str = COMMIT,
    revision: str = "main",
    repo_id: str = "o/n",
) -> Path:
    etag = hashlib.sha256(content).hexdigest()
    cache.prepare_repo(cache_dir, repo_id)
    partial = cache.blob_path(cache_dir, repo_id, etag).with_suffix(".0af1.part")
    partial.write_bytes(content)
    path = cache.publish_blob(
        cache_dir, repo_id=repo_id, commit_hash=commit_hash, filename=filename, etag=etag, verified=partial
    )
    cache.write_ref(cache_dir, repo_id, revision, commit_hash)
    return path


def tree(directory: Path) -> dict[str, str]:
    """Every path below a directory: where a link leads, or what a file holds, shortened."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = (
                hashlib.sha256(path.read_bytes()).hexdigest() if path.stat().st_size > 64 else path.read_text()
            )
    return found


def no_symlinks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.EPERM, "symlinks are not supported here")

    monkeypatch.setattr(os, "symlink", refuse)


# --- publishing -------------------------------------------------------------------------------------------------------


def test_publishing_leaves_exactly_the_layout_of_the_hub(tmp_path: Path) -> None:
    path = publish(tmp_path, "BF16/deep/m.gguf")
    assert path == tmp_path / REPO / "snapshots" / COMMIT / "BF16/deep/m.gguf"
    assert path.read_bytes() == CONTENT
    found = tree(tmp_path)
    assert found.pop("CACHEDIR.TAG")
    assert found.pop(f".locks/{REPO}/{SHA256}.lock", "") == ""
    assert found == {
        f"{REPO}/blobs/{SHA256}": SHA256,
        f"{REPO}/refs/main": COMMIT,
        f"{REPO}/snapshots/{COMMIT}/BF16/deep/m.gguf": f"-> ../../../../blobs/{SHA256}",
    }


def test_the_cache_is_tagged_as_huggingface_hub_tags_it(tmp_path: Path) -> None:
    from huggingface_hub._local_folder import CACHEDIR_TAG_CONTENT

    cache.prepare_repo(tmp_path, "o/n")
    assert (tmp_path / "CACHEDIR.TAG").read_text() == CACHEDIR_TAG_CONTENT
    (tmp_path / "CACHEDIR.TAG").write_text("mine")
    cache.prepare_repo(tmp_path, "o/n")
    assert (tmp_path / "CACHEDIR.TAG").read_text() == "mine"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_decides_the_permissions(tmp_path: Path, umask: int, mode: int) -> None:
    os.umask(umask)
    etag = hashlib.sha256(CONTENT).hexdigest()
    cache.prepare_repo(tmp_path, "o/n")
    partial = cache.blob_path(tmp_path, "o/n", etag).with_suffix(".1.part")
    partial.touch(0o600)
    partial.write_bytes(CONTENT)
    path = cache.publish_blob(
        tmp_path, repo_id="o/n", commit_hash=COMMIT, filename="m.gguf", etag=etag, verified=partial
    )
    cache.write_ref(tmp_path, "o/n", "main", COMMIT)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / REPO / "refs/main").stat().st_mode) == mode


def test_a_second_revision_of_the_same_bytes_is_one_blob(tmp_path: Path) -> None:
    publish(tmp_path)
    path = cache.link_blob(tmp_path, repo_id="o/n", commit_hash=OTHER_COMMIT, filename="m.gguf", etag=SHA256)
    cache.write_ref(tmp_path, "o/n", "refs/pr/1", OTHER_COMMIT)
    assert path.read_bytes() == CONTENT
    assert [blob.name for blob in (tmp_path / REPO / "blobs").iterdir()] == [SHA256]
    assert (tmp_path / REPO / "refs/refs/pr/1").read_bytes() == OTHER_COMMIT.encode()


def test_publishing_twice_is_publishing_once(tmp_path: Path) -> None:
    publish(tmp_path)
    before = tree(tmp_path)
    publish(tmp_path)
    assert tree(tmp_path) == before


def test_a_commit_as_revision_needs_no_ref(tmp_path: Path) -> None:
    publish(tmp_path, revision=COMMIT)
    assert not (tmp_path / REPO / "refs").exists()
    assert cache.find_snapshot_file(tmp_path, "o/n", COMMIT, "m.gguf")


def test_a_ref_moves_on(tmp_path: Path) -> None:
    publish(tmp_path)
    publish(tmp_path, content=CONTENT + b"2", commit_hash=OTHER_COMMIT)
    assert cache.read_ref(tmp_path, "o/n", "main") == OTHER_COMMIT


def test_a_blob_in_the_shared_store_is_left_alone(tmp_path: Path) -> None:
    shared = tmp_path / "blobs/ab/abcd"
    shared.parent.mkdir(parents=True)
    shared.write_bytes(CONTENT)
    shared.chmod(0o444)
    cache.prepare_repo(tmp_path, "o/n")
    blob = cache.blob_path(tmp_path, "o/n", SHA256)
    blob.symlink_to("../../blobs/ab/abcd")
    path = publish(tmp_path)
    assert os.readlink(blob) == "../../blobs/ab/abcd"
    assert path.read_bytes() == CONTENT
    assert stat.S_IMODE(shared.stat().st_mode) == 0o444
    assert [entry.name for entry in blob.parent.iterdir()] == [SHA256]


@pytest.mark.parametrize("state", ["dangling", "another size"])
def test_a_shared_blob_that_is_no_use_is_replaced_not_written_through(tmp_path: Path, state: str) -> None:
    shared = tmp_path / "blobs/ab/abcd"
    shared.parent.mkdir(parents=True)
    cache.prepare_repo(tmp_path, "o/n")
    blob = cache.blob_path(tmp_path, "o/n", SHA256)
    blob.symlink_to("../../blobs/ab/abcd")
    if state == "another size":
        shared.write_bytes(b"short")
    path = publish(tmp_path)
    assert not blob.is_symlink()
    assert path.read_bytes() == CONTENT
    assert state == "dangling" or shared.read_bytes() == b"short"


def test_an_open_reader_keeps_its_bytes_when_a_blob_is_replaced(tmp_path: Path) -> None:
    path = publish(tmp_path)
    with path.open("rb") as reader:
        publish(tmp_path)
        assert reader.read() == CONTENT


def test_without_symlinks_the_file_itself_is_in_the_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_symlinks(monkeypatch)
    path = publish(tmp_path, "BF16/m.gguf")
    assert not path.is_symlink()
    assert path.read_bytes() == CONTENT
    assert list((tmp_path / REPO / "blobs").iterdir()) == []
    publish(tmp_path, "BF16/m.gguf")
    assert path.read_bytes() == CONTENT


def test_without_symlinks_a_blob_that_others_link_to_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linked = publish(tmp_path)
    no_symlinks(monkeypatch)
    copied = publish(tmp_path, commit_hash=OTHER_COMMIT)
    assert linked.read_bytes() == CONTENT
    assert not copied.is_symlink()
    assert copied.read_bytes() == CONTENT


def test_symlinks_become_possible_and_a_wrong_file_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        no_symlinks(context)
        path = publish(tmp_path)
    path.write_bytes(b"rotten")
    assert publish(tmp_path).is_symlink()
    assert path.read_bytes() == CONTENT


def test_the_users_wish_for_no_symlinks_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    assert not publish(tmp_path).is_symlink()


def test_a_lock_that_another_holds_delays_but_does_not_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_LOCK_WAIT_SECONDS", 0.1)
    path = cache.lock_path(tmp_path, "o/n", SHA256)
    path.parent.mkdir(parents=True)
    with FileLock(path):
        assert publish(tmp_path).read_bytes() == CONTENT


def test_the_lock_is_taken_while_publishing_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    replace = os.replace

    def watch(source: Any, target: Any) -> None:
        if Path(target).parent.name != "refs":
            with pytest.raises(TimeoutError):
                FileLock(cache.lock_path(tmp_path, "o/n", SHA256)).acquire(timeout=0)
            seen.append(True)
        replace(source, target)

    monkeypatch.setattr(os, "replace", watch)
    publish(tmp_path)
    assert seen
    with FileLock(cache.lock_path(tmp_path, "o/n", SHA256)).acquire(timeout=0):
        assert stat.S_IMODE(cache.lock_path(tmp_path, "o/n", SHA256).stat().st_mode) == 0o664


def test_many_threads_publishing_one_file_leave_one_sound_file(tmp_path: Path) -> None:
    cache.prepare_repo(tmp_path, "o/n")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            partial = cache.blob_path(tmp_path, "o/n", SHA256).with_suffix(f".w{number}.part")
            partial.write_bytes(CONTENT)
            about = {"repo_id": "o/n", "commit_hash": COMMIT, "filename": "m.gguf", "etag": SHA256}
            cache.publish_blob(tmp_path, **about, verified=partial)
            cache.write_ref(tmp_path, "o/n", "main", COMMIT)
        except StorageError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [entry.name for entry in (tmp_path / REPO / "blobs").iterdir()] == [SHA256]
    assert cache.find_snapshot_file(tmp_path, "o/n", "main", "m.gguf")


@pytest.mark.parametrize("step", range(1, 12))
def test_a_crash_between_any_two_steps_leaves_a_sound_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Each system call that changes the disk is the last one before the power fails; then it is done again."""

    class PowerFailure(BaseException):
        pass

    left = step

    def failing(name: str) -> Any:
        original = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise PowerFailure
            return original(*args, **kwargs)

        return call

    publish(tmp_path, "other.gguf", content=b"GGUF other", commit_hash=OTHER_COMMIT)
    with monkeypatch.context() as context:
        for name in ("replace", "symlink", "fsync"):
            context.setattr(os, name, failing(name))
        context.setattr(Path, "unlink", lambda *_args, **_kwargs: None)
        try:
            publish(tmp_path)
        except PowerFailure:
            pass
        else:
            assert step > 8
    from huggingface_hub import scan_cache_dir

    assert scan_cache_dir(tmp_path).warnings == []
    blob = cache.blob_path(tmp_path, "o/n", SHA256)
    assert not blob.exists() or blob.read_bytes() == CONTENT
    for ref in ("main",):
        commit_hash = cache.read_ref(tmp_path, "o/n", ref)
        assert commit_hash is None or (tmp_path / REPO / "snapshots" / commit_hash).is_dir()
    assert publish(tmp_path).read_bytes() == CONTENT


def test_what_a_crash_left_is_swept_after_a_day(tmp_path: Path) -> None:
    cache.prepare_repo(tmp_path, "o/n")
    blobs = tmp_path / REPO / "blobs"
    old, new, foreign = blobs / f"{'0' * 32}.tmp", blobs / f"{'1' * 32}.tmp", blobs / "mine.tmp"
    for path in (old, new, foreign):
        path.touch()
    os.utime(old, (0, 0))
    os.utime(foreign, (0, 0))
    publish(tmp_path)
    assert {path.name for path in blobs.iterdir()} == {new.name, SHA256, foreign.name}


# --- finding ----------------------------------------------------------------------------------------------------------


def test_files_are_found_by_branch_and_by_commit(tmp_path: Path) -> None:
    path = publish(tmp_path)
    assert cache.find_snapshot_file(tmp_path, "o/n", "main", "m.gguf") == path
    assert cache.find_snapshot_file(tmp_path, "o/n", COMMIT, "m.gguf") == path
    assert cache.find_snapshot_file(tmp_path, "o/n", "other", "m.gguf") is None
    assert cache.find_snapshot_file(tmp_path, "o/n", "main", "x.gguf") is None
    assert cache.find_snapshot_file(tmp_path, "x/y", "main", "m.gguf") is None
    cache.blob_path(tmp_path, "o/n", SHA256).unlink()
    assert cache.find_snapshot_file(tmp_path, "o/n", "main", "m.gguf") is None


def test_a_ref_with_a_newline_is_read_and_nonsense_is_not(tmp_path: Path) -> None:
    publish(tmp_path)
    ref = tmp_path / REPO / "refs/main"
    ref.write_text(f"{COMMIT}\n")
    assert cache.read_ref(tmp_path, "o/n", "main") == COMMIT
    for nonsense in (b"", b"main", b"\xff" * 40, b"../../../etc", COMMIT.encode() * 2):
        ref.write_bytes(nonsense)
        assert cache.read_ref(tmp_path, "o/n", "main") is None


def test_an_empty_or_missing_cache_has_no_models(tmp_path: Path) -> None:
    assert cache.list_models(tmp_path) == ()
    assert cache.list_models(tmp_path / "missing") == ()


def test_every_gguf_of_every_snapshot_is_listed(tmp_path: Path) -> None:
    publish(tmp_path, "b.gguf")
    publish(tmp_path, "BF16/a.GGUF", content=CONTENT + b"a")
    publish(tmp_path, "config.json", content=b"{}")
    publish(tmp_path, "b.gguf", commit_hash=OTHER_COMMIT, revision=OTHER_COMMIT)
    publish(tmp_path, "m.gguf", repo_id="gpt2", revision="v1")
    files = cache.list_models(tmp_path)
    assert [(file.repo_id, file.commit_hash[0], file.filename, file.revisions) for file in files] == [
        ("gpt2", "a", "m.gguf", ("v1",)),
        ("o/n", "a", "BF16/a.GGUF", ("main",)),
        ("o/n", "a", "b.gguf", ("main",)),
        ("o/n", "b", "b.gguf", ()),
    ]
    assert files[2].size == len(CONTENT)
    assert files[2].sha256 == SHA256
    assert files[2].blob_path == cache.blob_path(tmp_path, "o/n", SHA256)
    assert files[2].path.read_bytes() == CONTENT


def test_a_file_without_a_blob_has_no_known_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_symlinks(monkeypatch)
    path = publish(tmp_path)
    (file,) = cache.list_models(tmp_path)
    assert (file.blob_path, file.sha256, file.size) == (path, None, len(CONTENT))


def test_what_is_no_cache_entry_is_passed_over(tmp_path: Path) -> None:
    publish(tmp_path)
    snapshots = tmp_path / REPO / "snapshots"
    (snapshots / COMMIT / "dangling.gguf").symlink_to("../../blobs/nothing")
    (snapshots / COMMIT / "circle.gguf").symlink_to("circle.gguf")
    (snapshots / COMMIT / "folder.gguf").mkdir()
    (snapshots / COMMIT / "new\nline.gguf").write_bytes(CONTENT)
    (snapshots / COMMIT / os.fsdecode(b"\xff.gguf")).write_bytes(CONTENT)
    (snapshots / "not-a-commit").mkdir()
    (snapshots / "not-a-commit/m.gguf").write_bytes(CONTENT)
    for name in ("datasets--o--n", "models--", "models--a--b--c--d", "models--o--.n", "blobs", "models"):
        (tmp_path / name / "snapshots" / COMMIT).mkdir(parents=True)
        (tmp_path / name / "snapshots" / COMMIT / "m.gguf").write_bytes(CONTENT)
    (tmp_path / "models--file").write_bytes(b"")
    assert [file.filename for file in cache.list_models(tmp_path)] == ["m.gguf"]


# --- removing ---------------------------------------------------------------------------------------------------------


def remove(cache_dir: Path, *filenames: str, commit_hash: str = COMMIT, repo_id: str = "o/n") -> int:
    return cache.remove(cache_dir, repo_id=repo_id, commit_hash=commit_hash, filenames=filenames)


def test_removing_the_last_file_leaves_no_trace(tmp_path: Path) -> None:
    publish(tmp_path, "BF16/m.gguf")
    assert remove(tmp_path, "BF16/m.gguf") == len(CONTENT)
    assert not (tmp_path / REPO).exists()
    assert remove(tmp_path, "BF16/m.gguf") == 0


def test_removing_one_of_two_files_keeps_the_other(tmp_path: Path) -> None:
    publish(tmp_path, "a.gguf")
    kept = publish(tmp_path, "b.gguf", content=CONTENT + b"b")
    assert remove(tmp_path, "a.gguf") == len(CONTENT)
    assert kept.read_bytes() == CONTENT + b"b"
    assert cache.read_ref(tmp_path, "o/n", "main") == COMMIT
    assert len(list((tmp_path / REPO / "blobs").iterdir())) == 1


def test_bytes_that_another_snapshot_has_stay(tmp_path: Path) -> None:
    publish(tmp_path)
    kept = publish(tmp_path, commit_hash=OTHER_COMMIT)
    assert remove(tmp_path, "m.gguf") == 0
    assert kept.read_bytes() == CONTENT
    assert not (tmp_path / REPO / "snapshots" / COMMIT).exists()
    assert remove(tmp_path, "m.gguf", commit_hash=OTHER_COMMIT) == len(CONTENT)
    assert not (tmp_path / REPO).exists()


def test_one_file_under_two_names_is_freed_once(tmp_path: Path) -> None:
    publish(tmp_path, "a.gguf")
    publish(tmp_path, "b.gguf")
    assert remove(tmp_path, "a.gguf", "b.gguf") == len(CONTENT)


def test_a_running_downloads_partial_stays(tmp_path: Path) -> None:
    publish(tmp_path)
    partial = cache.blob_path(tmp_path, "o/n", "c" * 64).with_suffix(".1.part")
    partial.write_bytes(b"half")
    assert remove(tmp_path, "m.gguf") == len(CONTENT)
    assert partial.read_bytes() == b"half"
    assert not (tmp_path / REPO / "refs/main").exists()


def test_huggingface_hubs_notes_on_a_snapshot_go_with_it(tmp_path: Path) -> None:
    publish(tmp_path)
    (tmp_path / REPO / "trees").mkdir()
    (tmp_path / REPO / "trees" / f"{COMMIT}.json").write_text("{}")
    (tmp_path / REPO / ".no_exist" / COMMIT).mkdir(parents=True)
    (tmp_path / REPO / ".no_exist" / COMMIT / "x.json").touch()
    remove(tmp_path, "m.gguf")
    assert not (tmp_path / REPO).exists()


def test_a_file_without_a_blob_is_removed_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_symlinks(monkeypatch)
    publish(tmp_path)
    assert remove(tmp_path, "m.gguf") == len(CONTENT)
    assert not (tmp_path / REPO).exists()


def test_a_dangling_link_is_removed(tmp_path: Path) -> None:
    path = publish(tmp_path)
    cache.blob_path(tmp_path, "o/n", SHA256).unlink()
    assert remove(tmp_path, "m.gguf") == 0
    assert not path.is_symlink()


def test_two_removals_that_wait_for_the_same_lock_both_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_LOCK_WAIT_SECONDS", PATIENCE_SECONDS)
    publish(tmp_path)
    waiting = threading.Barrier(3)
    publishing_lock = cache._publishing_lock

    def lock_together(*args: Any) -> Any:
        waiting.wait(PATIENCE_SECONDS)
        return publishing_lock(*args)

    monkeypatch.setattr(cache, "_publishing_lock", lock_together)
    with ThreadPoolExecutor() as threads:
        with FileLock(cache.lock_path(tmp_path, "o/n", SHA256)):
            removals = [threads.submit(remove, tmp_path, "m.gguf") for _ in range(2)]
            waiting.wait(PATIENCE_SECONDS)
        assert sorted(removal.result() for removal in removals) == [0, len(CONTENT)]
    assert not (tmp_path / REPO).exists()


def test_nothing_outside_the_cache_is_removed(tmp_path: Path) -> None:
    cache_dir, outside = tmp_path / "hub", tmp_path / "mine"
    outside.mkdir()
    (outside / "m.gguf").write_bytes(CONTENT)
    publish(cache_dir, "other.gguf")
    snapshot = cache_dir / REPO / "snapshots" / COMMIT
    (snapshot / "m.gguf").symlink_to(outside / "m.gguf")
    (snapshot / "folder").symlink_to(outside)
    assert remove(cache_dir, "m.gguf") == 0
    assert not (snapshot / "m.gguf").is_symlink()
    with pytest.raises(StorageError, match="links outside the cache"):
        remove(cache_dir, "other.gguf", "folder/m.gguf")
    assert (snapshot / "other.gguf").exists()
    for filename in ("../m.gguf", "/m.gguf", "../../../../mine/m.gguf"):
        with pytest.raises(InvalidRequestError):
            remove(cache_dir, filename)
    assert (outside / "m.gguf").read_bytes() == CONTENT


def test_empty_folders_elsewhere_are_not_removed_by_way_of_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "mine" / "empty"
    outside.mkdir(parents=True)
    for link in (f"snapshots/{COMMIT}", f"snapshots/{OTHER_COMMIT}/folder", "blobs", "refs", "trees"):
        cache_dir = tmp_path / "hub"
        path = cache_dir / REPO / link
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(outside.parent)
        for commit_hash in (COMMIT, OTHER_COMMIT):
            with contextlib.suppress(StorageError):
                assert remove(cache_dir, "m.gguf", commit_hash=commit_hash) == 0
        assert outside.is_dir()
        path.unlink()


def test_a_repository_moved_to_another_disk_by_a_link_is_cleaned(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / REPO).symlink_to(tmp_path / "disk")
    publish(tmp_path / "hub")
    assert remove(tmp_path / "hub", "m.gguf") == len(CONTENT)
    assert tree(tmp_path / "disk") == {}


def test_a_cache_reached_through_a_link_is_cleaned_as_well(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "hub").symlink_to("disk")
    publish(tmp_path / "hub")
    assert remove(tmp_path / "hub", "m.gguf") == len(CONTENT)
    assert not (tmp_path / "disk" / REPO).exists()


# --- names and failures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda root: cache.repo_dir(root, "../x"),
        lambda root: cache.blob_path(root, "o/n", "../../x"),
        lambda root: cache.blob_path(root, "o/n", SHA256.upper()),
        lambda root: cache.blob_path(root, "o/n", f"{SHA256}\n"),
        lambda root: cache.snapshot_path(root, "o/n", "main", "m.gguf"),
        lambda root: cache.snapshot_path(root, "o/n", COMMIT, "../m.gguf"),
        lambda root: cache.ref_path(root, "o/n", "../main"),
        lambda root: cache.lock_path(root, "o/n", "x/y"),
        lambda root: cache.find_snapshot_file(root, "o/n", "../../x", "m.gguf"),
        lambda root: cache.write_ref(root, "o/n", "main", "x"),
    ],
)
def test_no_name_leads_out_of_the_cache(tmp_path: Path, call: Any) -> None:
    with pytest.raises(InvalidRequestError):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, DiskFullError),
        (errno.EDQUOT, DiskFullError),
        (errno.EROFS, PermissionDeniedError),
        (errno.EACCES, PermissionDeniedError),
        (errno.EIO, StorageError),
    ],
)
def test_a_failing_disk_is_told_and_the_partial_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[StorageError]
) -> None:
    def fail(*_args: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as context:
        context.setattr(os, "replace", fail)
        with pytest.raises(expected):
            publish(tmp_path)
    assert cache.blob_path(tmp_path, "o/n", SHA256).with_suffix(".0af1.part").read_bytes() == CONTENT
    assert not cache.blob_path(tmp_path, "o/n", SHA256).exists()


def test_a_file_where_the_cache_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file")
    with pytest.raises(StorageError, match="HF_HUB_CACHE"):
        cache.prepare_repo(tmp_path / "hub", "o/n")
