"""Which finished downloads the list on disk keeps."""

import json
import time
from pathlib import Path

import msgspec
import pytest

from modeldeck._types import DownloadRequest, DownloadState, GGUFFile
from modeldeck.engine.store import MAX_FINISHED, MAX_FINISHED_SECONDS, Finish, JobStore, StoredJob

REQUEST = DownloadRequest(
    repo_id="owner/name",
    revision="main",
    commit_hash="c" * 40,
    variant_id="m.gguf",
    label="m",
    files=(GGUFFile(filename="m.gguf", size=10),),
    endpoint="https://hub.invalid",
    cache_dir="/cache",
)


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path)


def stored(number: int, *, finished_at: float | None = None, state: DownloadState = DownloadState.READY) -> StoredJob:
    finish = None
    if finished_at is not None:
        finish = Finish(at=finished_at, commit_hash="c" * 40, received=10, total=10, bytes_fetched=10)
    return StoredJob(job_id=f"{number:032x}", request=REQUEST, state=state, created_at=float(number), finish=finish)


def test_what_is_kept_comes_back(store: JobStore) -> None:
    jobs = [stored(1, state=DownloadState.PAUSED), stored(2, finished_at=time.time())]
    for job in jobs:
        store.save(job)
    assert store.load() == jobs


def test_what_an_earlier_version_kept_comes_back(store: JobStore, tmp_path: Path) -> None:
    store.save(stored(1, state=DownloadState.PAUSED))
    (path,) = tmp_path.iterdir()
    values = json.loads(path.read_bytes())
    for name in ("turn", "partial_names"):
        del values[name]
    path.write_text(json.dumps(values))
    (job,) = store.load()
    assert job.partial_names == ()


@pytest.mark.parametrize("name", ["*", "../../model", "a/b", ""])
def test_a_name_that_no_partial_file_has_is_not_believed(store: JobStore, name: str) -> None:
    store.save(msgspec.structs.replace(stored(1, state=DownloadState.PAUSED), partial_names=(name,)))
    assert store.load() == []


@pytest.mark.parametrize("damage", [b"", bytes(500), b'{"job_id"', b'{"job_id": "\xff"}', b"\xff" * 500])
def test_a_damaged_file_costs_its_own_download_only(store: JobStore, tmp_path: Path, damage: bytes) -> None:
    store.save(stored(1, state=DownloadState.PAUSED))
    store.save(stored(2, state=DownloadState.PAUSED))
    next(tmp_path.glob(f"{1:032x}*")).write_bytes(damage)
    assert [job.created_at for job in store.load()] == [2]


def test_only_the_newest_finished_are_kept(store: JobStore, tmp_path: Path) -> None:
    now = time.time()
    for number in range(MAX_FINISHED + 5):
        store.save(stored(number, finished_at=now - number))
    kept = [f"{number:032x}" for number in range(MAX_FINISHED)]
    assert [job.job_id for job in store.load()] == kept
    assert len(list(tmp_path.iterdir())) == MAX_FINISHED
    assert [job.job_id for job in store.load()] == kept


def test_finished_ones_are_forgotten_when_they_are_old(store: JobStore, tmp_path: Path) -> None:
    now = time.time()
    store.save(stored(1, finished_at=now - MAX_FINISHED_SECONDS - 60))
    store.save(stored(2, finished_at=now - MAX_FINISHED_SECONDS + 60))
    store.save(stored(3, finished_at=now + 1e6))  # the clock was put back since
    assert [job.created_at for job in store.load()] == [2, 3]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("state", [DownloadState.PAUSED, DownloadState.FAILED, DownloadState.DOWNLOADING])
def test_unfinished_ones_are_kept_whatever_their_number_and_age(store: JobStore, state: DownloadState) -> None:
    for number in range(MAX_FINISHED + 5):
        store.save(stored(number, state=state))
    assert len(store.load()) == MAX_FINISHED + 5
