"""Finds and imports llama-cpp-python, or says how to install it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from modeldeck._errors import LlamaInstallingError, LlamaMissingError
from modeldeck.sizing.ask_child import is_llama_cpp_installed
from modeldeck.sizing.llama_installation import InstallationState, read_installation

_HOW_TO_INSTALL = (
    'Install it with pip install "modeldeck[llama]", which needs a C++ compiler and CMake and takes some minutes, or '
    "take a prebuilt wheel from llama-cpp-python's own CPU wheel index (see its README). Then restart the kernel."
)
_MISSING_LIBRARY = re.compile(r"(lib[\w.+-]+\.so[\d.]*): cannot open shared object")
_MISSING_VERSION = re.compile(r"\w+_[\d.]+(?=' not found)")
_SYSTEM_PACKAGES = {
    "libgomp": "GNU OpenMP (apt-get install libgomp1, dnf install libgomp, or conda install libgomp)",
    "libstdc++": "the C++ library (apt-get install libstdc++6, dnf install libstdc++, or conda install libstdcxx-ng)",
    "libcu": "the CUDA version that this llama-cpp-python was built for, or a CPU build of llama-cpp-python",
}
_MISSING = f"llama-cpp-python is not installed. {_HOW_TO_INSTALL}"
_DOING: dict[InstallationState, str] = {"downloading": "downloaded", "building": "built", "installing": "installed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaAvailability:
    """Whether models can be loaded here.

    Attributes
    ----------
    is_available : bool
        Whether llama-cpp-python is installed.
    version : str or None
        Its version, where its metadata says it.
    message : str or None
        What to do when it is not installed.
    code : str or None
        The code of the error that a load raises when it is not installed.
    remaining_seconds : float or None
        How long its installation still takes, if it is being installed.
    """

    is_available: bool
    version: str | None = None
    message: str | None = None
    code: str | None = None
    remaining_seconds: float | None = None


def availability() -> LlamaAvailability:
    """Look for llama-cpp-python without importing it.

    Returns
    -------
    LlamaAvailability
        Whether it is installed, and what to do when it is not.

    Examples
    --------
    >>> availability().is_available                                         # doctest: +SKIP
    True
    """
    if not is_llama_cpp_installed():
        error = _missing_error()
        return LlamaAvailability(is_available=False, message=error.message, code=error.code, **error.details)
    try:
        return LlamaAvailability(is_available=True, version=version("llama-cpp-python"))
    except PackageNotFoundError:
        return LlamaAvailability(is_available=True)


def require_llama_cpp() -> None:
    """Raise `LlamaMissingError` when llama-cpp-python is not installed, without importing it.

    Raises
    ------
    LlamaInstallingError
        When another program installs it just now.
    """
    if not is_llama_cpp_installed():
        raise _missing_error()


def import_llama_cpp() -> ModuleType:
    """Import llama-cpp-python, or say how to install it.

    Raises
    ------
    LlamaMissingError
        When it is not installed, or its native libraries cannot be loaded.
    """
    require_llama_cpp()
    try:
        with _short_spinning():
            import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError when a library cannot be loaded
        raise LlamaMissingError(_import_failure(str(error))) from error
    module: ModuleType = llama_cpp
    return module


def _missing_error() -> LlamaMissingError:
    installation = read_installation()
    if installation is None:
        return LlamaMissingError(_MISSING)
    if not installation.is_running:
        return LlamaMissingError(f"llama-cpp-python could not be installed. {installation.message or _HOW_TO_INSTALL}")
    left = "" if installation.remaining_seconds is None else f", {_about(installation.remaining_seconds)} left"
    return LlamaInstallingError(
        f"llama-cpp-python is being {_DOING[installation.state]}{left}. Models can be loaded when it is "
        "there, without restarting the kernel.",
        remaining_seconds=installation.remaining_seconds,
    )


def _about(seconds: float) -> str:
    if seconds < 55:
        return "less than a minute"
    minutes = round(seconds / 60)
    return "about 1 minute" if minutes == 1 else f"about {minutes} minutes"


def _import_failure(reason: str) -> str:
    """Say what to do about an installed llama-cpp-python that cannot be imported."""
    if library := _MISSING_LIBRARY.search(reason):
        name = library[1]
        package = next((each for start, each in _SYSTEM_PACKAGES.items() if name.startswith(start)), None)
        how = f"Install {package or 'the system package that has it'}, then restart the kernel."
        return f"llama-cpp-python is installed, but the system library {name} is missing. {how}"
    if version := _MISSING_VERSION.search(reason):
        return (
            f"llama-cpp-python is installed, but was built for a newer system: {version[0]} is missing here. Build it "
            "on this machine with pip install --force-reinstall --no-binary llama-cpp-python llama-cpp-python, then "
            "restart the kernel."
        )
    return (
        f"llama-cpp-python is installed but cannot be imported: {reason}. Reinstall it with "
        'pip install --force-reinstall "modeldeck[llama]", then restart the kernel.'
    )


@contextmanager
def _short_spinning() -> Iterator[None]:
    """Make OpenMP's threads sleep soon when they wait for each other, which they do some thousand times a token.

    GNU's OpenMP reads this variable when it is loaded. By default it spins for milliseconds, which is right for a
    process that has the processors to itself. On a shared notebook server another process computes too, and each wait
    then lasts until the scheduler steps in. Measured on two busy cores: 4 tokens/s by default, 30 with this, which is
    OpenMP's own setting for more threads than processors.
    """
    if any(name in os.environ for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")):
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = "1000"
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]
