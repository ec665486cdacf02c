"""Find and end every process that a run has started, also those that left its process group or lost their parent.

Kernels have a session of their own and the download engine outlives its parent by design: neither a process group nor
the tree of parents reaches them all. What they share is inherited: one variable in their environment.
"""

import contextlib
import uuid
from collections.abc import Iterator, Mapping

import psutil

RUN_ID = "MODELDECK_RUN_ID"
PATIENCE_SECONDS = 10.0


def started_by(run_id: str) -> list[psutil.Process]:
    """Every living process of the run and of the runs inside it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(RUN_ID, "").startswith(run_id):
                found.append(process)
    return found


def end_all(run_id: str, *, patience_seconds: float) -> None:
    """Ask every process of the run to end, then kill those that did not, until none is left."""
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
    """An environment for subprocesses; whatever still runs with it at the end is ended. A run may be inside another."""
    run_id = f"{variables.get(RUN_ID, '')}/{uuid.uuid4().hex}"
    try:
        yield {**variables, RUN_ID: run_id}
    finally:
        end_all(run_id, patience_seconds=patience_seconds)


def without_hub_settings(variables: Mapping[str, str]) -> dict[str, str]:
    """The same environment with no token, endpoint or cache of the user's in it."""
    return {name: value for name, value in variables.items() if not name.startswith(("HF_", "HUGGING_FACE_"))}
