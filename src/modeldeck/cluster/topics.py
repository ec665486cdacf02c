"""Events of a Dask cluster for several listeners of one client. Dask itself has one handler for each topic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

Listener = Callable[[dict[str, Any]], None]

_listeners: WeakKeyDictionary[Any, dict[str, list[Listener]]] = WeakKeyDictionary()


def listen(client: Any, topic: str, listener: Listener) -> Callable[[], None]:
    """Call ``listener`` with each event of a topic, on the client's loop. Call this there, too.

    Returns
    -------
    Callable
        Ends it.
    """
    topics = _listeners.setdefault(client, {})
    listeners = topics.setdefault(topic, [])
    listeners.append(listener)
    if len(listeners) == 1:

        def handle(event: tuple[float, dict[str, Any]]) -> None:
            for each in tuple(topics.get(topic, ())):
                each(event[1])

        client.subscribe_topic(topic, handle)

    def stop() -> None:
        if listener in listeners:
            listeners.remove(listener)
            if not listeners and topics.get(topic) is listeners:
                del topics[topic]
                if client.status == "running":
                    client.unsubscribe_topic(topic)

    return stop
