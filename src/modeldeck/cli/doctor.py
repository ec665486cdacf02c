"""What ``modeldeck doctor`` reports about this installation. Nothing in it is secret: it is for bug reports."""

from __future__ import annotations

import os
import platform
import re
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.request import getproxies

import anyio
import anyio.to_thread

from modeldeck._errors import LlamaMissingError, ModelDeckError
from modeldeck._files import nearest_existing
from modeldeck._settings import Settings, without_login
from modeldeck._tables import format_gib, format_size
from modeldeck._version import __version__
from modeldeck.session import Session

_PACKAGES = ("huggingface_hub", "httpx", "anywidget", "ipywidgets", "ipykernel", "jupyterlab", "notebook")
_ANSWER_SECONDS = 5.0


async def examine(session: Session) -> dict[str, Any]:
    """Return the report: a name and a short text for each line."""
    settings = session.settings
    return {
        "modeldeck": __version__,
        "Python": f"{platform.python_version()} on {platform.platform()}",
        "packages": ", ".join(filter(None, map(_package, _PACKAGES))),
        "endpoint": settings.endpoint + (" (offline mode)" if settings.is_offline else ""),
        "token": await _token(session),
        "proxy": _proxies(),
        "certificates": ", ".join(name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name))
        or "the usual ones",
        "cache": await anyio.to_thread.run_sync(_cache, settings.cache_dir),
        "engine": await _engine(settings),
        "llama.cpp": await anyio.to_thread.run_sync(_llama),
        "memory": await anyio.to_thread.run_sync(_hardware),
    }


def _package(name: str) -> str | None:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return None


async def _token(session: Session) -> str:
    """Return whether there is a token and whose it is, never the token itself."""
    if session.settings.token is None:
        return "none"
    if session.settings.is_offline:
        return "present"
    with anyio.move_on_after(_ANSWER_SECONDS):
        try:
            return f"present, of {(await session.account()).name}"
        except ModelDeckError as error:
            return f"present, but the Hub did not tell whose it is ({error.code})"
    return "present, but the Hub did not answer"


def _proxies() -> str:
    proxies = {scheme: address for scheme, address in getproxies().items() if scheme != "no"}
    shown = {scheme: re.split("[?#]", without_login(address))[0] for scheme, address in proxies.items()}
    return ", ".join(f"{scheme}: {address}" for scheme, address in sorted(shown.items())) or "none"


def _cache(folder: Path) -> str:
    text = f"{_without_home(folder)}, {format_size(shutil.disk_usage(nearest_existing(folder)).free)} free"
    if not os.path.exists(folder):
        return f"{text}, does not exist yet"
    return text if os.access(folder, os.W_OK) else f"{text}, not writable"


def _without_home(path: Path) -> str:
    try:
        home = Path.home()
    except RuntimeError:  # this user has none
        return str(path)
    return str(Path("~", path.relative_to(home))) if path.is_relative_to(home) else str(path)


async def _engine(settings: Settings) -> str:
    from modeldeck.service.observe import engine_status

    try:
        status = await engine_status(settings)
    except ModelDeckError as error:
        return f"{error.code}: {error.message}"
    if status is None:
        return "not running"
    return f"{status.version}, {status.active} active, {status.waiting} waiting, {status.clients} clients"


def _llama() -> str:
    from modeldeck.llama import availability
    from modeldeck.llama.install import import_llama_cpp

    found = availability()
    if not found.is_available:
        return "not installed" if found.code == LlamaMissingError.code else str(found.message)
    try:
        features = import_llama_cpp().llama_print_system_info().decode()
    except ModelDeckError as error:
        return f"{found.version}, {error.code}: {error.message}"
    return f"llama-cpp-python {found.version}; {' '.join(features.split())}"


def _hardware() -> str:
    from modeldeck.sizing.hardware import probe_hardware

    hardware = probe_hardware()
    parts = [f"RAM: {format_gib(hardware.ram_available)} of {format_gib(hardware.ram_total)} free"]
    parts += [f"{gpu.name}: {format_gib(gpu.free)} of {format_gib(gpu.total)} free" for gpu in hardware.gpus]
    return "; ".join(parts if hardware.gpus else [*parts, hardware.notice or "no GPU"])
