"""The worker plugins, which travel by value.

A plugin that is pickled by reference keeps a worker without modeldeck from starting, and a task by reference ends it.
What is made here is pickled by value, because its classes and functions are local ones: it arrives everywhere, and then
tries to import modeldeck.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any


def make_agent_plugin(client_id: str) -> Any:
    """Make the plugin that serves and receives models. A worker that lacks modeldeck answers every call with that.

    Each pull and each fleet registers one of its own. Those of a worker share one agent, and the last one ends it.
    """
    from distributed.diagnostics.plugin import WorkerPlugin

    class ModelDeck(WorkerPlugin):  # type: ignore[misc]
        def __init__(self) -> None:
            self.name = f"modeldeck-agent-{client_id}-{uuid.uuid4().hex[:8]}"

        def setup(self, worker: Any) -> None:
            if "modeldeck" in worker.handlers:
                return
            try:
                from modeldeck.cluster.agent import Agent
            except ImportError as error:
                problem = {"import_error": str(error)}

                async def refuse(**message: Any) -> Any:
                    return problem

                worker.handlers["modeldeck"] = refuse
            else:
                agent = worker.extensions["modeldeck"] = Agent(worker)
                worker.handlers["modeldeck"] = agent.make_handler()

        async def teardown(self, worker: Any) -> None:
            if not any(name.startswith("modeldeck-agent-") for name in worker.plugins):
                worker.handlers.pop("modeldeck", None)
                agent = worker.extensions.pop("modeldeck", None)
                if agent is not None:
                    await agent.aclose()

    return ModelDeck()


def make_fleet_plugin(client_id: str, fleet_id: str, topic: str) -> Any:
    """Make the plugin that tells the client of each worker that joins, and ends what a fleet has on a worker."""
    from distributed.diagnostics.plugin import WorkerPlugin

    class ModelDeckFleet(WorkerPlugin):  # type: ignore[misc]
        def __init__(self) -> None:
            self.name = f"modeldeck-fleet-{client_id}-{fleet_id}"

        def setup(self, worker: Any) -> None:
            self.agent = worker.extensions.get("modeldeck")
            worker.log_event(topic, {"joined": worker.address})

        def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
            if self.agent is not None and isinstance(key, str):
                self.agent.models.follow_task(fleet_id, key, start, finish)

        async def teardown(self, worker: Any) -> None:
            if self.agent is not None:
                await self.agent.models.unload(fleet_id)

    return ModelDeckFleet()


def make_search_for_orphans() -> Callable[..., list[str]]:
    """Make the function that finds, on the scheduler, the plugins of clients that have died."""

    def find_orphans(dask_scheduler: Any) -> list[str]:
        names = [name for name in dask_scheduler.worker_plugins if name.startswith("modeldeck-")]
        return [name for name in names if not any(client_id in name for client_id in dask_scheduler.clients)]

    return find_orphans


def make_prompt_task() -> Callable[[dict[str, Any]], Any]:
    """Make the task that answers one prompt."""

    def modeldeck_prompt(message: dict[str, Any]) -> Any:
        from modeldeck.cluster.worker_models import answer

        return answer(message)

    return modeldeck_prompt
