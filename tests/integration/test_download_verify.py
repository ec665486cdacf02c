"""Verifying files in the cache, whichever program put them there, and repairing them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from modeldeck._errors import IntegrityError, ModelDeckError, error_from_info
from modeldeck._settings import Settings
from modeldeck._types import DownloadSnapshot, DownloadState, LocalModel, VerifiedFile
from modeldeck.engine.verify import repair_request, repaired_files, verify_files
from modeldeck.hub import cache
from modeldeck.hub.client import HubClient
from tests.waiting import PATIENCE_SECONDS
from tools.localhub.faults import FlipBit

if TYPE_CHECKING:
    from conftest import Playground

pytestmark = pytest.mark.anyio


@pytest.fixture
async def hub(playground: Playground) -> AsyncIterator[HubClient]:
    client = HubClient(Settings(endpoint=playground.hub.endpoint, cache_dir=playground.cache_dir))
    yield client
    await client.aclose()


@pytest.fixture
async def model(playground: Playground) -> LocalModel:
    playground.assert_exact(await playground.download())
    playground.hub.requests.clear()
    return LocalModel(
        repo_id=playground.repo_id,
        commit_hash=playground.commit_hash,
        variant_id=playground.filename,
        label="Q4_K_M",
        filenames=(playground.filename,),
        path=playground.pointer,
        paths=(playground.pointer,),
    )


async def repair(playground: Playground, model: LocalModel, hub: HubClient) -> tuple[VerifiedFile, ...]:
    """Do what `Session.verify` does, with an engine in this process, and hash the files once more."""
    files = await verify_files(model, hub=lambda: hub)
    async with playground.manager() as manager:
        job = await manager.submit(repair_request(model, files, endpoint=playground.hub.endpoint))
        done = await manager.wait(job.job_id)
    if done.error is not None:
        raise error_from_info(done.error)
    files = repaired_files(files, done)
    again = await verify_files(model, hub=lambda: hub)
    assert [(file.actual, file.expected) for file in again] == [(file.actual, file.expected) for file in files]
    return files


async def test_a_sound_file_needs_no_network(playground: Playground, model: LocalModel, hub: HubClient) -> None:
    seen: list[tuple[int, int]] = []
    (file,) = await verify_files(model, hub=lambda: hub, progress=lambda *values: seen.append(values))
    assert file.is_valid
    assert file.expected == file.actual == playground.sha256
    size = len(playground.content)
    assert seen[-1] == (size, size)
    assert [hashed for hashed, _ in seen] == sorted(hashed for hashed, _ in seen)
    assert len(playground.hub.requests) == 0


async def test_damage_is_found_and_only_with_repair_mended(
    playground: Playground, model: LocalModel, hub: HubClient
) -> None:
    damaged = bytearray(playground.content)
    damaged[5_000_000] ^= 1
    damaged[20_000_000:20_000_100] = bytes(100)
    playground.blob.write_bytes(damaged)
    (file,) = await verify_files(model, hub=lambda: hub)
    assert file.is_valid is False
    assert playground.blob.read_bytes() == damaged
    (file,) = await repair(playground, model, hub)
    assert file.is_valid
    assert 0 < file.repaired_bytes <= 4 << 20
    assert playground.pointer.read_bytes() == playground.content
    assert playground.left_overs() == []


@pytest.mark.parametrize("size", [0, 1000, 30 << 20])
async def test_a_file_of_another_size_is_mended(
    playground: Playground, model: LocalModel, hub: HubClient, size: int
) -> None:
    os.truncate(playground.blob, size)
    (file,) = await repair(playground, model, hub)
    assert file.is_valid
    assert playground.pointer.read_bytes() == playground.content


async def test_a_real_file_in_the_snapshot(playground: Playground, model: LocalModel, hub: HubClient) -> None:
    """Windows and some other programs put the file itself into the snapshot. Then the Hub is asked for the digest."""
    damaged = playground.content[:-1] + b"x"
    playground.pointer.unlink()
    playground.blob.unlink()
    playground.pointer.write_bytes(damaged)
    (file,) = await verify_files(model, hub=lambda: hub)
    assert file.is_valid is False
    assert file.expected == playground.sha256
    (file,) = await repair(playground, model, hub)
    assert file.is_valid
    assert playground.pointer.read_bytes() == playground.content


async def test_the_shared_store_of_huggingface_hub_is_not_written_to(
    playground: Playground, model: LocalModel, hub: HubClient
) -> None:
    payload = playground.cache_dir / "blobs" / "ab" / ("ab" * 32)
    payload.parent.mkdir(parents=True)
    playground.blob.unlink()
    damaged = playground.content[:-1] + b"x"
    payload.write_bytes(damaged)
    payload.chmod(0o444)
    playground.blob.symlink_to(Path("..", "..", "blobs", "ab", payload.name))
    (file,) = await repair(playground, model, hub)
    assert file.is_valid
    assert payload.read_bytes() == damaged
    assert playground.pointer.read_bytes() == playground.content


async def test_a_server_that_is_wrong_itself(playground: Playground, model: LocalModel, hub: HubClient) -> None:
    playground.blob.write_bytes(playground.content[:-1] + b"x")
    playground.hub.faults.add(FlipBit(offset=1000), origin="cdn")
    with pytest.raises(IntegrityError) as caught:
        await repair(playground, model, hub)
    assert caught.value.details["expected"] == playground.sha256
    assert not playground.blob.exists()


async def test_a_repair_without_network_leaves_the_file_where_it_was(
    playground: Playground, model: LocalModel, hub: HubClient
) -> None:
    damaged = playground.content[:-1] + b"x"
    playground.blob.write_bytes(damaged)
    playground.hub.stop()
    with pytest.raises(ModelDeckError), anyio.fail_after(PATIENCE_SECONDS):
        await repair(playground, model, hub)
    assert playground.blob.read_bytes() == damaged
    playground.blob.unlink()


async def test_a_check_can_be_cancelled(model: LocalModel, hub: HubClient) -> None:
    with anyio.CancelScope() as scope:
        await verify_files(model, hub=lambda: hub, progress=lambda *_: scope.cancel())
        pytest.fail("it went on")
    assert scope.cancelled_caught


# --- files that another program put into the cache --------------------------------------------------------------------


def put(playground: Playground, content: bytes) -> None:
    """Put a file into the cache under the name that the right content has."""
    cache.prepare_repo(playground.cache_dir, playground.repo_id)
    draft = playground.repo_dir / "blobs" / "draft"
    draft.write_bytes(content)
    cache.publish_blob(
        playground.cache_dir,
        repo_id=playground.repo_id,
        commit_hash=playground.commit_hash,
        filename=playground.filename,
        etag=playground.sha256,
        verified=draft,
    )


async def download(playground: Playground) -> tuple[DownloadSnapshot, bool]:
    """Download, and return whether the state was ever ``verifying``."""
    seen: list[DownloadState] = []
    async with playground.manager(blocks_dir=playground.state_dir / "blocks") as manager:
        manager.subscribe(lambda snapshot: seen.append(snapshot.state))
        job = await manager.submit(playground.request())
        done = await manager.wait(job.job_id)
    return done, DownloadState.VERIFYING in seen


async def test_a_file_of_another_program_is_verified_once(playground: Playground) -> None:
    put(playground, playground.content)
    for was_verified in (True, False):
        done, has_verified = await download(playground)
        playground.assert_exact(done)
        assert done.bytes_fetched == 0
        assert has_verified is was_verified
    playground.blob.write_bytes(playground.content)
    _, has_verified = await download(playground)
    assert has_verified, "it was written since"


@pytest.mark.parametrize("is_known", [False, True])
async def test_a_download_mends_a_damaged_file_of_another_program(playground: Playground, is_known: bool) -> None:
    if is_known:
        put(playground, playground.content)
        playground.assert_exact((await download(playground))[0])
    damaged = bytearray(playground.content)
    damaged[17 << 20] ^= 1
    put(playground, bytes(damaged))
    done, _ = await download(playground)
    playground.assert_exact(done)
    assert 0 < done.bytes_fetched <= (2 << 20 if is_known else 2 * len(damaged))


async def test_a_download_of_a_damaged_file_without_the_hub_says_so(playground: Playground) -> None:
    damaged = playground.content[:-1] + b"x"
    put(playground, damaged)
    playground.hub.stop()
    failed, _ = await download(playground)
    assert failed.error is not None
    assert failed.error.code == "integrity"
    assert "verify --repair" in failed.error.message
    assert playground.blob.read_bytes() == damaged, "nothing is touched before the Hub answers"
    playground.blob.unlink()


async def test_a_link_to_another_blob_is_replaced_and_the_blob_left_alone(playground: Playground) -> None:
    put(playground, playground.content)
    other = playground.repo_dir / "blobs" / ("ab" * 20)
    other.write_bytes(b"GGUF of another file")
    playground.pointer.unlink()
    playground.pointer.symlink_to(f"../../blobs/{other.name}")
    playground.blob.unlink()
    done, _ = await download(playground)
    assert done.state is DownloadState.READY
    assert playground.pointer.read_bytes() == playground.content
    assert other.read_bytes() == b"GGUF of another file"
