"""Repairs: jobs of the engine that fetch only the blocks that are bad, and never believe a record of blocks."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest
import xxhash

from modeldeck._errors import IntegrityError, ServerError, error_from_info
from modeldeck._settings import Settings
from modeldeck._types import DownloadRequest, DownloadSnapshot, DownloadState, LocalModel, VerifiedFile
from modeldeck.engine import partial
from modeldeck.engine.block_digests import BlockDigestStore
from modeldeck.engine.journal import Block, encode_block, parse_blocks
from modeldeck.engine.plan import RangeSet
from modeldeck.engine.verify import repair_request, repaired_files, verify_files
from modeldeck.hub.client import HubClient
from tools.localhub.faults import FlipBit, Throttle

if TYPE_CHECKING:
    from conftest import Playground, Until

pytestmark = pytest.mark.anyio

MIB = 1 << 20


class Workshop:
    """A downloaded file with the record of its blocks, which can be damaged and repaired."""

    def __init__(self, playground: Playground, hub: HubClient) -> None:
        self.playground = playground
        self.hub = hub
        self.blocks_dir = playground.state_dir / "blocks"
        self.record = self.blocks_dir / f"{playground.sha256}.blocks"
        self.size = len(playground.content)
        self.model = LocalModel(
            repo_id=playground.repo_id,
            commit_hash=playground.commit_hash,
            variant_id=playground.filename,
            label="Q4_K_M",
            filenames=(playground.filename,),
            path=playground.pointer,
            paths=(playground.pointer,),
        )

    async def request(self) -> DownloadRequest:
        """Return the request that repairs the file as it is now."""
        files = await verify_files(self.model, hub=lambda: self.hub, blocks_dir=self.blocks_dir)
        return repair_request(self.model, files, endpoint=self.playground.hub.endpoint)

    def blocks(self) -> list[Block]:
        return parse_blocks(self.record.read_bytes().split(b"\n"), self.size)[0]

    def write_blocks(self, blocks: list[Block]) -> None:
        self.record.write_bytes(b"".join(encode_block(block) for block in blocks))

    def flip(self, *offsets: int) -> None:
        with self.playground.blob.open("r+b") as file:
            for offset in offsets:
                file.seek(offset)
                file.write(bytes([self.playground.content[offset] ^ 1]))

    async def verify(self, *, repair: bool = True) -> VerifiedFile:
        """Do what `Session.verify` does, with an engine in this process."""
        files = await verify_files(self.model, hub=lambda: self.hub, blocks_dir=self.blocks_dir)
        if repair and files[0].is_valid is False:
            request = repair_request(self.model, files, endpoint=self.playground.hub.endpoint)
            async with self.playground.manager(blocks_dir=self.blocks_dir) as manager:
                job = await manager.submit(request)
                done = await manager.wait(job.job_id)
            if done.error is not None:
                raise error_from_info(done.error)
            files = repaired_files(files, done)
        (file,) = files
        return file

    async def repair(self) -> tuple[int, int]:
        """Repair the file, and return the bytes that were fetched and the bytes that were replaced."""
        self.playground.hub.requests.clear()
        file = await self.verify()
        assert file.is_valid
        assert self.playground.pointer.read_bytes() == self.playground.content
        assert self.playground.left_overs() == []
        return sum(record.bytes_sent for record in self.playground.hub.requests.to("cdn")), file.repaired_bytes

    def asked(self) -> RangeSet:
        """Return the parts of the file that were requested from the storage.

        It may have sent more than that, and part of it twice, where one connection took over the rest of another.
        """
        ranges = [record.range or "" for record in self.playground.hub.requests.to("cdn")]
        edges = [[int(edge) for edge in text.removeprefix("bytes=").split("-")] for text in ranges]
        return RangeSet((first, last + 1) for first, last in edges)

    def assert_good_record(self) -> None:
        """Assert that the record covers the file and is right."""
        content = self.playground.content
        blocks = BlockDigestStore(self.blocks_dir).load(self.playground.sha256, self.size)
        assert sum(block.length for block in blocks) == self.size
        for block in blocks:
            assert xxhash.xxh3_64_intdigest(content[block.start : block.stop]) == block.xxh3
        assert [path.name for path in self.blocks_dir.iterdir()] == [self.record.name]


@pytest.fixture
async def workshop(playground: Playground) -> AsyncIterator[Workshop]:
    client = HubClient(Settings(endpoint=playground.hub.endpoint, cache_dir=playground.cache_dir))
    workshop = Workshop(playground, client)
    playground.assert_exact(await playground.download(blocks_dir=workshop.blocks_dir))
    workshop.assert_good_record()
    yield workshop
    await client.aclose()


async def test_flipped_bits_cost_their_blocks_only(workshop: Workshop) -> None:
    workshop.flip(17 * MIB + 5)
    fetched, replaced = await workshop.repair()
    assert 0 < fetched <= 2 * MIB
    assert 0 < replaced <= fetched
    workshop.assert_good_record()
    workshop.flip(0, 12 * MIB, workshop.size - 1)
    fetched, replaced = await workshop.repair()
    assert 0 < fetched <= 6 * MIB
    assert 0 < replaced <= fetched
    workshop.assert_good_record()


async def test_what_lies_between_neighbours_is_fetched_with_them(workshop: Workshop) -> None:
    workshop.flip(*range(4 * MIB, 12 * MIB, 2 * MIB))
    fetched, replaced = await workshop.repair()
    assert len(workshop.asked()) == 1
    assert 6 * MIB < workshop.asked().total <= 10 * MIB
    assert 0 < replaced < fetched
    workshop.assert_good_record()


@pytest.mark.parametrize("size", [1000, 20 * MIB + 7])
async def test_a_truncated_file_gets_its_end_again(workshop: Workshop, size: int) -> None:
    os.truncate(workshop.playground.blob, size)
    fetched, replaced = await workshop.repair()
    lost = workshop.size - size
    assert lost <= workshop.asked().total <= lost + 2 * MIB
    assert lost <= replaced <= fetched
    workshop.assert_good_record()


async def test_a_file_that_grew_is_cut_and_fetches_nothing(workshop: Workshop) -> None:
    with workshop.playground.blob.open("ab") as file:
        file.write(b"x" * 3 * MIB)
    assert await workshop.repair() == (0, 0)
    workshop.assert_good_record()


async def test_a_region_of_zeros(workshop: Workshop) -> None:
    with workshop.playground.blob.open("r+b") as file:
        file.seek(10 * MIB + 3)
        file.write(bytes(3 * MIB))
    fetched, replaced = await workshop.repair()
    assert 3 * MIB <= replaced <= fetched
    assert workshop.asked().total <= 7 * MIB


async def test_a_file_in_the_snapshot_itself(workshop: Workshop) -> None:
    """On Windows the snapshot has the file itself."""
    place = workshop.playground
    place.pointer.unlink()
    workshop.flip(17 * MIB)
    place.blob.rename(place.pointer)
    fetched, _ = await workshop.repair()
    assert 0 < fetched <= 2 * MIB


async def test_without_a_record_all_is_fetched_and_compared_once(workshop: Workshop) -> None:
    shutil.rmtree(workshop.blocks_dir)
    workshop.flip(17 * MIB)
    fetched, replaced = await workshop.repair()
    assert fetched >= workshop.size
    assert 0 < replaced <= MIB
    workshop.assert_good_record()
    workshop.flip(17 * MIB)
    fetched, _ = await workshop.repair()
    assert 0 < fetched <= 2 * MIB


async def test_a_sound_file_of_anybody_gets_a_record(workshop: Workshop) -> None:
    shutil.rmtree(workshop.blocks_dir)
    workshop.flip(17 * MIB)
    assert (await workshop.verify(repair=False)).is_valid is False
    assert not workshop.blocks_dir.exists(), "what is not proven is not kept"
    workshop.playground.blob.write_bytes(workshop.playground.content)
    assert (await workshop.verify(repair=False)).is_valid
    workshop.assert_good_record()
    workshop.flip(17 * MIB)
    fetched, _ = await workshop.repair()
    assert 0 < fetched <= MIB


@pytest.mark.parametrize("name", ["cut", "line", "flipped", "zeros", "empty", "binary", "twice", "folder"])
async def test_a_damaged_record_is_as_good_as_none(workshop: Workshop, name: str) -> None:
    text = workshop.record.read_bytes()
    lines = text.splitlines(keepends=True)
    damaged = {
        "cut": text[:-10],
        "line": b"".join(lines[:-1]),
        "flipped": bytes([text[0] ^ 1]) + text[1:],
        "zeros": text[:100] + bytes(len(text) - 100),
        "empty": b"",
        "binary": os.urandom(1000),
        "twice": text + text,
        "folder": None,
    }[name]
    workshop.record.unlink()
    if damaged is None:
        workshop.record.mkdir()
    else:
        workshop.record.write_bytes(damaged)
    workshop.flip(17 * MIB)
    fetched, _ = await workshop.repair()
    assert fetched >= workshop.size
    if damaged is None:
        assert list(workshop.blocks_dir.iterdir()) == [workshop.record]
    else:
        workshop.assert_good_record()


def overlapping(blocks: list[Block], _: bytes) -> list[Block]:
    return [blocks[0], replace(blocks[0], start=blocks[0].length - 1), *blocks[1:]]


def taken_back(blocks: list[Block], _: bytes) -> list[Block]:
    return [replace(blocks[0], xxh3=None), *blocks[1:]]


def one_block(_: list[Block], bad: bytes) -> list[Block]:
    return [Block(0, len(bad), xxhash.xxh3_64_intdigest(bad))]


def bad_is_good(blocks: list[Block], bad: bytes) -> list[Block]:
    return [replace(block, xxh3=xxhash.xxh3_64_intdigest(bad[block.start : block.stop])) for block in blocks]


def all_wrong(blocks: list[Block], _: bytes) -> list[Block]:
    return [replace(block, xxh3=(block.xxh3 or 0) ^ 1) for block in blocks]


def good_is_bad_and_bad_is_good(blocks: list[Block], bad: bytes) -> list[Block]:
    believed = bad_is_good(blocks, bad)
    return [*all_wrong(blocks[:3], bad), *believed[3:]]


LIES = [overlapping, taken_back, one_block, bad_is_good, all_wrong, good_is_bad_and_bad_is_good]


@pytest.mark.parametrize("lie", LIES)
async def test_a_record_that_lies_costs_time_only(
    workshop: Workshop, lie: Callable[[list[Block], bytes], list[Block]]
) -> None:
    workshop.flip(17 * MIB, 17 * MIB + 9)
    workshop.write_blocks(lie(workshop.blocks(), workshop.playground.blob.read_bytes()))
    _, replaced = await workshop.repair()
    assert workshop.asked().total == workshop.size
    assert 0 < replaced <= 2 * MIB
    workshop.assert_good_record()


async def test_a_record_of_crumbs_is_not_a_request_for_each(workshop: Workshop) -> None:
    """The record says that every second of many tiny blocks is wrong."""
    content, step = workshop.playground.content, 1000
    blocks = [
        Block(start, min(step, workshop.size - start), xxhash.xxh3_64_intdigest(content[start : start + step]))
        for start in range(0, workshop.size, step)
    ]
    workshop.write_blocks([replace(b, xxh3=7) if index % 2 else b for index, b in enumerate(blocks)])
    workshop.flip(17 * MIB)
    _, replaced = await workshop.repair()
    assert 0 < replaced <= MIB
    assert len(workshop.asked()) == 1
    assert len(workshop.playground.hub.requests.to("cdn")) < 50


async def test_a_server_that_is_wrong_where_the_file_is(workshop: Workshop) -> None:
    workshop.flip(17 * MIB)
    workshop.playground.hub.faults.add(FlipBit(offset=17 * MIB), origin="cdn")
    with pytest.raises(IntegrityError) as caught:
        await workshop.verify()
    assert caught.value.details["expected"] == workshop.playground.sha256
    assert caught.value.details["actual"] != workshop.playground.sha256
    assert not workshop.playground.blob.exists()
    workshop.assert_good_record()
    workshop.playground.hub.faults.clear()
    again = await workshop.playground.download(blocks_dir=workshop.blocks_dir)  # takes over what is left of it
    workshop.playground.assert_exact(again)


async def test_a_bit_that_is_wrong_once_on_the_way(workshop: Workshop) -> None:
    workshop.flip(17 * MIB)
    workshop.playground.hub.faults.add(FlipBit(offset=17 * MIB), origin="cdn", times=1)
    fetched, _ = await workshop.repair()
    assert fetched >= workshop.size
    workshop.assert_good_record()


async def test_a_server_that_is_wrong_elsewhere_is_not_asked_there(workshop: Workshop) -> None:
    workshop.flip(17 * MIB)
    workshop.playground.hub.faults.add(FlipBit(offset=1 * MIB), origin="cdn")
    fetched, _ = await workshop.repair()
    assert 0 < fetched <= 2 * MIB


async def test_nowhere_to_keep_records(playground: Playground, workshop: Workshop) -> None:
    """A file stands in place of the directory, so that not even root can write there."""
    shutil.rmtree(workshop.blocks_dir)
    workshop.blocks_dir.write_text("mine")
    playground.pointer.unlink()
    playground.blob.unlink()
    playground.assert_exact(await playground.download(blocks_dir=workshop.blocks_dir))
    assert (await workshop.verify(repair=False)).is_valid
    workshop.flip(17 * MIB)
    fetched, replaced = await workshop.repair()
    assert fetched >= workshop.size
    assert 0 < replaced <= MIB
    assert workshop.blocks_dir.read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write everywhere")
async def test_a_folder_that_may_not_be_written(workshop: Workshop) -> None:
    workshop.blocks_dir.chmod(0o500)
    try:
        workshop.flip(17 * MIB)
        fetched, _ = await workshop.repair()
        assert 0 < fetched <= 2 * MIB
    finally:
        workshop.blocks_dir.chmod(0o700)


async def test_a_file_that_was_refused_leaves_no_record(playground: Playground) -> None:
    playground.put(bytes(8 * MIB))  # no GGUF file
    snapshot = await playground.download(blocks_dir=playground.state_dir / "blocks")
    assert snapshot.state is DownloadState.FAILED
    assert not playground.state_dir.exists()


async def test_a_small_file_leaves_no_record(playground: Playground) -> None:
    playground.put(playground.content[: MIB + 1])
    playground.assert_exact(await playground.download(blocks_dir=playground.state_dir / "blocks"))
    assert not playground.state_dir.exists()


async def test_a_resumed_download_leaves_a_whole_record(playground: Playground, until: Until) -> None:
    blocks_dir = playground.state_dir / "blocks"
    playground.hub.faults.add(Throttle(2e6, is_shared=True, free_bytes=8_000_000), origin="cdn")
    async with playground.manager(blocks_dir=blocks_dir) as manager:
        job = await manager.submit(playground.request())
        await until(lambda: manager.snapshots()[0].received >= 8_000_000)
        await manager.act(job.job_id, "pause")
    assert not blocks_dir.exists()
    playground.hub.faults.clear()
    playground.assert_exact(await playground.download(blocks_dir=blocks_dir))
    assert BlockDigestStore(blocks_dir).load(playground.sha256, len(playground.content))


async def test_a_repair_whose_file_another_process_took_says_so(
    workshop: Workshop, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "BEAT_SECONDS", 0.0)
    workshop.flip(17 * MIB + 5)
    workshop.record.unlink()
    workshop.playground.hub.faults.add(Throttle(1e6, is_shared=True), origin="cdn")
    workshop.playground.hub.requests.clear()
    blobs = workshop.playground.repo_dir / "blobs"

    async def take_over() -> None:
        await until(lambda: workshop.playground.hub.requests.to("cdn"))
        (journal,) = blobs.glob("*.journal")
        journal.rename(journal.with_name(f"{workshop.playground.sha256}.00000000.journal"))

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(take_over)
        with pytest.raises(ServerError, match="Another process"):
            await workshop.verify()


# --- the job ----------------------------------------------------------------------------------------------------------


async def test_a_repair_is_a_job_with_states_and_progress(workshop: Workshop) -> None:
    workshop.flip(17 * MIB)
    seen: list[DownloadSnapshot] = []
    async with workshop.playground.manager(blocks_dir=workshop.blocks_dir) as manager:
        manager.subscribe(seen.append)
        job = await manager.submit(await workshop.request())
        assert job.request.purpose == "repair"
        assert job.actions == ("move_up", "move_down", "pause", "cancel")
        done = await manager.wait(job.job_id)
    workshop.playground.assert_exact(done)
    assert 0 < done.repaired_bytes[0] <= done.bytes_fetched <= 2 * MIB
    states = [snapshot.state for snapshot in seen]
    moves = [state for before, state in zip([None, *states], states, strict=False) if state is not before]
    assert moves == ["queued", "resolving", "verifying", "downloading", "verifying", "ready"]
    assert done.actions == ("dismiss",)


async def test_a_repair_of_a_sound_file_reads_it_and_needs_no_hub(workshop: Workshop) -> None:
    request = await workshop.request()
    workshop.playground.hub.stop()
    async with workshop.playground.manager(blocks_dir=workshop.blocks_dir) as manager:
        job = await manager.submit(request)
        done = await manager.wait(job.job_id)
    workshop.playground.assert_exact(done)
    assert (done.bytes_fetched, done.repaired_bytes) == (0, (0,))


@pytest.mark.parametrize("is_paused", [True, False])
async def test_a_repair_goes_on_in_the_next_engine(workshop: Workshop, until: Until, is_paused: bool) -> None:
    """Without a record everything is fetched and compared, but only once."""
    place = workshop.playground
    workshop.record.unlink()
    workshop.flip(1 * MIB, 23 * MIB)
    request = await workshop.request()
    place.hub.faults.add(Throttle(2e6, is_shared=True, free_bytes=12 * MIB), origin="cdn")
    async with place.manager(state_dir=place.state_dir) as manager:
        job = await manager.submit(request)
        await until(lambda: manager.snapshots()[0].bytes_fetched > 12 * MIB)
        if is_paused:
            paused = await manager.act(job.job_id, "pause")
            assert paused.state is DownloadState.PAUSED
    assert not place.pointer.exists(), "nobody takes a file for whole that is being repaired"
    place.hub.faults.clear()
    async with place.manager(state_dir=place.state_dir) as manager:
        (stored,) = manager.snapshots()
        assert stored.request == request
        if is_paused:
            assert stored.state is DownloadState.PAUSED
            await manager.act(job.job_id, "resume")
        done = await manager.wait(job.job_id)
    place.assert_exact(done)
    assert 0 < done.repaired_bytes[0] <= 4 * MIB
    assert done.bytes_fetched < workshop.size


async def test_cancelling_a_repair_keeps_the_good_bytes_for_a_download(workshop: Workshop, until: Until) -> None:
    place = workshop.playground
    workshop.flip(*range(0, workshop.size, 3 * MIB))
    request = await workshop.request()
    place.hub.faults.add(Throttle(1e6), origin="cdn")
    async with place.manager(blocks_dir=workshop.blocks_dir) as manager:
        job = await manager.submit(request)
        await until(lambda: manager.snapshots()[0].state is DownloadState.DOWNLOADING)
        cancelled = await manager.act(job.job_id, "cancel")
        assert cancelled.state is DownloadState.CANCELLED
        assert place.left_overs(), "the user's model is not deleted"
        place.hub.faults.clear()
        job = await manager.submit(place.request())
        done = await manager.wait(job.job_id)
    place.assert_exact(done)
    assert done.bytes_fetched < workshop.size


async def test_cancelling_before_damage_was_found_touches_nothing(workshop: Workshop, until: Until) -> None:
    workshop.flip(17 * MIB)
    request = await workshop.request()
    damaged = workshop.playground.blob.read_bytes()
    workshop.playground.hub.stop()
    async with workshop.playground.manager(blocks_dir=workshop.blocks_dir) as manager:
        job = await manager.submit(request)
        await until(lambda: manager.snapshots()[0].received)
        await manager.act(job.job_id, "cancel")
    assert workshop.playground.blob.read_bytes() == damaged
    workshop.playground.blob.write_bytes(workshop.playground.content)


async def test_a_download_and_a_repair_of_one_file_are_two_jobs_that_wait_for_each_other(workshop: Workshop) -> None:
    place = workshop.playground
    workshop.record.unlink()
    workshop.flip(17 * MIB)
    request = await workshop.request()
    async with place.manager() as manager:
        repair = await manager.submit(request)
        download = await manager.submit(place.request())
        again = await manager.submit(request)
        assert repair.job_id == again.job_id != download.job_id
        assert (await manager.wait(download.job_id)).state is DownloadState.READY
        place.assert_exact(await manager.wait(repair.job_id))
