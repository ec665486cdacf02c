"""Control groups with a memory limit, as a container has one, made and removed by a test."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import uuid4

import pytest

from tests.waiting import PATIENCE_SECONDS


@dataclass(frozen=True)
class MemoryGroup:
    path: Path
    version: Literal[1, 2]

    def limit(self, limit_bytes: int) -> None:
        """Allow this much memory, and no swap where there is any."""
        if self.version == 1:
            values = {"memory.limit_in_bytes": limit_bytes, "memory.memsw.limit_in_bytes": limit_bytes}
        else:
            values = {"memory.max": limit_bytes, "memory.swap.max": 0}
        for name, value in values.items():
            if (self.path / name).exists():
                (self.path / name).write_text(str(value))

    @property
    def peak_bytes(self) -> int | None:
        """The most that was charged to the group, cached pages included; ``None`` where the kernel does not tell."""
        file = self.path / ("memory.max_usage_in_bytes" if self.version == 1 else "memory.peak")
        return int(file.read_text()) if file.exists() else None

    @property
    def kills(self) -> int:
        """How many processes were killed for want of memory."""
        file = self.path / ("memory.oom_control" if self.version == 1 else "memory.events")
        return int(dict(line.split() for line in file.read_text().splitlines())["oom_kill"])

    def remove(self) -> None:
        """The kernel refuses for a moment after the last process was killed."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self.path.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


def find_parent() -> tuple[Path, Literal[1, 2]]:
    """Where a group with a memory limit can be made: in this process's own group or, with version 2, near it."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return mount_point("cgroup", "memory") / path.lstrip("/"), 1
    unified = mount_point("cgroup2")
    own = unified / path.lstrip("/")  # of the last line, "0::PATH"
    for group in (own, *own.parents):
        control = group / "cgroup.subtree_control"
        if group.is_relative_to(unified) and control.exists() and "memory" in control.read_text().split():
            return group, 2
    raise FileNotFoundError(None, "no control group here passes the memory controller on")


def mount_point(kind: str, option: str = "") -> Path:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, path, type_, options, *_ = line.split()
        if type_ == kind and (not option or option in options.split(",")):
            return Path(path)
    raise FileNotFoundError(None, f"no {kind} is mounted")


@contextmanager
def limited_memory(limit_bytes: int) -> Iterator[MemoryGroup]:
    """Make a group; skip the test where this is not allowed."""
    try:
        parent, version = find_parent()
        group = MemoryGroup(parent / f"modeldeck-test-{uuid4().hex[:8]}", version)
        group.path.mkdir()
    except OSError as error:
        pytest.skip(f"no memory group can be made: {error.strerror or error}")
    try:
        try:
            group.limit(limit_bytes)
        except OSError as error:
            pytest.skip(f"no memory limit can be set: {error.strerror or error}")
        yield group
    finally:
        group.remove()
