"""The memory, processors and GPUs that this process may use, within the limits of its control groups.

No function here raises: a machine that hides a number is reported without it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from modeldeck._notices import CPU_BUILD_NOTICE, WITHOUT_LLAMA_NOTICE
from modeldeck.sizing.ask_child import is_llama_cpp_installed
from modeldeck.sizing.devices import GPU, list_llama_devices, list_nvidia_gpus

_PROC_CGROUP = Path("/proc/self/cgroup")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_UNLIMITED_BYTES = 1 << 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The memory and processors that this process may use.

    Parameters
    ----------
    ram_total, ram_available
        Bytes of memory, in all and free, within the limits of the process's control groups.
    cpu_count
        Whole processors.
    gpus
        The devices that llama.cpp can offload to.
    notice
        A sentence for the user, such as one about a GPU that the installed llama-cpp-python cannot use.
    """

    ram_total: int
    ram_available: int
    cpu_count: int
    gpus: tuple[GPU, ...] = ()
    notice: str | None = None


def probe_hardware() -> Hardware:
    """Read this machine's state. Takes milliseconds, or about a second when llama.cpp must be asked for its GPUs."""
    total, available = _memory()
    gpus = _with_bandwidth(list_llama_devices() or ())
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
    """List the memory limits from this process's control group up to the root, each with the bytes used of it.

    ``memory.high`` is a limit too: beyond it the kernel slows the processes of the group down to a crawl.

    Cached pages of files do not count as used, neither inactive nor active ones: the kernel gives both back before it
    refuses memory, and a file that was read twice is active. Memory file systems (tmpfs) are not among these pages.
    """
    found: list[tuple[int, int]] = []
    for folder, is_v2 in _groups(proc_cgroup, root, "memory"):
        names = ("memory.max", "memory.high") if is_v2 else ("memory.limit_in_bytes",)
        limits = [limit for name in names if (limit := _read_number(folder / name)) is not None]
        limit = min(limits, default=None)
        used = _read_number(folder / ("memory.current" if is_v2 else "memory.usage_in_bytes"))
        if limit is None or used is None or limit >= _UNLIMITED_BYTES:
            continue
        prefix = "" if is_v2 else "total_"
        statistics = _read_statistics(folder / "memory.stat")
        cached = sum(statistics.get(f"{prefix}{kind}", 0) for kind in ("inactive_file", "active_file"))
        found.append((limit, max(0, used - cached)))
    return found


def cpu_count() -> int:
    """Count the whole processors that this process may use, by affinity and by its control groups' quotas."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_cpu_quota(_PROC_CGROUP, _CGROUP_ROOT)
    return max(1, count if quota is None else min(count, int(quota)))


def cgroup_cpu_quota(proc_cgroup: Path, root: Path) -> float | None:
    """Return the tightest processor quota in cores, or ``None`` without one."""
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
    """Yield the folders of the process's groups for a controller, from its own up to the root, and whether they are v2.

    Inside a container the path may be the host's and not exist here. Then the root is the container's own group.
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


def _read_statistics(path: Path) -> dict[str, int]:
    pairs = (line.split(" ", 1) for line in (_read_text(path) or "").splitlines() if " " in line)
    return {name: int(value) for name, value in pairs if value.isdecimal()}


def _with_bandwidth(devices: tuple[GPU, ...]) -> tuple[GPU, ...]:
    """Add the bandwidth that NVIDIA's driver tells of a device of the same name; llama.cpp does not know it."""
    if not devices:
        return ()
    bandwidths = {gpu.name: gpu.bandwidth for gpu in list_nvidia_gpus()}
    return tuple(replace(device, bandwidth=bandwidths.get(device.name)) for device in devices)


def _gpu_notice() -> str | None:
    """Say which GPU will not be used, and what to do about it."""
    nvidia = list_nvidia_gpus()
    is_apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    if not nvidia and not is_apple:
        return None
    name = nvidia[0].name if nvidia else "an Apple GPU"
    if not is_llama_cpp_installed():
        return f"Found {name}. {WITHOUT_LLAMA_NOTICE}"
    return f"Found {name}, {CPU_BUILD_NOTICE}"
