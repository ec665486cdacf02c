"""Judge a remote repository's variants from their headers, before any download: memory, fit, recommendation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio.to_thread

from modeldeck._errors import ModelDeckError
from modeldeck._types import FitEstimate, GGUFFile, RepoDetails, Variant

if TYPE_CHECKING:
    from modeldeck.gguf.header import GGUFHeader, HeaderReader
    from modeldeck.gguf.metadata import GGUFMetadata
    from modeldeck.hub.client import HubClient
    from modeldeck.sizing.dry_run import DryRun, HeaderPart
    from modeldeck.sizing.speed import SpeedHistory

_REPOS_KEPT = 64


@dataclass(frozen=True, slots=True)
class _Facts:
    """Facts about the model in a repository. Its quantizations share the header except for the tensors' types."""

    metadata: GGUFMetadata | None = None
    dry_run: DryRun | None = None


class Appraiser:
    """Reads remote headers, once for each repository and commit, and judges variants by them.

    In a repository that holds different models, all are judged by the shape of one of them and by their own sizes.
    """

    def __init__(self, hub: HubClient, speed_history: Callable[[], SpeedHistory]) -> None:
        self._hub = hub
        self._speed_history = speed_history
        self._facts: OrderedDict[tuple[str, str], _Facts] = OrderedDict()

    async def appraise(self, details: RepoDetails, *, n_ctx: int) -> RepoDetails:
        """Judge by formula, from the first 32 KiB of one file, or by sizes alone where these bytes cannot be read."""
        key = (details.repo_id, details.commit_hash)
        if key not in self._facts and details.variants:
            self._remember(details, _Facts(await self._quick_metadata(details)))
        return await self._judge(details, n_ctx)

    async def appraise_exactly(self, details: RepoDetails, *, n_ctx: int) -> RepoDetails:
        """Judge by a dry run of llama.cpp with the whole header; by formula where llama.cpp is not installed.

        Takes the download of the header (up to a few MB) and about a second, once for each repository and commit.
        """
        from modeldeck.sizing import dry_run
        from modeldeck.sizing.ask_child import is_llama_cpp_installed

        facts = self._facts.get((details.repo_id, details.commit_hash), _Facts())
        if facts.dry_run is None and is_llama_cpp_installed() and details.variants:
            from modeldeck.gguf.metadata import read_metadata

            try:
                headers, parts = await self._whole_headers(details)
                metadata = read_metadata(headers[0])
            except ModelDeckError:
                return await self.appraise(details, n_ctx=n_ctx)
            planned = await anyio.to_thread.run_sync(dry_run.dry_run_header, parts)
            self._remember(details, _Facts(metadata, planned))
        return await self.appraise(details, n_ctx=n_ctx)

    def _remember(self, details: RepoDetails, facts: _Facts) -> None:
        self._facts[details.repo_id, details.commit_hash] = facts
        while len(self._facts) > _REPOS_KEPT:
            self._facts.popitem(last=False)

    async def _judge(self, details: RepoDetails, n_ctx: int) -> RepoDetails:
        from modeldeck.gguf.metadata import model_traits
        from modeldeck.sizing.hardware import probe_hardware
        from modeldeck.sizing.recommend import recommend

        facts = self._facts.get((details.repo_id, details.commit_hash), _Facts())
        hardware = await anyio.to_thread.run_sync(probe_hardware)
        history = await anyio.to_thread.run_sync(self._speed_history)

        def fit_of(variant: Variant) -> FitEstimate:
            from modeldeck.sizing.estimate import estimate_fit
            from modeldeck.sizing.speed import with_speed

            planned = None
            dry_run = facts.dry_run
            if dry_run is not None and dry_run.status in ("refused", "would_abort"):
                return FitEstimate(
                    verdict="unknown", n_ctx=n_ctx, reason=f"llama.cpp cannot load this model here: {dry_run.reason}"
                )
            if dry_run is not None and dry_run.status == "ok" and variant.model_size is not None:
                planned = dry_run.memory(n_ctx, weights_bytes=variant.model_size)
            fit = estimate_fit(
                facts.metadata,
                weights_bytes=variant.model_size,
                sidecar_bytes=(variant.size or 0) - (variant.model_size or 0),
                n_ctx=n_ctx,
                hardware=hardware,
                planned=planned,
            )
            return with_speed(
                fit,
                facts.metadata,
                weights_bytes=variant.model_size,
                hardware=hardware,
                history=history,
                sha256=variant.files[0].sha256,
            )

        fits = {variant.variant_id: fit_of(variant) for variant in details.variants}
        recommendation = recommend(details.variants, fits)
        return replace(
            details,
            fits=fits,
            recommended=None if recommendation is None else recommendation.variant_id,
            recommended_reason=None if recommendation is None else recommendation.reason,
            model=None if facts.metadata is None else model_traits(facts.metadata),
        )

    async def _quick_metadata(self, details: RepoDetails) -> GGUFMetadata | None:
        from modeldeck.gguf.header import HeaderReader
        from modeldeck.gguf.metadata import read_metadata

        file = _sample(details).files[0]
        try:
            return read_metadata(await self._read(details, file, HeaderReader(is_quick=True, file_size=file.size)))
        except ModelDeckError:
            # A gated repository, a Hub without ranges, a broken header: the sizes still allow an estimate.
            return None

    async def _whole_headers(self, details: RepoDetails) -> tuple[list[GGUFHeader], list[HeaderPart]]:
        from modeldeck.gguf.header import HeaderReader
        from modeldeck.sizing.dry_run import HeaderPart

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
            raise ValueError("The reader has read everything and still has no header.")
        return reader.header


def _sample(details: RepoDetails) -> Variant:
    """Choose the variant whose header stands for all: the best quality among those with the fewest files."""
    return min(details.variants, key=lambda variant: len(variant.files))
