"""Runs every check and every test. The last line counts them."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.environment import JAVASCRIPT, PYTHON, ROOT, install_hosts, npm, say, setup_test, status_of, wait_to_the_end


@dataclass(frozen=True, slots=True)
class Counts:
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def read_junit(report: Path) -> Counts:
    """Count the tests in a JUnit report of pytest or vitest. A missing report counts as one failure."""
    if not report.is_file():
        return Counts(failed=1)
    total = Counts()
    for suite in ElementTree.parse(report).iter("testsuite"):
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        total += Counts(int(suite.get("tests", 0)) - failed - skipped, failed, skipped)
    return total


@dataclass
class Run:
    """One run of the suite: the counts and the failed steps so far."""

    total: Counts = Counts()
    failures: list[str] = field(default_factory=list)

    def check(self, name: str, command: Sequence[str | Path], *, cwd: Path = ROOT) -> None:
        """Run a step that passes or fails as a whole. A failure counts as one."""
        if self._run(name, command, cwd) != 0:
            self._add(name, Counts(failed=1))

    def tests(self, name: str, command: Sequence[str | Path], report: Path, *, cwd: Path = ROOT) -> None:
        """Run tests that write a JUnit report. A runner that fails without one, or runs no test, is one failure."""
        self._count(name, self._run(name, command, cwd), report)

    @contextlib.contextmanager
    def tests_beside(self, name: str, command: Sequence[str | Path], report: Path) -> Iterator[None]:
        """Run tests while other steps run. Their output is shown when all have ended."""
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            say(f"{name}, at the same time as the next")
            process = subprocess.Popen(
                [str(part) for part in command], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                yield
            finally:
                status = wait_to_the_end(process)
            output.seek(0)
            say(f"{name}: {'ok' if status == 0 else f'exit status {status}'}. Output:")
            shutil.copyfileobj(output, sys.stdout)
        self._count(name, status, report)

    def _run(self, name: str, command: Sequence[str | Path], cwd: Path) -> int:
        say(name)
        began = time.monotonic()
        status = status_of(command, cwd)
        say(f"{name}: {'ok' if status == 0 else f'exit status {status}'}, {time.monotonic() - began:.0f} s")
        return status

    def _count(self, name: str, status: int, report: Path) -> None:
        counts = read_junit(report)
        if counts.failed == 0 and (status != 0 or counts.passed == 0):
            counts += Counts(failed=1)
        self._add(name, counts)

    def _add(self, name: str, counts: Counts) -> None:
        self.total += counts
        if counts.failed:
            self.failures.append(name)


def run_checks(run: Run) -> None:
    run.check("ruff check", [PYTHON, "-m", "ruff", "check", "."])
    run.check("ruff format", [PYTHON, "-m", "ruff", "format", "--check", "."])
    run.check("mypy", [PYTHON, "-m", "mypy"])
    run.check("TypeScript and Biome", npm("run", "check"), cwd=JAVASCRIPT)
    run.check("actionlint", npm("run", "workflows"), cwd=JAVASCRIPT)


def run_tests(run: Run, reports: Path) -> None:
    vitest, browser, tests, notebooks = (
        reports / f"{name}.xml" for name in ("vitest", "browser", "tests", "notebooks")
    )
    reporters = ("--reporter=default", "--reporter=junit", f"--outputFile.junit={vitest}")
    run.tests("vitest", npm("test", "--", *reporters), vitest, cwd=JAVASCRIPT)
    pytest: list[str | Path] = [PYTHON, "-m", "pytest"]
    # Most tests wait for timers, processes and throttled downloads, so two at a time take little more of the machine.
    two_files_at_a_time = ["--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder"]
    with run.tests_beside("browser tests", [*pytest, "tests/browser", f"--junitxml={browser}"], browser):
        run.tests("pytest", [*pytest, *two_files_at_a_time, "--ignore=tests/browser", f"--junitxml={tests}"], tests)
        run.tests("notebooks", [*pytest, "--nbval-lax", f"--junitxml={notebooks}", "notebooks"], notebooks)


def test() -> int:
    began = time.monotonic()
    # The tests start more than a thousand processes, each of which would compile the package again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    setup_test()
    say(f"Set up in {time.monotonic() - began:.0f} s")
    run = Run()
    run_checks(run)
    with tempfile.TemporaryDirectory() as reports:
        run_tests(run, Path(reports))
    say(f"All of it took {time.monotonic() - began:.0f} s")
    return close(run)


def hosts() -> int:
    setup_test()
    install_hosts()
    run = Run()
    with tempfile.TemporaryDirectory() as reports:
        report = Path(reports) / "hosts.xml"
        run.tests("hosts", [PYTHON, "-m", "pytest", "-m", "hosts", "tests/browser", f"--junitxml={report}"], report)
    return close(run)


def check() -> int:
    setup_test()
    run = Run()
    run_checks(run)
    return 1 if run.failures else 0


def close(run: Run) -> int:
    if run.failures:
        say(f"Failed: {', '.join(run.failures)}")
    print(run.total, flush=True)
    return 1 if run.failures else 0
