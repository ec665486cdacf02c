"""The requests of the page, each once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from modeldeck.widget.publisher import Publisher
from modeldeck.widget.requests import AckMessage, Envelope, Malformed, answer, parse

_IDS_REMEMBERED = 512


class Inbox:
    """Acknowledges what arrives and keeps it until it is carried out. For one event loop.

    A request may arrive twice, over the comm and over the control channel. The second copy is acknowledged only.
    """

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._queue: asyncio.Queue[Envelope] = asyncio.Queue()
        self._seen_ids: OrderedDict[str, None] = OrderedDict()

    def receive(self, content: object) -> None:
        """Take a message of the page."""
        message = parse(content)
        if message is None:
            return
        if isinstance(message, Malformed):
            if self._is_new(message.id):
                self._publisher.send(answer(message.id, message.error))
            return
        if self._is_new(message.id):
            self._queue.put_nowait(message)
        # A page that sends a copy has not heard the first acknowledgement.
        self._publisher.send(AckMessage(message.id))

    async def get(self) -> Envelope:
        """The next request."""
        return await self._queue.get()

    def _is_new(self, message_id: str) -> bool:
        """Whether no message with this id has come before. Messages without an id are always new."""
        if not message_id:
            return True
        if message_id in self._seen_ids:
            return False
        self._seen_ids[message_id] = None
        if len(self._seen_ids) > _IDS_REMEMBERED:
            self._seen_ids.popitem(last=False)
        return True
