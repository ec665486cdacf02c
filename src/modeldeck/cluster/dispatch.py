"""The prompts of one map: which wait, which run, and what came of them. No network."""

from __future__ import annotations

import asyncio
import operator
import uuid
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modeldeck._errors import InvalidRequestError, PromptKilledWorkerError

MAX_DEATHS = 2
"""A prompt whose worker died this often is not tried again: once is an accident."""
_NOT_PARAMETERS = frozenset({"n_ctx", "n_gpu_layers", "n_threads", "revision", "workers"})
"""What a fleet takes, and a prompt does not."""


def read_prompt(prompt: Any, index: int) -> str | list[dict[str, Any]]:
    """Return a prompt as plain data: a text, or the messages of a chat."""
    if isinstance(prompt, str):
        return prompt
    messages = prompt if isinstance(prompt, Sequence) else []
    if not messages or not all(isinstance(each, Mapping) and {"role", "content"} <= set(each) for each in messages):
        raise InvalidRequestError(
            f"Prompt {index} is neither a text nor a list of chat messages, each with a role and a content."
        )
    return [dict(message) for message in messages]


def read_prompts(prompts: Any) -> list[str | list[dict[str, Any]]]:
    """Return the prompts of a map as plain data."""
    if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable):
        raise InvalidRequestError(
            f"The prompts must be a list, not {type(prompts).__name__}. Put a single one into a list: [prompt]."
        )
    return [read_prompt(prompt, index) for index, prompt in enumerate(prompts)]


