"""What a remote repository's variants need, and whether they fit this machine: from headers, before any download."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio.to_thread

from modeldeck._errors import ModelDeckError
from modeldeck._types import FitEstimate, GGUFFile, RepoDetails, Variant

if TYPE_CHECKING:
    from modeldeck.fit.native import HeaderPart, NativeAnswer
    from modeldeck.gguf.header import GGUFHeader, HeaderReader
    from modeldeck.gguf.metadata import GGUFMetadata
    from modeldeck.hub.client import HubClient

_REPOS_KEPT = 64


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is known of the model in a repository. All its quantizations share the header but for the tensors' types."""

    metadata: GGUFMetadata | None = None
    answer: NativeAnswer | None = None


class Appraiser:
    """Reads remote headers, once per repository and commit, and judges variants by them.

    A repository that holds different models is judged by its first one's shape and each variant's own size.
    """

    def __init__(self, hub: HubClient) -> None:
        self._hub = hub
        self._facts: OrderedDict[tuple[str, str], _Facts] = OrderedDict()

    async def appraise(self, details: RepoDetails, *, n_ctx: int) -> RepoDetails:
        """Judge by the formula, from the first 32 KiB of one file; by sizes alone where even these cannot be had."""
        key = (details.repo_id, details.commit_hash)
        if key not in self._facts and details.variants:
            self._remember(details, _Facts(await self._quick_metadata(details)))
        return await self._judge(details, n_ctx)

    async def appraise_exactly(self, details: RepoDetails, *, n_ctx: int) -> RepoDetails:
        """Judge by what llama.cpp itself answers about the whole header; as `appraise` where it cannot be asked.

        Takes the header's download (up to some MB) and about a second, once per repository and commit.
        """
        from modeldeck.fit import native

        facts = self._facts.get((details.repo_id, details.commit_hash), _Facts())
        if facts.answer is None and native.is_available() and details.variants:
            from modeldeck.gguf.metadata import read_metadata

            try:
                headers, parts = await self._whole_headers(details)
                metadata = read_metadata(headers[0])
            except ModelDeckError:
                return await self.appraise(details, n_ctx=n_ctx)
            answer = await anyio.to_thread.run_sync(native.ask_about_header, parts)
            self._remember(details, _Facts(metadata, answer))
        return await self.appraise(details, n_ctx=n_ctx)

    def _remember(self, details: RepoDetails, facts: _Facts) -> None:
        self._facts[details.repo_id, details.commit_hash] = facts
        while len(self._facts) > _REPOS_KEPT:
            self._facts.popitem(last=False)

    async def _judge(self, details: RepoDetails, n_ctx: int) -> RepoDetails:
        from modeldeck.fit.hardware import probe_hardware
        from modeldeck.gguf.metadata import model_traits
        from modeldeck.gguf.names import recommend

        facts = self._facts.get((details.repo_id, details.commit_hash), _Facts())
        hardware = await anyio.to_thread.run_sync(probe_hardware)

        def fit_of(variant: Variant) -> FitEstimate:
            from modeldeck.fit.estimate import estimate_fit

            measured = None
            answer = facts.answer
            if answer is not None and answer.status in ("refused", "would_abort"):
                return FitEstimate(
                    verdict="unknown", n_ctx=n_ctx, reason=f"llama.cpp cannot load this model here: {answer.reason}"
                )
            if answer is not None and answer.status == "ok" and variant.model_size is not None:
                measured = answer.memory(n_ctx, weights_bytes=variant.model_size)
            return estimate_fit(
                facts.metadata,
                weights_bytes=variant.model_size,
                sidecar_bytes=(variant.size or 0) - (variant.model_size or 0),
                n_ctx=n_ctx,
                hardware=hardware,
                measured=measured,
            )

        fits = {variant.variant_id: fit_of(variant) for variant in details.variants}
        return replace(
            details,
            fits=fits,
            recommended=recommend(details.variants, fits),
            model=None if facts.metadata is None else model_traits(facts.metadata),
        )

    async def _quick_metadata(self, details: RepoDetails) -> GGUFMetadata | None:
        from modeldeck.gguf.header import HeaderReader
        from modeldeck.gguf.metadata import read_metadata

        file = _sample(details).files[0]
        try:
            return read_metadata(await self._read(details, file, HeaderReader(is_quick=True, file_size=file.size)))
        except ModelDeckError:
            # A gated repository, a Hub without ranges, a broken header: the sizes still tell something.
            return None

    async def _whole_headers(self, details: RepoDetails) -> tuple[list[GGUFHeader], list[HeaderPart]]:
        from modeldeck.fit.native import HeaderPart
        from modeldeck.gguf.header import HeaderReader

        headers, parts = [], []
        for file in _sample(details).files:
            reader = HeaderReader(file_size=file.size, keeps_bytes=True)
            headers.append(await self._read(details, file, reader))
            parts.append(HeaderPart(header=reader.raw or b"", size=file.size or 0))
        return headers, parts

    async def _read(self, details: RepoDetails, file: GGUFFile, reader: HeaderReader) -> GGUFHeader:
        while (needed := reader.needed) is not None:
            start, stop = needed
            data = await self._hub.fetch_range(details.repo_id, details.commit_hash, file.filename, start, stop)
            reader.feed(data, start)
        if reader.header is None:
            raise ValueError("a reader that needs nothing has a header")
        return reader.header


def _sample(details: RepoDetails) -> Variant:
    """The variant whose header is read for all: in as few files as possible, and the best of these."""
    return min(details.variants, key=lambda variant: len(variant.files))
