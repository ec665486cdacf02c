"""modeldeck's download engine beside curl, aria2c and hf_hub_download: ``python benchmarks/download.py``.

Every tool fetches the same files from the same nginx over TLS in one run, turn by turn, onto a disk. What is compared
are ratios of medians; the machine is described above the table. curl, aria2c and hf_hub_download only fetch (or check a
size); modeldeck also takes the sha256, waits for the disk and publishes into the cache.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from stage import COMMIT, LABEL, REPO_ID, Stage, stage

MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    name: str
    text: str
    sizes: tuple[int, ...]
    limit_bytes_per_second: int | None = None
    rtt_seconds: float = 0.0
    is_one_variant: bool = True


CASES = (
    Case(name="a", text="TLS on loopback, one file", sizes=(1500 * MEGABYTE,)),
    Case(name="b", text="20 MB/s for each connection", sizes=(400 * MEGABYTE,), limit_bytes_per_second=20 * MEGABYTE),
    Case(name="c", text="100 ms round trip, 1 MiB in flight", sizes=(300 * MEGABYTE,), rtt_seconds=0.1),
    Case(name="d", text="a variant of 40 files", sizes=(10 * MEGABYTE,) * 40),
    Case(name="e", text="eight files at once", sizes=(150 * MEGABYTE,) * 8, is_one_variant=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    tail_seconds: float | None = None
    server_cpu_seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)


# --- the tools --------------------------------------------------------------------------------------------------------


def ballast(place: Stage, target: Path) -> Path:
    """A file that makes room for the next download at its start.

    Where a host takes free memory back, each page that comes from it again costs several times what writing it does: a
    lottery among the tools. So all of them get pages that were in use a moment ago.
    """
    path = target.with_name(target.name + "-ballast")
    zeros = bytes(1 << 20)
    with path.open("wb") as file:
        for _ in range(sum(each.size for each in place.files) // len(zeros) + 64):
            file.write(zeros)
    return path


def measured(command: list[str], environment: dict[str, str], ballast: Path | None = None) -> Outcome:
    """Run a program. A Python program reports its own time, without its start, and deletes its ballast itself."""
    if ballast is not None:
        ballast.unlink()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed: {done.stderr[-2000:]}{done.stdout[-500:]}")
    told = json.loads(done.stdout.splitlines()[-1]) if done.stdout.startswith("{") else {}
    cpu = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    return Outcome(
        seconds=told.get("seconds", seconds),
        cpu_seconds=told.get("cpu_seconds", cpu),
        peak_bytes=told.get("peak_bytes", 0),
        tail_seconds=told.get("tail_seconds"),
        parts=told.get("parts", {}),
    )


def curl(place: Stage, target: Path, case: Case) -> Outcome:
    parallel = ["--parallel", "--parallel-max", "8"] if len(place.files) > 1 else []
    urls = [part for file in place.files for part in ("-o", str(target / file.name), f"{place.storage}/{file.name}")]
    return measured(["curl", "-sSf", "--cacert", str(place.ca), *parallel, *urls], {}, ballast(place, target))


def aria2c(place: Stage, target: Path, case: Case) -> Outcome:
    options = ["-q", "-x8", "-s8", "-k1M", "-j8", "--file-allocation=none", f"--ca-certificate={place.ca}"]
    urls = [f"{place.storage}/{file.name}" for file in place.files]
    return measured(["aria2c", *options, "-Z", "-d", str(target), *urls], {}, ballast(place, target))


def python_child(kind: str) -> Callable[[Stage, Path, Case], Outcome]:
    def run(place: Stage, target: Path, case: Case) -> Outcome:
        work = {
            "endpoint": place.endpoint,
            "storage": place.storage,
            "cache_dir": str(target),
            "files": [asdict(file) for file in place.files],
            "is_one_variant": case.is_one_variant,
            "ballast": str(ballast(place, target)),
            "xet_store": str(place.ca.with_name("xet")),
        }
        environment = {
            "SSL_CERT_FILE": str(place.ca),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        child = str(Path(__file__).with_name("child.py"))
        return measured([sys.executable, child, kind, json.dumps(work), REPO_ID, COMMIT], environment)

    return run


def xet(place: Stage, target: Path, case: Case) -> Outcome:
    """Let hf_xet put the files together from its own kind of store, which is on this machine: no byte is sent."""
    store = place.ca.with_name("xet")
    if not store.exists():
        child = str(Path(__file__).with_name("child.py"))
        files = str(place.ca.with_name("files"))
        subprocess.run([sys.executable, child, "fill-xet-store", files, str(store)], check=True, capture_output=True)
    return python_child("xet")(place, target, case)


def command(place: Stage, target: Path, case: Case) -> Outcome:
    """Run `modeldeck download` as a shell does. The engine runs already; its CPU time is not counted."""
    environment = {
        "HF_ENDPOINT": place.endpoint,
        "HF_HUB_CACHE": str(target / "cache"),
        "SSL_CERT_FILE": str(place.ca),
        "MODELDECK_RUNTIME_DIR": str(target / "run"),
        "MODELDECK_STATE_DIR": str(target / "state"),
        "PYTHONDONTWRITEBYTECODE": "",  # compiled modules, as pip installs them
    }
    modeldeck = [sys.executable, "-m", "modeldeck"]
    measured([*modeldeck, "downloads"], environment)  # starts the engine
    try:
        return measured([*modeldeck, "download", f"{REPO_ID}:{LABEL}"], environment, ballast(place, target))
    finally:
        measured([*modeldeck, "engine", "stop"], environment)


TOOLS: dict[str, Callable[[Stage, Path, Case], Outcome]] = {
    "curl": curl,
    "aria2c -x8": aria2c,
    "hf_hub_download": python_child("hub"),
    "modeldeck": python_child("modeldeck"),
    "modeldeck unverified": python_child("unverified"),
    "bare Python": python_child("bare"),
}
OTHERS = {"modeldeck command": command, "hf_xet": xet}
"""The command is one whole process, for cases with one variant. hf_xet has no server, so limits do not concern it."""
PARTS = {"parts": python_child("parts")}


# --- runs and report --------------------------------------------------------------------------------------------------


def run_case(case: Case, tools: list[str], runs: int, folder: Path | None) -> dict[str, list[Outcome]]:
    outcomes: dict[str, list[Outcome]] = {tool: [] for tool in tools}
    with stage(
        list(case.sizes), limit_bytes_per_second=case.limit_bytes_per_second, rtt_seconds=case.rtt_seconds
    ) as place:
        for _ in range(runs):
            for tool in tools:
                target = Path(tempfile.mkdtemp(prefix="modeldeck-bench-", dir=folder))
                try:
                    before = place.server_cpu_seconds()
                    outcome = (TOOLS | OTHERS | PARTS)[tool](place, target, case)
                    used = place.server_cpu_seconds() - before
                    outcomes[tool].append(replace(outcome, server_cpu_seconds=used))
                finally:
                    shutil.rmtree(target)
    return outcomes


def report(case: Case, outcomes: dict[str, list[Outcome]]) -> None:
    total = sum(case.sizes)
    print(f"\n### ({case.name}) {case.text}: {total / 1e6:.0f} MB\n")
    print(
        "| tool | seconds (median, min-max) | MB/s | CPU s/GB | nginx's | time / modeldeck's | after the last byte "
        "| peak MiB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    own = [outcome.seconds for outcome in outcomes.get("modeldeck", [])]
    for tool, found in outcomes.items():
        seconds = [outcome.seconds for outcome in found]
        middle = statistics.median(seconds)
        pairs = [mine and theirs / mine for theirs, mine in zip(seconds, own, strict=False)]
        ratio = f"{statistics.median(pairs):.2f}" if pairs else "-"
        tails = [1000 * outcome.tail_seconds for outcome in found if outcome.tail_seconds is not None]
        tail = f"{statistics.median(tails):.0f} ms" if tails else "-"
        cpu = statistics.median(outcome.cpu_seconds for outcome in found) / (total / 1e9)
        server = statistics.median(outcome.server_cpu_seconds for outcome in found) / (total / 1e9)
        peak = max(outcome.peak_bytes for outcome in found) / 2**20
        print(
            f"| {tool} | {middle:.2f} ({min(seconds):.2f}-{max(seconds):.2f}) | {total / 1e6 / middle:.0f} | {cpu:.2f} "
            f"| {server:.2f} | {ratio} | {tail} | {f'{peak:.0f}' if peak else '-'} |"
        )


def report_floor(case: Case, outcomes: dict[str, list[Outcome]]) -> None:
    """Print the least time that any verified download needs if the server shares the cores."""
    total = sum(case.sizes)
    fetching = statistics.median(outcome.cpu_seconds + outcome.server_cpu_seconds for outcome in outcomes["curl"])
    hashing = sha256_seconds_per_byte() * total
    cores = len(os.sched_getaffinity(0))
    floor = (fetching + hashing) / cores
    curls = statistics.median(outcome.seconds for outcome in outcomes["curl"])
    print(
        f"\ncurl's and nginx's CPU time ({fetching:.2f} s) and the sha256's ({hashing:.2f} s), spread over {cores} "
        f"cores that never idle, are {floor:.2f} s: {floor / curls:.2f} of curl's time."
    )


def sha256_seconds_per_byte() -> float:
    """Return the CPU time of the digest alone, for bytes in the processor's cache."""
    block = os.urandom(512 << 10)
    blocks = 1000
    digest = hashlib.sha256()
    begun = time.thread_time()
    for _ in range(blocks):
        digest.update(block)
    return (time.thread_time() - begun) / (blocks * len(block))


