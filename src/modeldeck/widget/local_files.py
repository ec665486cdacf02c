"""Which models are in the cache, as the cards and the library show them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from modeldeck._types import LocalModel, RepoDetails, Variant
from modeldeck.cache_contents import CacheContents
from modeldeck.session import Session
from modeldeck.widget.tasks import guard

if TYPE_CHECKING:
    from modeldeck.llama import Measurement

GONE = "The model's files are no longer in the cache. Download it again."


class LocalFiles:
    """Knows what was in the cache at the last look, and what has been downloaded since.

    Parameters
    ----------
    session : Session
        Asked for the contents of the cache.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._listeners: list[Callable[[], None]] = []
        self._found: set[tuple[str, str, str]] = set()
        self._models: dict[tuple[str, str, str], LocalModel] = {}
        self._measured: dict[tuple[str, str, str], Measurement] = {}
        self._is_outdated = asyncio.Event()
        self._is_outdated.set()
        self._look = asyncio.Lock()
        """One look at a time, so that the last one that began is the last one that is shown."""
        self.is_known = False
        """Whether the cache has been looked at."""
        self.contents = CacheContents()
        """What the last look has found."""
        self.measured: dict[Path, Measurement] = {}
        """What the last load of these files took."""

    def listen(self, on_change: Callable[[], None]) -> None:
        """Call ``on_change`` whenever something is new."""
        self._listeners.append(on_change)

    @property
    def repo_ids(self) -> frozenset[str]:
        """The repositories of which a variant is complete."""
        return frozenset(repo_id for repo_id, _, _ in self._found)

    def of(self, details: RepoDetails) -> dict[str, Measurement | None]:
        """The ``variant_id`` of every variant that is complete, with what its last load took.

        The files of another commit count too if they are the same.
        """
        found = sorted(
            (key[1] == details.commit_hash, key)
            for key in self._found
            if key[0] == details.repo_id and (key[1] == details.commit_hash or self._is_same(key, details))
        )
        return {key[2]: self._measured.get(key) for _, key in found}

    def _is_same(self, key: tuple[str, str, str], details: RepoDetails) -> bool:
        variant = details.variant(key[2])
        return variant is not None and key in self._models and self._models[key].has_content_of(variant)

    def lacking(self, details: RepoDetails) -> frozenset[str]:
        """The ``variant_id`` of every variant that is here without a file that goes with it."""
        here = self.of(details)
        return frozenset(
            variant.variant_id
            for variant in details.variants
            if variant.sidecars and variant.variant_id in here and not self._has_sidecars(variant, details)
        )

    def _has_sidecars(self, variant: Variant, details: RepoDetails) -> bool:
        wanted = {sidecar.file.filename for sidecar in variant.sidecars}
        models = [
            model
            for (repo_id, _, variant_id), model in self._models.items()
            if (repo_id, variant_id) == (details.repo_id, variant.variant_id)
        ]
        return not models or any(wanted <= set(model.filenames) for model in models)

    async def find(self, repo_id: str, variant_id: str, details: RepoDetails | None) -> LocalModel | None:
        """The files of one variant, looked up now."""
        if details is None:
            return await self._session.find_local(repo_id, variant_id)
        found = await self._session.find_local(repo_id, variant_id, commit_hash=details.commit_hash)
        if found is not None:
            return found
        await self.refresh()
        keys = [key for key in sorted(self._found) if key[0] == repo_id and key[2] == variant_id]
        same = next((key for key in keys if self._is_same(key, details)), None)
        return None if same is None else await self._session.find_local(repo_id, variant_id, commit_hash=same[1])

    def add(self, repo_id: str, commit_hash: str, variant_id: str) -> None:
        """Show a finished download at once, and look again: a look that is running may have missed it."""
        self._found.add((repo_id, commit_hash, variant_id))
        self._tell()
        self._is_outdated.set()

    def outdate(self) -> None:
        """Have `follow` look again."""
        self._is_outdated.set()

    async def follow(self) -> None:
        """Look whenever the last look is out of date."""
        while True:
            await self._is_outdated.wait()
            self._is_outdated.clear()
            await guard(self.refresh)

    async def refresh(self) -> None:
        """Look now."""
        async with self._look:
            contents = await self._session.contents()
            models = {
                (stored.model.repo_id, stored.model.commit_hash, stored.model.variant_id): stored.model
                for stored in contents.models
            }
            self.measured = await self._session.measured(models.values())
            self.contents, self.is_known = contents, True
            self._models, self._found = models, set(models)
            self._measured = {
                key: self.measured[model.path] for key, model in models.items() if model.path in self.measured
            }
            self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
