"""The worker plugins, which travel by value.

A plugin that is pickled by reference keeps a worker without modeldeck from starting, and a task by reference ends it.
What is made here is pickled by value, because its classes and functions are local ones: it arrives everywhere, and then
tries to import modeldeck.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def make_agent_plugin() -> Any:
    """Make the plugin that serves and receives models. A worker that lacks modeldeck answers every call with that."""
    from distributed.diagnostics.plugin import WorkerPlugin

    class ModelDeck(WorkerPlugin):  # type: ignore[misc]
        name = "modeldeck"
        idempotent = True

        def setup(self, worker: Any) -> None:
            try:
                from modeldeck.cluster.agent import Agent
            except ImportError as error:
                problem = {"import_error": str(error)}

                async def refuse(**message: Any) -> Any:
                    return problem

                worker.handlers["modeldeck"] = refuse
                self.agent = None
            else:
                self.agent = Agent(worker)
                worker.handlers["modeldeck"] = self.agent.handle

        async def teardown(self, worker: Any) -> None:
            if self.agent is not None:
                await self.agent.aclose()

    return ModelDeck()


def make_fleet_plugin(fleet_id: str, topic: str) -> Any:
    """Make the plugin that tells the client of each worker that joins, and ends what a fleet has on a worker."""
    from distributed.diagnostics.plugin import WorkerPlugin

    class ModelDeckFleet(WorkerPlugin):  # type: ignore[misc]
        def __init__(self) -> None:
            self.name = f"modeldeck-fleet-{fleet_id}"

        def setup(self, worker: Any) -> None:
            self.agent = getattr(worker.plugins.get("modeldeck"), "agent", None)
            worker.log_event(topic, {"joined": worker.address})

        def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
            if self.agent is not None and isinstance(key, str):
                self.agent.models.follow_task(fleet_id, key, start, finish)

        async def teardown(self, worker: Any) -> None:
            if self.agent is not None:
                await self.agent.models.unload(fleet_id)

    return ModelDeckFleet()


def make_prompt_task() -> Callable[[dict[str, Any]], Any]:
    """Make the task that answers one prompt."""

    def modeldeck_prompt(message: dict[str, Any]) -> Any:
        from modeldeck.cluster.worker_models import answer

        return answer(message)

    return modeldeck_prompt
