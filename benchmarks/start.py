"""How long the shortest download takes, as whole processes: ``python benchmarks/start.py [--runs 10] [--parts]``.

A file of 100 kB is downloaded from nginx over TLS, by the command and by `modeldeck.download` in a fresh process, with
the engine running and without. ``hf download`` and curl fetch the same file. All take turns. On a busy machine the
least time of many runs says most, and the CPU time of the process; that of the engine's process is not in it.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import certifi
from stage import LABEL, REPO_ID, Stage, stage

SIZE_BYTES = 100_000
TARGET = f"{REPO_ID}:{LABEL}"
COMMAND = [sys.executable, "-m", "modeldeck", "download", TARGET]
FUNCTION = [sys.executable, "-c", f"import modeldeck; modeldeck.download({TARGET!r})"]
HF = "import sys; from huggingface_hub.cli.hf import main; sys.exit(main())"
PARTS = {
    "interpreter": "pass",
    "asyncio, anyio, msgspec, dataclasses, argparse": "import asyncio, anyio, msgspec, dataclasses, argparse, pathlib",
    "modeldeck's modules for the command": "import modeldeck.cli",
    "httpx and httpcore": "import httpx, httpcore",
    "modeldeck's modules for the Hub and the engine": (
        "import modeldeck.hub.client, modeldeck.hub.cache, modeldeck.service.connect, modeldeck.gguf.header, "
        "modeldeck.gguf.names, modeldeck.remote_headers, modeldeck.appraisal, anyio._backends._asyncio"
    ),
    "certificate authorities": "httpx.create_ssl_context()",
}


@dataclass(frozen=True, slots=True)
class Run:
    seconds: float
    cpu_seconds: float


class Caller:
    """Runs programs, each with an empty cache."""

    def __init__(self, place: Stage, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        bundle = folder / "authorities.pem"  # as large as a real one, because reading it takes time
        bundle.write_bytes(place.ca.read_bytes() + Path(certifi.where()).read_bytes())
        self.environment = {
            **os.environ,
            "HF_ENDPOINT": place.endpoint,
            "HF_HUB_CACHE": str(folder / "cache"),
            "SSL_CERT_FILE": str(bundle),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "MODELDECK_RUNTIME_DIR": str(folder / "run"),
            "MODELDECK_STATE_DIR": str(folder / "state"),
            "PYTHONPYCACHEPREFIX": str(folder / "compiled"),
        }
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled modules, as pip installs them

    def run(self, command: list[str], **settings: str) -> Run:
        environment = {**self.environment, **settings}
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(f"{command} failed: {errors.decode()}")
        shutil.rmtree(self._folder / "cache", ignore_errors=True)
        return Run(seconds, usage.ru_utime + usage.ru_stime)

    def run_without_engine(self, command: list[str]) -> Run:
        """Run a program where no engine runs, whose own engine ends with it."""
        self._count += 1
        runtime = str(self._folder / f"run-{self._count}")
        return self.run(command, MODELDECK_RUNTIME_DIR=runtime, MODELDECK_ENGINE_IDLE_SECONDS="0")


def report(runs: Mapping[str, list[Run]]) -> None:
    print("| program | seconds (least, median) | CPU seconds (least, median) |\n|---|---|---|")
    for name, found in runs.items():
        columns = ([run.seconds for run in found], [run.cpu_seconds for run in found])
        print(f"| {name} | " + " | ".join(f"{min(each):.3f}, {statistics.median(each):.3f}" for each in columns) + " |")


def report_parts(caller: Caller, runs: int) -> None:
    """Print the CPU time that each part adds, and how much is left for the download itself."""
    scripts = ["; ".join(list(PARTS.values())[: count + 1]) for count in range(len(PARTS))]
    least = [float("inf")] * (len(scripts) + 1)
    for number in range(runs + 1):
        for index, command in enumerate([*([sys.executable, "-c", script] for script in scripts), COMMAND]):
            used = caller.run(command).cpu_seconds
            if number:  # the first run compiles the modules
                least[index] = min(least[index], used)
    print("\n| part of the command | CPU seconds |\n|---|---|")
    for name, before, after in zip([*PARTS, "requests, engine, exit"], [0.0, *least], least, strict=False):
        print(f"| {name} | {after - before:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--parts", action="store_true", help="tell what the command's CPU time is made of, too")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"{platform.platform()}, Python {platform.python_version()}, {cores} cores, load {os.getloadavg()[0]:.1f}\n")
    with stage([SIZE_BYTES]) as place, tempfile.TemporaryDirectory(prefix="modeldeck-start-") as name:
        caller = Caller(place, Path(name))
        url = f"{place.storage}/{place.files[0].name}"
        hf = [sys.executable, "-c", HF, "download", REPO_ID, place.files[0].name]
        runs: dict[str, list[Run]] = {}
        for number in range(options.runs + 1):
            turn = {
                "modeldeck download, engine running": caller.run(COMMAND),
                "modeldeck.download, engine running": caller.run(FUNCTION),
                "modeldeck download, no engine": caller.run_without_engine(COMMAND),
                "modeldeck.download, no engine": caller.run_without_engine(FUNCTION),
                "hf download": caller.run(hf),
                "curl": caller.run(["curl", "-sSf", "-o", os.devnull, "--cacert", str(place.ca), url]),
                "python -c pass": caller.run([sys.executable, "-c", "pass"]),
            }
            for program, run in turn.items() if number else ():  # the first turn compiles the modules
                runs.setdefault(program, []).append(run)
        report(runs)
        if options.parts:
            report_parts(caller, options.runs)
        subprocess.run([sys.executable, "-m", "modeldeck", "engine", "stop"], env=caller.environment, check=True)


if __name__ == "__main__":
    main()
