"""Arguments that would end the process are refused before llama.cpp sees them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from modeldeck._errors import InvalidRequestError
from modeldeck.llama.install import import_llama_cpp

if TYPE_CHECKING:
    from modeldeck.llama.control import Control


class CheckedLlama:
    """Between the guard and ``llama_cpp.Llama``."""

    if TYPE_CHECKING:
        _control: Control

        def __getattr__(self, name: str) -> Any: ...

    def eval(self, tokens: Sequence[int]) -> None:
        self._control.check_going()
        if self._ctx.memory is None:
            raise InvalidRequestError(
                "This model cannot generate text: it makes embeddings, or was loaded with vocab_only=True. Use embed()."
            )
        super().eval(tokens)  # type: ignore[misc]

    def _init_sampler(self, *args: Any, grammar: Any = None, **kwargs: Any) -> Any:
        if grammar is not None:
            self._check_grammar(grammar)
        return super()._init_sampler(*args, grammar=grammar, **kwargs)  # type: ignore[misc]

    def _check_grammar(self, grammar: Any) -> None:
        """llama.cpp answers a wrong grammar with a null sampler, which llama-cpp-python then uses."""
        bindings = import_llama_cpp().llama_cpp
        self._control.thread.log.clear()
        sampler = bindings.llama_sampler_init_grammar(
            self._model.vocab, grammar._grammar.encode(), grammar._root.encode()
        )
        if not sampler:
            reason = self._control.thread.log.reason() or "see the GBNF guide of llama.cpp"
            raise InvalidRequestError(f"The grammar cannot be used: {reason}.")
        bindings.llama_sampler_free(sampler)


class CheckedModel:
    """In front of ``llama_cpp._internals.LlamaModel``, whose vocabulary everybody reads, on any thread."""

    if TYPE_CHECKING:
        _control: Control

        def n_vocab(self) -> int: ...

    def tokenize(self, text: bytes, add_bos: bool, special: bool) -> list[int]:
        tokenize = functools.partial(super().tokenize, text, add_bos, special)  # type: ignore[misc]
        tokens: list[int] = self._control.look_up(tokenize)
        return tokens

    def detokenize(self, tokens: list[int], special: bool = False) -> bytes:
        self._check(tokens)
        text: bytes = self._control.look_up(functools.partial(super().detokenize, tokens, special))  # type: ignore[misc]
        return text

    def token_to_piece(self, token: int, special: bool = False) -> bytes:
        self._check([token])
        return super().token_to_piece(token, special)  # type: ignore[misc, no-any-return]

    def token_get_text(self, token: int) -> str:
        self._check([token])
        return super().token_get_text(token)  # type: ignore[misc, no-any-return]

    def token_get_score(self, token: int) -> float:
        self._check([token])
        return super().token_get_score(token)  # type: ignore[misc, no-any-return]

    def token_get_attr(self, token: int) -> int:
        self._check([token])
        return super().token_get_attr(token)  # type: ignore[misc, no-any-return]

    def _check(self, tokens: Iterable[int]) -> None:
        n_vocab = self.n_vocab()
        wrong = next((token for token in tokens if not 0 <= token < n_vocab), None)
        if wrong is not None:
            raise InvalidRequestError(f"{wrong} is no token of this model: tokens are 0 to {n_vocab - 1}.")


@functools.cache
def checked_llama_class() -> Any:
    return type("CheckedLlama", (CheckedLlama, import_llama_cpp().Llama), {})


def check_model(model: Any, control: Control) -> None:
    """Put the checks in front of a model that llama-cpp-python has made."""
    model._control = control
    model.__class__ = checked_model_class()


@functools.cache
def checked_model_class() -> Any:
    return type("CheckedModel", (CheckedModel, import_llama_cpp()._internals.LlamaModel), {})
