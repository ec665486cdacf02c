"""What people see in a terminal and in IPython: reports without secrets, short errors, progress that ends well."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_SECONDS
from tools.localhub import LocalHub
from tools.localhub.demo import TOKEN
from tools.localhub.faults import Throttle

TINY = "modeldeck-demo/tiny-chat-GGUF"
SPLIT = "modeldeck-demo/tiny-split-GGUF"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment(user_environment: dict[str, str]) -> dict[str, str]:
    others = ("HTTP", "NO_COLOR")
    return {name: value for name, value in user_environment.items() if not name.upper().startswith(others)}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )

    return run


def test_the_doctor_tells_no_secret(run: Run, environment: dict[str, str]) -> None:
    environment["HF_TOKEN"] = TOKEN
    environment["HTTPS_PROXY"] = "http://alice:secret@proxy.example:3128"
    result = run("-m", "modeldeck", "doctor", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["token"].startswith("present")
    assert report["proxy"] == "https: http://proxy.example:3128"
    environment["HTTPS_PROXY"] = "alice:secret@proxy.example:3128"  # without a scheme
    environment["ALL_PROXY"] = "socks5://alice:12/secret#@proxy.example?secret"
    careless = run("-m", "modeldeck", "doctor", "--json")
    assert json.loads(careless.stdout)["proxy"] == "all: socks5://proxy.example, https: proxy.example:3128"
    assert report["endpoint"] == environment["HF_ENDPOINT"]
    assert report["engine"] == "not running"
    assert "free" in report["cache"]
    for secret in (TOKEN, "alice", "secret"):
        assert secret not in result.stdout + result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="users of POSIX")
def test_the_doctor_examines_for_a_user_without_a_home(run: Run, environment: dict[str, str], tmp_path: Path) -> None:
    del environment["HOME"]
    unknown = (
        "import os; os.getuid = lambda: 2**31 - 2; from modeldeck.cli import main; raise SystemExit(main(['doctor']))"
    )
    result = run("-c", unknown)
    assert result.returncode == 0, result.stderr
    assert str(tmp_path / "hf") in result.stdout


def test_a_download_ends_with_a_line_about_it(run: Run) -> None:
    first = run("-m", "modeldeck", "download", f"{TINY}:Q8_0")
    assert first.returncode == 0, first.stderr
    assert "MB/s), SHA-256 verified." in first.stderr
    assert Path(first.stdout.strip()).is_file()
    again = run("-m", "modeldeck", "download", f"{TINY}:Q8_0")
    assert "already in the cache" in again.stderr
    quiet = run("-m", "modeldeck", "download", f"{TINY}:Q8_0", "--quiet")
    assert (quiet.stdout, quiet.stderr) == (first.stdout, "")


def test_verbose_tells_where_an_error_comes_from(run: Run) -> None:
    short = run("-m", "modeldeck", "show", "nobody/nothing")
    assert short.stderr.count("\n") == 1
    long = run("-m", "modeldeck", "show", "nobody/nothing", "-v")
    assert "Traceback" in long.stderr
    assert long.stderr.endswith(short.stderr)


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_the_commands(run: Run, shell: str) -> None:
    result = run("-m", "modeldeck", "completion", shell)
    assert result.returncode == 0, result.stderr
    assert "downloads" in result.stdout
    if shell == "bash" and sys.platform != "win32":
        asks = f"COMP_WORDS=(modeldeck fit {__file__[:-1]}); COMP_CWORD=2; _shtab_modeldeck; echo ${{COMPREPLY[@]}}"
        bash = subprocess.run(["bash", "-c", result.stdout + asks], capture_output=True, text=True, check=True)
        assert bash.stdout.strip() == __file__


def test_an_error_in_ipython_is_short_and_the_traceback_stays_available(run: Run) -> None:
    lines = ["import modeldeck", "modeldeck.search(limit=0)", "%tb"]
    program = (
        "from IPython.testing.globalipapp import start_ipython\n"
        "shell = start_ipython()\n"
        "shell.colors = 'nocolor'\n"
        + "".join(f"print('#####'); shell.run_cell({line!r}, store_history=True)\n" for line in lines)
    )
    result = run("-c", program)
    _, _, short, full = result.stdout.split("#####\n")
    assert "InvalidRequestError: limit must be between 1 and 100." in short
    assert "Traceback" not in short
    assert short.count("\n") <= 3
    assert "Traceback" in full
    assert "api.py" in full


def test_an_error_that_ends_a_script_names_the_line_of_the_script(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import modeldeck\n\n\ndef find():\n    modeldeck.search('x', endpoint='http://127.0.0.1:1')\n\n\nfind()\n"
    )
    short = run(str(script))
    assert short.returncode == 1
    lines = [line for line in short.stderr.splitlines() if line.strip("~^ ")]
    assert [line.split(", ")[1] for line in lines[1:5:2]] == ["line 8", "line 5"]
    assert lines[5].startswith("modeldeck.OfflineError: 127.0.0.1:1 cannot be reached.")
    assert len(lines) == 6
    full = run("-X", "dev", str(script)).stderr
    assert "httpx.ConnectError" in full
    assert full.endswith(lines[5] + "\n")
    script.write_text("import modeldeck\nmodeldeck.search(1 / 0)\n")
    assert run(str(script)).stderr.endswith("ZeroDivisionError: division by zero\n")


def test_a_pipe_gets_no_bar_and_an_asked_for_one_is_full_at_the_end(run: Run, demo_hub: LocalHub) -> None:
    assert run("-c", f"import modeldeck; modeldeck.download({TINY!r}, 'Q8_0')").stderr == ""
    demo_hub.faults.add(Throttle(12e6, is_shared=True), origin="cdn")
    shown = run("-c", f"import modeldeck; modeldeck.download({SPLIT!r}, progress=True)").stderr.split("\r")
    assert "/12.0M" in shown[-1]
    assert "100%" in shown[-1]
