"""The tasks of one widget: each may fail without taking the others with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from modeldeck._errors import ModelDeckError

_logger = logging.getLogger(__name__)
T = TypeVar("T")


async def outcome_of(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run ``function``. A bug is raised as a `ModelDeckError` too, and is logged with its traceback."""
    try:
        return await function(*args)
    except ModelDeckError:
        raise
    except Exception as error:
        _logger.exception("modeldeck's widget failed")
        raise ModelDeckError(
            f"Internal error: {type(error).__name__}: {error}. The kernel's log has the details; please report them."
        ) from error


async def guard(function: Callable[..., Awaitable[object]], *args: Any) -> ModelDeckError | None:
    """Run ``function`` and return its error, as `outcome_of` would raise it."""
    try:
        await outcome_of(function, *args)
    except ModelDeckError as error:
        return error
    return None


class Tasks:
    """A task group whose tasks are guarded. Usable only inside ``async with``.

    It is asyncio's and not anyio's, because tasks are started by callbacks of the loop too, which have no task of their
    own.
    """

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()

    def start(self, function: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Run ``function`` beside everything else. Does nothing when the widget is being closed."""
        coroutine = guard(function, *args)
        try:
            self._group.create_task(coroutine)
        except RuntimeError:  # the group is shutting down
            coroutine.close()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._group.__aexit__(kind, error, trace)
