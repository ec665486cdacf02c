"""The names under which modeldeck is found on a cluster."""

from __future__ import annotations

HANDLER = "modeldeck"
"""The worker's handler: the ``op`` of every message. `plugin_shell` spells it out, because it may import nothing."""
RESOURCE = "modeldeck"
"""The resource of a worker that has a model. Each prompt takes all of it, so one prompt runs at a time."""


def lease_key(fleet_id: str, worker: str) -> str:
    """Return the key of the value that keeps a fleet's model on a worker: it is gone when its client is."""
    return f"modeldeck-lease-{fleet_id}-{worker}"


def prompt_key(fleet_id: str, job_id: str, index: int, attempt: int) -> str:
    """Return the key of the task that answers a prompt. Dask's dashboard shows what is before the first hyphen."""
    return f"modeldeck_prompt-{fleet_id}-{job_id}-{index}-{attempt}"
