"""``pytest --nbval-lax notebooks``: the notebooks run against the local hub, with a cache of their own."""

import contextlib
import os
import tempfile
from pathlib import Path

import pytest

from tools.localhub.demo import demo_hub
from tools.processes import run_environment, without_hub_settings

_STACK = pytest.StashKey[contextlib.ExitStack]()


def pytest_sessionstart(session: pytest.Session) -> None:
    stack = session.config.stash[_STACK] = contextlib.ExitStack()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modeldeck-notebooks-")))
    hub = stack.enter_context(demo_hub())
    before = dict(os.environ)
    kernels = stack.enter_context(
        run_environment(
            {
                **without_hub_settings(before),
                "HF_ENDPOINT": hub.endpoint,
                "HF_HOME": str(folder / "huggingface"),
                "MODELDECK_RUNTIME_DIR": str(folder / "run"),
                "MODELDECK_STATE_DIR": str(folder / "state"),
                **{f"JUPYTER_{kind}_DIR": str(folder / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")},
                "IPYTHONDIR": str(folder / "ipython"),
            }
        )
    )
    stack.callback(_replace_environment, before)
    _replace_environment(kernels)


def pytest_sessionfinish(session: pytest.Session) -> None:
    session.config.stash[_STACK].close()


def _replace_environment(variables: dict[str, str]) -> None:
    """The kernels that nbval starts inherit this process's environment."""
    os.environ.clear()
    os.environ.update(variables)
