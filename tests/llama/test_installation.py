"""llama-cpp-python comes while a program runs, which then loads a model without being started again."""

import functools
import http.server
import json
import os
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import llama_wheel
from tools.environment import ROOT

pytestmark = [
    pytest.mark.llama,
    pytest.mark.skipif(os.name == "nt", reason="links the environment's packages into another one"),
]

USER = """
import sys
import modeldeck
for line in sys.stdin:
    try:
        print(modeldeck.load(line.strip(), n_ctx=256).n_ctx(), flush=True)
    except modeldeck.ModelDeckError as error:
        print(error.code, error.message, flush=True)
"""
BUILDER = """
import shutil, sys
print("[1/4] Building", flush=True)
input()
shutil.copy(sys.argv[1], sys.argv[sys.argv.index("--wheel-dir") + 1])
"""
BRING = """
from pathlib import Path
from tools import environment
environment.VENV = Path({venv!r})
environment.PYTHON = environment.VENV / "bin" / "python"
from tools import llama_wheel
raise SystemExit(llama_wheel.main())
"""


@pytest.fixture
def wheel() -> Path:
    """The real wheel, as the set-up of the tests has built it."""
    found = llama_wheel.kept(llama_wheel.built_folder())
    if found is None:
        pytest.skip("the cache has no wheel of llama-cpp-python")
    return found


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment with everything but llama-cpp-python."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(venv)}))
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith("llama_cpp") and path.name != "__pycache__":
            (packages / path.name).symlink_to(path)
    return venv


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A package index on loopback, and the folder of the wheels of llama-cpp-python in it."""
    folder = tmp_path / "index" / "llama-cpp-python"
    folder.mkdir(parents=True)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/", folder
        server.shutdown()
        thread.join()


def ask(user: subprocess.Popen[str], model: Path) -> str:
    assert user.stdin is not None
    assert user.stdout is not None
    user.stdin.write(f"{model}\n")
    user.stdin.flush()
    return user.stdout.readline().strip()


@pytest.mark.parametrize("way", ["built here", "the authors' wheel"])
def test_a_running_program_loads_a_model_when_llama_has_come(
    way: str, tmp_path: Path, wheel: Path, venv: Path, index: tuple[str, Path], chat_model: Path
) -> None:
    address, folder = index
    status = tmp_path / "status.json"
    python = str(venv / "bin" / "python")
    environment = {name: value for name, value in os.environ.items() if name != "CMAKE_ARGS"} | {
        "MODELDECK_LLAMA_STATUS": str(status),
        "MODELDECK_WHEEL_CACHE": str(tmp_path / "wheels"),
        "MODELDECK_STATE_DIR": str(tmp_path / "state"),
        "PYTHONPATH": str(ROOT / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if way == "the authors' wheel":
        (folder / wheel.name).symlink_to(wheel)
    llama_wheel.Status(status).tell("downloading")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen([python, "-c", USER], **pipes) as user:
        assert ask(user, chat_model).startswith("llama_installing llama-cpp-python is being downloaded.")
        command = [sys.executable, "-c", BRING.format(venv=str(venv)), str(status), "--index", address]
        builder = [python, "-c", BUILDER, str(wheel)]
        with subprocess.Popen([*command, "--builder", *builder], cwd=ROOT, **pipes) as bringing:
            assert bringing.stdin is not None
            assert bringing.stdout is not None
            if way == "built here":
                while '"building"' not in status.read_text():
                    assert bringing.poll() is None
                assert " is being built, " in ask(user, chat_model)
                bringing.stdin.write("\n")
            output, _ = bringing.communicate()
            assert bringing.returncode == 0, output
        assert not status.exists()
        assert ask(user, chat_model) == "256"
        user.communicate()
    assert ("from source" in output) == (way == "built here")
    kept = [path.name for path in (tmp_path / "wheels").iterdir() if path.is_dir()]
    assert len(kept) == 1
    assert kept[0].endswith("-authors") == (way == "the authors' wheel")
    assert json.loads(next(venv.glob("lib/python*/site-packages/llama_cpp*/direct_url.json")).read_text())
