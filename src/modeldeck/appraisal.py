"""Judge a remote repository's variants from their headers, before any download: memory, fit, recommendation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import anyio.to_thread

from modeldeck._errors import GatedError, GGUFError, ModelDeckError, UnauthorizedError
from modeldeck._types import ErrorInfo, FitEstimate, GGUFFile, RepoDetails, Variant
from modeldeck.remote_headers import RemoteHeaders

if TYPE_CHECKING:
    from modeldeck.gguf.header import StringArray
    from modeldeck.gguf.metadata import GGUFMetadata
    from modeldeck.hub.client import HubClient
    from modeldeck.sizing.dry_run import DryRun
    from modeldeck.sizing.hardware import Hardware
    from modeldeck.sizing.speed import SpeedHistory

_REPOS_KEPT = 64
_MAX_SAMPLES = 4
_CONCURRENT_CHECKS = 6
_MAX_FILES_CHECKED = 64


@dataclass(slots=True)
class _Facts:
    """Facts about the model in a repository. Its quantizations share the header except for the tensors' types.

    ``problems`` has a sentence for each variant that cannot be used, ``checked`` the variants whose headers were read.
    ``access_error`` tells why the Hub does not let this token read them.
    """

    metadata: GGUFMetadata | None = None
    dry_run: DryRun | None = None
    string_arrays: Mapping[str, StringArray] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    checked: set[str] = field(default_factory=set)
    access_error: ErrorInfo | None = None
    is_sampled: bool = False
    is_exact: bool = False


class Appraiser:
    """Reads headers, once for each repository and commit, and judges variants by them.

    They are those of the Hub, or of the cache for details that are from the cache. In a repository that holds different
    models, all are judged by the shape of one of them and by their own sizes.

    Parameters
    ----------
    hub
        Makes the client of the Hub, which may fail.
    cache_dir
        The directory of the cache.
    speed_history
        Returns the speeds that were measured on this machine.
    """

    def __init__(
        self, hub: Callable[[], HubClient], cache_dir: Path, speed_history: Callable[[], SpeedHistory]
    ) -> None:
        self._headers = RemoteHeaders(hub, cache_dir)
        self._speed_history = speed_history
        self._facts: OrderedDict[tuple[str, str, bool], _Facts] = OrderedDict()

    async def appraise(self, details: RepoDetails, *, n_ctx: int) -> RepoDetails:
        """Judge by formula, from the first 32 KiB of one file, or by sizes alone where these bytes cannot be read."""
        return await self._judge(details, await self._quick_facts(details), n_ctx)

    async def appraise_exactly(self, details: RepoDetails, *, n_ctx: int) -> RepoDetails:
        """Judge by whole headers: each variant must be a complete GGUF file, and llama.cpp plans the memory.

        Takes the download of one header (up to some MB) and of parts of the others, and about a second for llama.cpp
        where it is installed, once for each repository and commit.
        """
        facts = await self._quick_facts(details)
        if not facts.is_exact:
            facts.is_exact = await self._read_sample(details, facts)
            await self._check_all(details, facts)
        return await self._judge(details, facts, n_ctx)

    async def appraise_for(
        self, details: RepoDetails, machines: Sequence[Hardware], *, n_ctx: int
    ) -> list[dict[str, FitEstimate]]:
        """Judge by formula for other machines: the estimate for each variant, by its identity, for each of them."""
        facts = await self._quick_facts(details)

        def judge() -> list[dict[str, FitEstimate]]:
            return [
                {variant.variant_id: _estimate(facts, variant, n_ctx, hardware) for variant in details.variants}
                for hardware in machines
            ]

        return await anyio.to_thread.run_sync(judge)

    def forget(self, details: RepoDetails) -> None:
        """Read the headers of a repository again the next time, because its files may have changed."""
        self._facts.pop((details.repo_id, details.commit_hash, details.is_from_cache), None)

    def ask_again(self, details: RepoDetails) -> None:
        """Read a header the next time, if the Hub refused it: access may have been granted since."""
        facts = self._facts_of(details)
        if facts.access_error is not None:
            facts.access_error, facts.is_sampled = None, False

    async def find_problem(self, details: RepoDetails, variant: Variant) -> str | None:
        """Return why a variant cannot be used, in a sentence that also says what to do; ``None`` for a sound one.

        Reads the headers of its files, unless that has been done before. What cannot be read is not a problem.
        """
        facts = self._facts_of(details)
        if variant.variant_id not in facts.checked:
            await self._check(details, facts, variant)
        return facts.problems.get(variant.variant_id)

    async def _quick_facts(self, details: RepoDetails) -> _Facts:
        facts = self._facts_of(details)
        if not facts.is_sampled:
            await self._read_sample_quickly(details, facts)
            facts.is_sampled = True
        return facts

    def _facts_of(self, details: RepoDetails) -> _Facts:
        facts = self._facts.setdefault((details.repo_id, details.commit_hash, details.is_from_cache), _Facts())
        while len(self._facts) > _REPOS_KEPT:
            self._facts.popitem(last=False)
        return facts

    async def _read_sample_quickly(self, details: RepoDetails, facts: _Facts) -> None:
        from modeldeck.gguf.metadata import read_metadata

        for variant in _samples(details, facts):
            try:
                facts.metadata = read_metadata(await self._headers.read_quickly(details, variant.files[0]))
            except GGUFError as error:
                facts.problems[variant.variant_id] = _problem(details, variant.files[0], error)
            except ModelDeckError as refusal:  # a gated repository, or a Hub without ranges: sizes allow an estimate
                if isinstance(refusal, GatedError | UnauthorizedError):
                    facts.access_error = refusal.to_info()
                return
            else:
                return

    async def _read_sample(self, details: RepoDetails, facts: _Facts) -> bool:
        """Read the whole headers of one variant and let llama.cpp plan it. Returns false if the Hub did not answer."""
        from modeldeck.gguf.metadata import read_metadata
        from modeldeck.sizing import dry_run
        from modeldeck.sizing.ask_child import is_llama_cpp_installed

        for variant in _samples(details, facts):
            try:
                found = [await self._headers.read(details, file, keeps_bytes=True) for file in variant.files]
                tensors = tuple(chain.from_iterable(remote.header.tensors for remote in found))
                facts.metadata = replace(read_metadata(found[0].header), tensors=tensors)
            except GGUFError as error:
                facts.problems[variant.variant_id] = _problem(details, variant.files[0], error)
            except ModelDeckError:
                return False
            else:
                facts.checked.add(variant.variant_id)
                facts.string_arrays = found[0].string_arrays
                if is_llama_cpp_installed():
                    parts = [
                        dry_run.HeaderPart(header=remote.raw or b"", size=file.size or 0)
                        for remote, file in zip(found, variant.files, strict=True)
                    ]
                    facts.dry_run = await anyio.to_thread.run_sync(dry_run.dry_run_header, parts)
                return True
        return True

    async def _check_all(self, details: RepoDetails, facts: _Facts) -> None:
        """Check the variants that have not been, best quality first, as far as this takes few enough requests."""
        variants = iter(
            [each for each in details.variants if each.variant_id not in facts.checked | facts.problems.keys()]
        )
        files_left = _MAX_FILES_CHECKED

        async def check_in_turn() -> None:
            nonlocal files_left
            for variant in variants:
                files_left -= len(variant.files)
                if files_left < 0:
                    return
                await self._check(details, facts, variant)

        await anyio.lowlevel.checkpoint()
        async with anyio.create_task_group() as tasks:
            for _ in range(_CONCURRENT_CHECKS):
                tasks.start_soon(check_in_turn)

    async def _check(self, details: RepoDetails, facts: _Facts, variant: Variant) -> None:
        for number, file in enumerate(variant.files):
            try:
                # Only the first shard has the vocabulary.
                await self._headers.read(details, file, string_arrays=facts.string_arrays if number == 0 else None)
            except GGUFError as error:
                facts.problems[variant.variant_id] = _problem(details, file, error)
                return
            except ModelDeckError:
                return
        facts.checked.add(variant.variant_id)

    async def _judge(self, details: RepoDetails, facts: _Facts, n_ctx: int) -> RepoDetails:
        from modeldeck.gguf.model_facts import model_traits
        from modeldeck.sizing.hardware import probe_hardware
        from modeldeck.sizing.recommend import recommend

        hardware = await anyio.to_thread.run_sync(probe_hardware)
        history = await anyio.to_thread.run_sync(self._speed_history)

        def fit_of(variant: Variant) -> FitEstimate:
            from modeldeck.sizing.speed import with_speed

            return with_speed(
                _estimate(facts, variant, n_ctx, hardware, facts.dry_run),
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
            has_access=_has_access(details, facts),
            access_error=facts.access_error,
        )


def _has_access(details: RepoDetails, facts: _Facts) -> bool | None:
    if facts.access_error is not None:
        return False
    return True if facts.metadata is not None and not details.is_from_cache else None


def _estimate(
    facts: _Facts, variant: Variant, n_ctx: int, hardware: Hardware, dry_run: DryRun | None = None
) -> FitEstimate:
    """Judge the memory of a variant on a machine. The dry run is one of that machine's llama.cpp."""
    from modeldeck.sizing.estimate import estimate_fit

    planned = None
    if (problem := facts.problems.get(variant.variant_id)) is not None:
        return FitEstimate(verdict="unusable", n_ctx=n_ctx, reason=problem, reason_code="damaged")
    if dry_run is not None and dry_run.refusal is not None:
        return FitEstimate(verdict="unusable", n_ctx=n_ctx, reason=dry_run.refusal, reason_code="refused")
    if dry_run is not None and dry_run.status == "ok" and variant.model_size is not None:
        planned = dry_run.memory(n_ctx, weights_bytes=variant.model_size)
    return estimate_fit(
        facts.metadata,
        weights_bytes=variant.model_size,
        sidecar_bytes=(variant.size or 0) - (variant.model_size or 0),
        n_ctx=n_ctx,
        hardware=hardware,
        planned=planned,
    )


def _samples(details: RepoDetails, facts: _Facts) -> list[Variant]:
    """Return the variants whose header may stand for all: those with the fewest files first, the best among equals."""
    usable = [variant for variant in details.variants if variant.variant_id not in facts.problems]
    return sorted(usable, key=lambda variant: len(variant.files))[:_MAX_SAMPLES]


def _problem(details: RepoDetails, file: GGUFFile, error: GGUFError) -> str:
    if details.is_from_cache:
        return f"{file.filename} in the cache cannot be used. {error.message}"
    return f"{file.filename} on the Hub cannot be used. {error.message} Choose another variant, or tell its author."
