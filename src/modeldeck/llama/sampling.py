"""Logits processors and biases: an error in one ends the generation instead of being lost in native code."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from modeldeck._errors import InvalidRequestError


class GuardedProcessors:
    """Logits processors that keep their first exception, because llama.cpp calls them and knows no exceptions.

    Parameters
    ----------
    processors
        Each takes the tokens so far and their logits, and returns the new logits.
    """

    def __init__(self, processors: Iterable[Callable[[Any, Any], Any]]) -> None:
        self._processors = tuple(processors)
        self._failure: BaseException | None = None

    def __iter__(self) -> Iterator[Callable[[Any, Any], Any]]:
        yield self._process

    def raise_failure(self) -> None:
        """Raise what a processor has raised since the last call."""
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # otherwise the traceback keeps itself, and the model with it, alive

    def _process(self, tokens: Any, logits: Any) -> Any:
        import numpy as np

        try:
            new = logits
            for processor in self._processors:
                new = processor(tokens, new)
                if np.shape(new) != logits.shape:
                    raise InvalidRequestError(
                        f"A logits processor must return {logits.size} logits, one for each token, not "
                        f"{f'an array of the shape {np.shape(new)}' if np.shape(new) else repr(new)}."
                    )
            return np.asarray(new, dtype=logits.dtype)
        except BaseException as error:  # noqa: BLE001 - raised again by `raise_failure`
            self._failure = error
            return logits


def check_processors(processors: Any) -> list[Callable[[Any, Any], Any]]:
    """Return logits processors as a list, and refuse what is not one.

    Raises
    ------
    InvalidRequestError
        When it is a function, for example.
    """
    if isinstance(processors, list | tuple) and all(map(callable, processors)):
        return list(processors)
    raise InvalidRequestError("logits_processor must be a llama_cpp.LogitsProcessorList, or a list of functions.")


def bias_processor(logit_bias: Any, n_vocab: int) -> Callable[[Any, Any], Any]:
    """Make the logits processor that adds ``logit_bias``: numbers by token, which may be text as in JSON.

    Raises
    ------
    InvalidRequestError
        When a token is not one of the model's, or a bias is not a number.
    """
    if not isinstance(logit_bias, dict):
        raise InvalidRequestError("logit_bias must be a dictionary with a number for each token.")
    biases: dict[int, float] = {}
    for key, bias in logit_bias.items():
        try:
            token = int(key) if isinstance(key, str) else operator.index(key)
            biases[token] = float(bias)
        except (TypeError, ValueError):
            raise InvalidRequestError(f"logit_bias must have a number for each token, not {key!r}: {bias!r}.") from None
        if not 0 <= token < n_vocab:
            raise InvalidRequestError(
                f"logit_bias: {token} is not a token of this model. Its tokens are 0 to {n_vocab - 1}."
            )
        if math.isnan(biases[token]):
            raise InvalidRequestError(f"logit_bias: the bias of token {token} is not a number.")

    def add_biases(_tokens: Any, logits: Any) -> Any:
        new = logits.copy()
        for token, bias in biases.items():
            new[token] += bias
        return new

    return add_biases