def read_seeds(seed: Any, total: int) -> list[int] | None:
    """Return the seed of each prompt: an int as seed is that of the first one."""
    if seed is None:
        return None
    try:
        if isinstance(seed, bytes):  # it iterates over ints, but nobody means that
            raise TypeError
        if not isinstance(seed, Iterable):
            first = operator.index(seed)
            return [first + index for index in range(total)]
        seeds = [operator.index(each) for each in seed]
    except TypeError:
        raise InvalidRequestError(f"The seed must be an int, or one int for each prompt, not {seed!r}.") from None
    if len(seeds) != total:
        raise InvalidRequestError(f"There are {len(seeds)} seeds for {total} prompts. Give one for each.")
    return seeds


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters with which a prompt has no result, and what is chosen for a whole fleet."""
    if refused := sorted(_NOT_PARAMETERS & set(parameters)):
        raise InvalidRequestError(
            f"{', '.join(refused)} cannot be chosen for a prompt. "
            f"Use it where the fleet is made: cluster.Fleet(..., {refused[0]}=...)."
        )
    if parameters.get("stream"):
        raise InvalidRequestError("A map cannot stream. Use as_completed, which yields each result as it comes.")


class Dispatch:
    """The state of one map. Everything happens on the client's loop.

    Parameters
    ----------
    prompts
        The prompts, as given.
    parameters
        Arguments of llama-cpp-python for each prompt. With an int as ``seed``, prompt ``i`` gets ``seed + i``.
    full
        Whether llama-cpp-python's dictionaries are wanted instead of texts.
    return_exceptions
        Whether an error takes the place of its prompt's result instead of ending the map.
    loop
        The client's loop.

    Attributes
    ----------
    finished : list of int
        The indices of the prompts that have a result, in the order in which they got it.
    over : asyncio.Future
        The results in the order of the prompts, or the error that ended the map.
    """

    def __init__(
        self,
        prompts: Sequence[Any],
        *,
        parameters: dict[str, Any],
        full: bool,
        return_exceptions: bool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.job_id = uuid.uuid4().hex[:8]
        self._prompts = read_prompts(prompts)
        self._seeds = read_seeds(parameters.pop("seed", None), len(self._prompts))
        check_parameters(parameters)
        self._parameters = parameters
        self._full = full
        self._return_exceptions = return_exceptions
        self._news = asyncio.Event()
        self._waiting = deque(range(len(self._prompts)))
        self._suspects: deque[int] = deque()
        self._attempts: dict[int, int] = {}
        self._deaths: dict[int, list[str]] = {}
        self._results: dict[int, Any] = {}
        self.finished: list[int] = []
        self.failed = 0
        self.tokens = 0
        self.over: asyncio.Future[list[Any]] = loop.create_future()
        if not self._prompts:
            self.over.set_result([])
        self.over.add_done_callback(lambda _: self._tell())

    @property
    def total(self) -> int:
        return len(self._prompts)

    @property
    def is_over(self) -> bool:
        return self.over.done()

    @property
    def has_suspects(self) -> bool:
        """Whether prompts wait to be run alone, because a worker died when it had them."""
        return bool(self._suspects)

    async def nth(self, position: int) -> tuple[int, Any] | None:
        """Wait for the next result, and return its index with it; ``None`` when there are no more.

        Raises
        ------
        Exception
            What ended the map.
        """
        while position >= len(self.finished):
            if self.is_over:
                await self.over
                return None
            await self._news.wait()
        index = self.finished[position]
        return index, self._results[index]

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def message(self, index: int) -> dict[str, Any]:
        """Return what a worker needs to answer a prompt."""
        parameters = dict(self._parameters)
        if self._seeds is not None:
            parameters["seed"] = self._seeds[index]
        return {"prompt": self._prompts[index], "parameters": parameters, "full": self._full}

    def take(self, *, is_free: bool) -> int | None:
        """Return the next prompt to run, or ``None``. A suspect runs only where nothing else does: ``is_free``."""
        if self.is_over:
            return None
        if self._suspects and is_free:
            return self._suspects.popleft()
        if self._waiting:
            return self._waiting.popleft()
        return None

    def count_attempt(self, index: int) -> int:
        """Return how often a prompt was given to a worker before."""
        attempt = self._attempts.get(index, 0)
        self._attempts[index] = attempt + 1
        return attempt

    def is_suspect(self, index: int) -> bool:
        """Return whether a worker died while this prompt was running or about to run there."""
        return index in self._deaths

    def give_back(self, index: int, *, died_on: str | None = None) -> None:
        """Take back a prompt that was not answered. ``died_on`` is the worker whose process ended meanwhile."""
        if self.is_over:
            return
        if died_on is None:
            (self._suspects if self.is_suspect(index) else self._waiting).appendleft(index)
            return
        deaths = self._deaths.setdefault(index, [])
        deaths.append(died_on)
        if len(deaths) < MAX_DEATHS:
            self._suspects.append(index)
            return
        self.fail(
            index,
            PromptKilledWorkerError(
                f"Prompt {index} ended its worker's process on {' and on '.join(deaths)}. Leave it out, or shorten it.",
                index=index,
                workers=deaths,
            ),
        )

    def succeed(self, index: int, value: Any, tokens: int) -> None:
        if not self.is_over:
            self.tokens += tokens
            self._finish(index, value)

    def fail(self, index: int, error: BaseException) -> None:
        """Note the error of a prompt. It ends the map, unless errors are wanted as results."""
        if self.is_over:
            return
        error.add_note(f"Prompt {index} of {self.total} (counted from 0) raised this.")
        error.prompt_index = index  # type: ignore[attr-defined]
        self.failed += 1
        if self._return_exceptions:
            self._finish(index, error)
        else:
            self.end(error)

    def _finish(self, index: int, value: Any) -> None:
        self._results[index] = value
        self.finished.append(index)
        if len(self._results) == self.total:
            self.over.set_result([self._results[place] for place in range(self.total)])
        self._tell()

    def end(self, error: BaseException) -> None:
        """End the map by an error that belongs to no prompt."""
        if not self.is_over:
            self.over.set_exception(error)
            self.over.exception()  # it is raised where the results are asked for, if they are
            self._tell()