def report_parts(case: Case, folder: Path | None) -> None:
    """Print what the CPU time of a download is used for."""
    (outcome,) = run_case(case, ["parts"], 1, folder)["parts"]
    gigabytes = sum(case.sizes) / 1e9
    print(f"\n### ({case.name}) CPU seconds for each GB\n\n| part | s/GB |\n|---|---|")
    rest = outcome.cpu_seconds
    for name, seconds in outcome.parts.items():
        rest -= seconds
        print(f"| {name} | {seconds / gigabytes:.2f} |")
    print(f"| the rest: loop, interpreter, scheduling | {rest / gigabytes:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="abcde", help="which of them, such as 'ac'")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tools", default=",".join(TOOLS), help=f"comma-separated; also {', '.join(OTHERS)}")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply all sizes")
    parser.add_argument("--parts", action="store_true", help="tell where modeldeck's CPU time goes, instead")
    parser.add_argument("--folder", type=Path, help="where the files go; a folder of the temporary directory's disk")
    options = parser.parse_args()
    tools = options.tools.split(",")
    missing = [name for name in ("nginx", "curl", "aria2c") if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"Install {', '.join(missing)} first (Debian: apt-get install nginx curl aria2).")
    cores = len(os.sched_getaffinity(0))
    print(f"{platform.platform()}, Python {platform.python_version()}, {cores} cores, load {os.getloadavg()[0]:.1f}")
    for case in CASES:
        if case.name in options.cases:
            scaled = tuple(int(size * options.scale) for size in case.sizes)
            small = Case(**{**asdict(case), "sizes": scaled})
            if options.parts:
                report_parts(small, options.folder)
            else:
                outcomes = run_case(small, tools, options.runs, options.folder)
                report(small, outcomes)
                if case.name == "a" and "curl" in outcomes:
                    report_floor(small, outcomes)


if __name__ == "__main__":
    main()
