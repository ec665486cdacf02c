"""The commands behind ``make``."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tools import bounds
from tools.environment import JAVASCRIPT, ROOT, npm, once
from tools.processes import RUN_ID, run_environment, started_by, without_hub_settings
from tools.suite import Counts, Run, close, read_junit

PYTEST_REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites name="pytest tests"><testsuite name="pytest" errors="1" failures="2" skipped="3" tests="10"/></testsuites>
"""
VITEST_REPORT = """<?xml version="1.0" encoding="UTF-8" ?>
<testsuites name="vitest tests" tests="5" failures="1" errors="0" time="0.1">
  <testsuite name="a.test.ts" tests="3" failures="1" errors="0" skipped="0"/>
  <testsuite name="b.test.ts" tests="2" failures="0" errors="0" skipped="1"/>
</testsuites>
"""


@pytest.mark.parametrize(
    ("report", "counts"), [(PYTEST_REPORT, Counts(4, 3, 3)), (VITEST_REPORT, Counts(3, 1, 1))], ids=["pytest", "vitest"]
)
def test_a_report_is_counted(tmp_path: Path, report: str, counts: Counts) -> None:
    path = tmp_path / "report.xml"
    path.write_text(report)
    assert read_junit(path) == counts


def test_a_missing_report_is_a_failure(tmp_path: Path) -> None:
    assert read_junit(tmp_path / "none.xml") == Counts(failed=1)


@pytest.mark.parametrize(
    ("body", "tests", "failures", "counts"),
    [
        ("", 2, 0, Counts(2, 0, 0)),
        ("", 2, 1, Counts(1, 1, 0)),
        ("", 0, 0, Counts(0, 1, 0)),  # a runner that runs nothing
        ("sys.exit(3)", 2, 0, Counts(2, 1, 0)),  # one that fails and counts no failure
    ],
)
def test_a_step_is_as_good_as_its_runner(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], body: str, tests: int, failures: int, counts: Counts
) -> None:
    report = tmp_path / "report.xml"
    program = f"""
import pathlib, sys
pathlib.Path({str(report)!r}).write_text('<testsuite tests="{tests}" failures="{failures}"/>')
{body}
"""
    run = Run()
    run.tests("a step", [sys.executable, "-c", program], report)
    assert run.total == counts
    assert close(run) == (1 if counts.failed else 0)
    assert capfd.readouterr().out.splitlines()[-1] == str(counts)


def test_a_step_beside_others_is_counted_and_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It really runs beside them: it ends only when it sees what they do."""
    report, flag = tmp_path / "report.xml", tmp_path / "flag"
    program = f"""
import pathlib, time
while not pathlib.Path({str(flag)!r}).exists():
    time.sleep(0.01)
pathlib.Path({str(report)!r}).write_text('<testsuite tests="3" failures="1"/>')
print("what it said")
"""
    run = Run()
    with run.tests_beside("a step", [sys.executable, "-c", program], report):
        run.check("another", [sys.executable, "-c", f"open({str(flag)!r}, 'w').close()"])
    assert run.total == Counts(2, 1, 0)
    assert run.failures == ["a step"]
    assert "what it said\n" in capfd.readouterr().out


def test_the_closing_line_has_the_plain_form() -> None:
    assert str(Counts(12, 0, 1) + Counts(1, 2, 0)) == "13 passed, 2 failed, 1 skipped"


def test_a_set_up_step_runs_once_for_the_same_inputs(tmp_path: Path) -> None:
    runs: list[str] = []
    stamp, source = tmp_path / "folder" / "stamp", tmp_path / "source"

    def step() -> None:
        runs.append("run")

    for content in ("one", "one", "two", "two"):
        source.write_text(content)
        once(stamp, ["text", source], step)
    assert len(runs) == 2


def test_a_failed_set_up_step_runs_again(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        once(tmp_path / "stamp", ["text"], fail)
    assert not (tmp_path / "stamp").exists()


def test_a_process_that_left_its_group_and_its_parent_is_ended() -> None:
    """Also one that ignores the polite request."""
    orphan = """
import signal, subprocess, sys
stubborn = '''
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
'''
pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
child = subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True, **pipes)
child.stdout.readline()
print(child.pid)
"""
    with run_environment(os.environ, patience_seconds=0.5) as environment:
        pid = int(
            subprocess.run([sys.executable, "-c", orphan], env=environment, check=True, capture_output=True).stdout
        )
        assert [process.pid for process in started_by(environment[RUN_ID])] == [pid]
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert started_by(environment[RUN_ID]) == []


def test_the_processes_of_an_inner_run_belong_to_the_outer_one() -> None:
    wait = [sys.executable, "-c", "print(flush=True); input()"]
    with run_environment(os.environ) as outer, run_environment(outer) as inner:
        process = subprocess.Popen(wait, env=inner, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()  # the kernel shows a program's environment a moment after it has started it
        assert [one.pid for one in started_by(outer[RUN_ID])] == [process.pid]
        assert [one.pid for one in started_by(inner[RUN_ID])] == [process.pid]
        process.communicate(b"\n")
        assert started_by(outer[RUN_ID]) == []


def test_hub_settings_are_left_out() -> None:
    assert without_hub_settings({"HF_TOKEN": "x", "HUGGING_FACE_HUB_TOKEN": "x", "PATH": "/bin"}) == {"PATH": "/bin"}


def test_the_oldest_versions_are_those_that_the_project_allows() -> None:
    pins = dict(line.split("==") for line in bounds.OLDEST.read_text().splitlines() if not line.startswith("#"))
    for requirement in bounds.requirements():
        found = re.match(r"([\w-]+)>=([\d.]+)", requirement)
        assert found, requirement
        assert f"{pins[found[1].lower().replace('_', '-')]}.".startswith(f"{found[2]}."), requirement


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_every_dependency_is_pinned(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins
    assert all(line.count("==") == 1 and "/" not in line and " " not in line for line in pins)


def test_npm_reads_the_settings_of_the_machine(tmp_path: Path) -> None:
    command = npm("config", "get", "globalconfig")
    here, elsewhere = (
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
        for folder in (JAVASCRIPT, tmp_path)
    )
    assert here == elsewhere


def test_an_old_interpreter_is_told_so() -> None:
    """The entry is readable for interpreters that cannot run the rest."""
    program = """
import runpy, sys
sys.version_info, sys.version = (3, 9), "3.9.1"
runpy.run_module("tools", run_name="__main__")
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == "modeldeck needs Python 3.11 or later; this is 3.9.1. Try: make PYTHON=python3.11\n"


def test_setup_may_run_in_the_environment_that_it_makes_anew(tmp_path: Path) -> None:
    venv = tmp_path / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    code = (
        "from pathlib import Path\n"
        "from tools import environment\n"
        f"environment.VENV = Path({str(venv)!r})\n"
        "environment.create_venv()"
    )
    subprocess.run([python, "-c", code], cwd=ROOT, check=True)
    subprocess.run([python, "-c", "import pip"], check=True)
