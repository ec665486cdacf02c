"""How llama-cpp-python comes beside the demo: the cache of wheels, the progress of a build, and what a failure says."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modeldeck._errors import LlamaInstallingError, LlamaMissingError
from modeldeck.llama.install import availability, require_llama_cpp
from modeldeck.sizing.llama_installation import STATUS_VARIABLE
from tools import llama_wheel
from tools.environment import ROOT, SetupError

NOWHERE = "http://127.0.0.1:9/"  # no server listens there
BUILDER = """
import os, sys
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("--wheel-dir") + 1])
(folder / "llama_cpp_python-1-py3-none-any.whl").write_text(os.environ["CMAKE_ARGS"])
with open(sys.argv[1], "a") as builds:
    builds.write("built\\n")
"""


def wait_for(path: Path, process: subprocess.Popen[str], state: str) -> None:
    """Wait until the status file tells this state."""
    while process.poll() is None:
        if path.exists() and json.loads(path.read_text())["state"] == state:
            return
        time.sleep(0.01)
    pytest.fail(f"the program ended with {process.returncode} before it was {state}")


def start(tmp_path: Path, program: str) -> subprocess.Popen[str]:
    """Start the program that brings llama-cpp-python, with a Python program in the place of its build."""
    command = [sys.executable, "-m", "tools.llama_wheel", tmp_path / "status.json", "--index", NOWHERE]
    return subprocess.Popen(
        [*command, "--builder", sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "MODELDECK_WHEEL_CACHE": str(tmp_path / "wheels"), "CMAKE_ARGS": "-DANY=1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_wheel_is_built_once_for_each_set_of_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builds = tmp_path / "builds"
    builder = [sys.executable, "-c", BUILDER, str(builds)]
    monkeypatch.setenv("MODELDECK_WHEEL_CACHE", str(tmp_path / "a cache"))
    for options in (None, None, "-DGGML_CUDA=on", "-DGGML_CUDA=on", None):
        if options is None:
            monkeypatch.delenv("CMAKE_ARGS", raising=False)
        else:
            monkeypatch.setenv("CMAKE_ARGS", options)
        wheel = llama_wheel.build(lambda *_: None, builder)
        assert wheel.read_text() == (options or llama_wheel.CMAKE_ARGS)
    assert builds.read_text().count("built") == 2
    assert len([path for path in (tmp_path / "a cache").iterdir() if path.is_dir()]) == 2


@pytest.mark.parametrize(
    ("lines", "advice"),
    [
        (["-- The C compiler identification is unknown", "No CMAKE_CXX_COMPILER could be found."], "apt-get install"),
        (["g++: fatal error: Killed signal terminated program cc1plus"], "CMAKE_BUILD_PARALLEL_LEVEL=1"),
        (["ERROR: No matching distribution found for llama_cpp_python==0.3.36"], "registry"),
        (["fatal error: error writing to /tmp/x.s: No space left on device"], "Free some space"),
        (["something new"], "The lines above say why."),
    ],
)
def test_a_failed_build_tells_its_last_lines_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], advice: str
) -> None:
    """On the terminal, and to modeldeck, whose message for a load it becomes."""
    program = f"print('the first of many lines\\n' * 300); print({chr(10).join(lines)!r}); raise SystemExit(3)"
    process = start(tmp_path, program)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "(exit status 3). The last lines of the build:" in errors
    assert lines[-1] in errors
    assert advice in errors
    assert errors.count("the first of many") < 20
    assert [path.name for path in (tmp_path / "wheels").iterdir()] == ["build.log"]

    monkeypatch.setenv(STATUS_VARIABLE, str(tmp_path / "status.json"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LlamaMissingError) as caught:
        require_llama_cpp()
    assert not isinstance(caught.value, LlamaInstallingError)
    assert lines[-1] in caught.value.message
    assert advice in caught.value.message


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a program can act on")
@pytest.mark.parametrize("ending", ["SIGINT", "SIGHUP"])
def test_an_interrupted_build_leaves_nothing_behind(tmp_path: Path, ending: str) -> None:
    """Its compilers write files to the last moment. After Ctrl-C the demo asks it to end as well."""
    compiler = "import os\nwhile True: open(os.path.join(os.environ['TMPDIR'], str(os.urandom(1)[0])), 'w').close()"
    process = start(tmp_path, f"import subprocess, sys; subprocess.run([sys.executable, '-c', {compiler!r}])")
    wait_for(tmp_path / "status.json", process, "building")
    while not list((tmp_path / "wheels").glob(".building-*/tmp/*")):
        assert process.poll() is None
    process.send_signal(signal.Signals[ending])
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 130
    assert [path.name for path in (tmp_path / "wheels").iterdir()] == ["build.log"]
    assert not list(tmp_path.glob("status*"))


def test_a_missing_compiler_is_named_before_anything_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELDECK_WHEEL_CACHE", str(tmp_path / "wheels"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "name", "posix")
    with pytest.raises(SetupError, match="needs a C and C\\+\\+ compiler"):
        llama_wheel.build(lambda *_: None)


def test_an_estimate_learns_from_the_progress_of_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    estimate = llama_wheel.Estimate()
    assert not estimate.read("-- Configuring done (1.2s)\n")
    assert estimate.remaining_seconds == llama_wheel.TYPICAL_CPU_SECONDS / 2
    assert estimate.read("  [1/200] Building CXX object a.o\n")
    assert estimate.remaining_seconds == pytest.approx(llama_wheel.TYPICAL_CPU_SECONDS / 2, rel=0.05)
    now += 100.0
    assert estimate.read("  [100/200] Building CXX object b.o\n")
    assert estimate.remaining_seconds == pytest.approx(100.0, rel=0.02)
    assert estimate.read("[ 75%] Building CXX object c.o\n")
    assert estimate.remaining_seconds == pytest.approx(100.0 / 3, rel=0.02)
    assert estimate.read("[200/200] Install\n")
    assert estimate.remaining_seconds == 0


def test_a_load_says_how_long_the_build_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "status.json"
    monkeypatch.setenv(STATUS_VARIABLE, str(path))
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    status = llama_wheel.Status(path)
    for state, seconds, expected in (
        ("building", 175.0, "is being built, about 3 minutes left."),
        ("building", 61.0, "is being built, about 1 minute left."),
        ("building", 20.0, "is being built, less than a minute left."),
        ("downloading", None, "is being downloaded. Models can be loaded when"),
        ("installing", None, "is being installed. Models can be loaded when"),
    ):
        status.tell(state, seconds)
        found = availability()
        with pytest.raises(LlamaInstallingError) as caught:
            require_llama_cpp()
        assert expected in caught.value.message
        assert (found.is_available, found.code, found.message) == (False, "llama_installing", caught.value.message)
        assert found.remaining_seconds == caught.value.details["remaining_seconds"] == seconds


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": "thinking"}'])
def test_a_status_that_cannot_be_read_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    path = tmp_path / "status.json"
    path.write_text(content)
    monkeypatch.setenv(STATUS_VARIABLE, str(path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert availability().code == "llama_missing"


def test_a_status_that_nobody_writes_any_more_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "status.json"
    llama_wheel.Status(path).tell("building", 60.0)
    monkeypatch.setenv(STATUS_VARIABLE, str(path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    assert availability().code == "llama_installing"
    os.utime(path, (time.time() - 120, time.time() - 120))
    assert availability().code == "llama_missing"
