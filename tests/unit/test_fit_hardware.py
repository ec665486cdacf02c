"""Memory and processor limits from control groups, over fake trees; the real probe only has to answer."""

from pathlib import Path

import pytest

from modeldeck.sizing import hardware as hardware_module
from modeldeck.sizing.devices import GPU
from modeldeck.sizing.hardware import cgroup_cpu_quota, cgroup_memory, cpu_count, probe_hardware

GIB = 1 << 30


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def process_in(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cgroup"
    path.write_text(text)
    return path


def v2(folder: str, limit: str, used: int, inactive_file: int = 0, active_file: int = 0) -> dict[str, str]:
    return {
        f"{folder}memory.max": f"{limit}\n",
        f"{folder}memory.current": f"{used}\n",
        f"{folder}memory.stat": f"anon 5\nshmem 9\ninactive_file {inactive_file}\nactive_file {active_file}\n",
    }


def test_v2_limit_counts_without_pages_that_can_be_dropped(tmp_path: Path) -> None:
    root = tree(tmp_path / "fs", v2("jupyter/", str(2 * GIB), GIB, inactive_file=GIB // 2, active_file=GIB // 4))
    assert cgroup_memory(process_in(tmp_path, "0::/jupyter\n"), root) == [(2 * GIB, GIB // 4)]


def test_v2_counts_from_where_the_kernel_slows_processes_down(tmp_path: Path) -> None:
    files = v2("pod/", str(2 * GIB), GIB) | {"pod/memory.high": f"{GIB}\n"}
    assert cgroup_memory(process_in(tmp_path, "0::/pod\n"), tree(tmp_path / "fs", files)) == [(GIB, GIB)]


def test_v2_parents_limit_too(tmp_path: Path) -> None:
    root = tree(tmp_path / "fs", v2("user/kernel/", "max", 100) | v2("user/", str(GIB), 300) | v2("", "max", 1))
    assert cgroup_memory(process_in(tmp_path, "0::/user/kernel\n"), root) == [(GIB, 300)]


@pytest.mark.parametrize("path", ["/kubepods/pod1/abc", "/../../other", "/"])
def test_v2_in_a_container_uses_what_is_mounted(tmp_path: Path, path: str) -> None:
    root = tree(tmp_path / "fs", v2("", str(GIB), 300))
    assert cgroup_memory(process_in(tmp_path, f"0::{path}\n"), root) == [(GIB, 300)]


def test_v1(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "fs",
        {
            "memory/docker/abc/memory.limit_in_bytes": str(GIB),
            "memory/docker/abc/memory.usage_in_bytes": "500",
            "memory/docker/abc/memory.stat": (
                "inactive_file 1\nactive_file 1\ntotal_inactive_file 150\ntotal_active_file 50\n"
            ),
            "memory/memory.limit_in_bytes": "9223372036854771712",
            "memory/memory.usage_in_bytes": "500",
            "cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "150000",
            "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000",
        },
    )
    process = process_in(tmp_path, "9:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    assert cgroup_memory(process, root) == [(GIB, 300)]
    assert cgroup_cpu_quota(process, root) == 1.5


def test_no_control_groups(tmp_path: Path) -> None:
    assert cgroup_memory(tmp_path / "missing", tmp_path / "missing") == []
    assert cgroup_cpu_quota(tmp_path / "missing", tmp_path / "missing") is None


@pytest.mark.parametrize(("text", "expected"), [("200000 100000", 2.0), ("max 100000", None), ("rubbish", None)])
def test_v2_cpu_quota(tmp_path: Path, text: str, expected: float | None) -> None:
    root = tree(tmp_path / "fs", {"a/cpu.max": text})
    assert cgroup_cpu_quota(process_in(tmp_path, "0::/a\n"), root) == expected


def test_a_machine_that_tells_nothing_raises_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError("no /proc here")

    monkeypatch.setattr(hardware_module.psutil, "virtual_memory", fail)
    monkeypatch.setattr(hardware_module, "_PROC_CGROUP", tmp_path / "missing")
    monkeypatch.setattr(hardware_module, "list_llama_devices", lambda: None)
    blind = probe_hardware()
    assert (blind.ram_total, blind.ram_available, blind.gpus) == (0, 0, ())
    assert blind.cpu_count >= 1


def test_a_gpu_that_is_not_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = GPU(name="NVIDIA H200", total=GIB, free=GIB)
    monkeypatch.setattr(hardware_module, "list_nvidia_gpus", lambda: (gpu,))
    monkeypatch.setattr(hardware_module, "list_llama_devices", lambda: ())
    assert "Found NVIDIA H200" in (probe_hardware().notice or "")
    monkeypatch.setattr(hardware_module, "list_llama_devices", lambda: (gpu,))
    usable = probe_hardware()
    assert usable.notice is None
    assert usable.gpus == (gpu,)


def test_the_real_machine_answers() -> None:
    hardware = probe_hardware()
    assert 0 < hardware.ram_available <= hardware.ram_total
    assert 1 <= hardware.cpu_count == cpu_count()
