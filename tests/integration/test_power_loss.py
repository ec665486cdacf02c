"""The power fails: what the disk has at a random moment contains only whole files, and a second run ends exact."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from modeldeck._types import DownloadState
from tests.integration.conftest import Playground
from tools.localhub.faults import Throttle

pytestmark = pytest.mark.anyio

IMAGE_BYTES = 96 << 20
MOMENTS = 4


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    # Commit often, so that the disk gets ahead of what was flushed on purpose.
    subprocess.run(["mount", "-o", "loop,commit=1", str(image), str(folder)], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def image(playground: Playground) -> Iterator[Path]:
    """An ext4 file system in a file, mounted as the cache."""
    image = playground.cache_dir.parent / "elsewhere" / "image"
    image.parent.mkdir()
    image.touch()
    os.truncate(image, IMAGE_BYTES)
    with ExitStack() as stack:
        try:
            command = shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or "mkfs.ext4"
            subprocess.run([command, "-q", str(image)], check=True, capture_output=True)
            stack.enter_context(mounted(image, playground.cache_dir))
        except (PermissionError, FileNotFoundError, subprocess.CalledProcessError):
            pytest.skip("a file system in a file needs mkfs.ext4, root and loop devices")
        yield image


def cut_the_power(image: Path, copy: Path) -> None:
    """Copy what the disk has at one moment: a copy during which nothing was written."""
    while True:
        shutil.copyfile(image, copy)
        if image.read_bytes() == copy.read_bytes():
            return


async def test_published_files_are_whole_and_the_next_run_ends_exact(playground: Playground, image: Path) -> None:
    playground.hub.faults.add(Throttle(10e6, is_shared=True), origin="cdn")
    moments = random.Random(7)
    copies = [image.with_name(f"copy-{number}") for number in range(MOMENTS + 1)]
    async with playground.manager() as manager:
        job = await manager.submit(playground.request())
        for copy in copies[:-1]:
            await anyio.sleep(moments.uniform(0.05, 0.5))
            await anyio.to_thread.run_sync(cut_the_power, image, copy)
        done = await manager.wait(job.job_id)
        await anyio.to_thread.run_sync(cut_the_power, image, copies[-1])
    assert done.state is DownloadState.READY, done.error
    playground.hub.faults.clear()

    for copy in copies:
        with mounted(copy, playground.cache_dir.with_name("hub")) as folder:
            after = replace(playground, cache_dir=folder)
            after.assert_sound()
            if copy is copies[-1]:
                assert after.pointer.read_bytes() == playground.content, "the power failed after it was ready"
            again = await after.download()
            assert again.state is DownloadState.READY, again.error
            assert after.pointer.read_bytes() == playground.content
            # A journal that had not one byte on the disk names no owner, and is cleaned up after a while.
            journals = [name for name in after.left_overs() if name.endswith(".journal")]
            assert {(after.blob.parent / name).stat().st_size for name in journals} <= {0}
        copy.unlink()
