"""The loaded models of a worker, and the task that answers a prompt."""

from __future__ import annotations

from typing import Any


class WorkerModels:
    """The loaded models of one worker."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker

    async def load(self) -> None: ...

    async def unload(self, fleet_id: str) -> None: ...

    def follow_task(self, fleet_id: str, key: str, start: str, finish: str) -> None: ...

    async def aclose(self) -> None: ...


def answer(message: dict[str, Any]) -> Any:
    """Answer a prompt."""
