"""Finds and ends every process that a run has started, also those that left its process group or lost their parent.

Kernels have their own session, and the download engine outlives its parent by design, so neither a process group nor
the tree of parents contains them all. But all of them inherit one environment variable.
"""

import contextlib
import uuid
from collections.abc import Iterator, Mapping

import psutil

RUN_ID = "MODELDECK_RUN_ID"
PATIENCE_SECONDS = 10.0


def started_by(run_id: str) -> list[psutil.Process]:
    """Return the living processes of the run, and of the runs inside it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(RUN_ID, "").startswith(run_id):
                found.append(process)
    return found


def end_all(run_id: str, *, patience_seconds: float) -> None:
    """Ask every process of the run to end, then kill those that did not end, until none is left."""
    end = psutil.Process.terminate
    while processes := started_by(run_id):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(process)
        psutil.wait_procs(processes, timeout=patience_seconds)
        end = psutil.Process.kill


@contextlib.contextmanager
def run_environment(
    variables: Mapping[str, str], *, patience_seconds: float = PATIENCE_SECONDS
) -> Iterator[dict[str, str]]:
    """Yield an environment for subprocesses, and end those that still run at the end. Runs can be nested."""
    run_id = f"{variables.get(RUN_ID, '')}/{uuid.uuid4().hex}"
    try:
        yield {**variables, RUN_ID: run_id}
    finally:
        end_all(run_id, patience_seconds=patience_seconds)


def without_hub_settings(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the user's token, endpoint and cache."""
    return {name: value for name, value in variables.items() if not name.startswith(("HF_", "HUGGING"))}
