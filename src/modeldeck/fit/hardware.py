"""What this machine has: memory with cgroup limits, processors with affinity and quota, GPUs. Never raises."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil

from modeldeck.fit.devices import GPU, list_nvidia_gpus
from modeldeck.fit.native import list_llama_devices

_PROC_CGROUP = Path("/proc/self/cgroup")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_UNLIMITED_BYTES = 1 << 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The memory and processors this process may use, in bytes and whole cores.

    ``gpus`` are the devices llama.cpp can offload to. ``notice`` says what the user may want to know, such as a GPU
    that the installed llama-cpp-python cannot use.
    """

    ram_total: int
    ram_available: int
    cpu_count: int
    gpus: tuple[GPU, ...] = ()
    notice: str | None = None


def probe_hardware() -> Hardware:
    """Look at this machine now. Takes milliseconds, or about a second when llama.cpp has to be asked for its GPUs."""
    total, available = _memory()
    gpus = list_llama_devices() or ()
    return Hardware(
        ram_total=total,
        ram_available=available,
        cpu_count=cpu_count(),
        gpus=gpus,
        notice=None if gpus else _gpu_notice(),
    )


def _memory() -> tuple[int, int]:
    try:
        memory = psutil.virtual_memory()
        total, available = int(memory.total), int(memory.available)
    except (OSError, RuntimeError, ValueError):
        return 0, 0
    for limit, used in cgroup_memory(_PROC_CGROUP, _CGROUP_ROOT):
        total = min(total, limit)
        available = min(available, max(0, limit - used))
    return total, available


def cgroup_memory(proc_cgroup: Path, root: Path) -> list[tuple[int, int]]:
    """Each memory limit on the way up from this process's control group, with what is used of it.

    Pages of files that can be dropped at once (``inactive_file``) do not count as used.
    """
    found: list[tuple[int, int]] = []
    for folder, is_v2 in _groups(proc_cgroup, root, "memory"):
        limit = _read_number(folder / ("memory.max" if is_v2 else "memory.limit_in_bytes"))
        used = _read_number(folder / ("memory.current" if is_v2 else "memory.usage_in_bytes"))
        if limit is None or used is None or limit >= _UNLIMITED_BYTES:
            continue
        droppable = _read_stat(folder / "memory.stat", "inactive_file" if is_v2 else "total_inactive_file")
        found.append((limit, max(0, used - droppable)))
    return found


def cpu_count() -> int:
    """Whole processors this process may use: by affinity and by the control group's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_cpu_quota(_PROC_CGROUP, _CGROUP_ROOT)
    return max(1, count if quota is None else min(count, int(quota)))


def cgroup_cpu_quota(proc_cgroup: Path, root: Path) -> float | None:
    """The tightest processor quota in cores, or ``None`` when there is none."""
    quotas: list[float] = []
    for folder, is_v2 in _groups(proc_cgroup, root, "cpu"):
        if is_v2:
            fields = (_read_text(folder / "cpu.max") or "").split()
            limit, period = (fields[0], fields[1]) if len(fields) == 2 else ("max", "0")
        else:
            limit = _read_text(folder / "cpu.cfs_quota_us") or "-1"
            period = _read_text(folder / "cpu.cfs_period_us") or "0"
        if limit.isdecimal() and period.isdecimal() and int(period) > 0:
            quotas.append(int(limit) / int(period))
    return min(quotas, default=None)


def _groups(proc_cgroup: Path, root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Folders of the process's groups for a controller, from its own up to the root, and whether they are v2.

    Inside a container the path may be the host's and not exist here: then the root is the container's own group.
    """
    for line in (_read_text(proc_cgroup) or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            base = root
        elif controller in controllers.split(","):
            base = root / controller if (root / controller).is_dir() else root / controllers
        else:
            continue
        folder = base / path.strip("/")
        if not _is_inside(folder, base) or not folder.is_dir():
            folder = base
        while True:
            yield folder, controllers == ""
            if folder == base:
                break
            folder = folder.parent


def _is_inside(folder: Path, base: Path) -> bool:
    return ".." not in folder.parts and folder.is_relative_to(base)


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _read_number(path: Path) -> int | None:
    text = _read_text(path)
    return int(text) if text is not None and text.isdecimal() else None


def _read_stat(path: Path, key: str) -> int:
    for line in (_read_text(path) or "").splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.isdecimal():
            return int(value)
    return 0


def _gpu_notice() -> str | None:
    """A GPU that will not be used, and what to do about it."""
    nvidia = list_nvidia_gpus()
    is_apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    if not nvidia and not is_apple:
        return None
    name = nvidia[0].name if nvidia else "An Apple GPU"
    if find_spec("llama_cpp") is None:
        return f"{name} is there. To use it, install a GPU build of llama-cpp-python."
    return f"{name} is there, but the installed llama-cpp-python is a CPU build. Install a GPU build to use it."
