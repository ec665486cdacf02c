"""The trait ``_library``: what is in the cache, whoever put it there, and what is being verified."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec

from modeldeck._errors import InvalidRequestError, ModelDeckError
from modeldeck._types import ErrorInfo
from modeldeck.session import Session
from modeldeck.widget.local_files import GONE, LocalFiles
from modeldeck.widget.pacer import Pacer
from modeldeck.widget.publisher import Publisher
from modeldeck.widget.tasks import Tasks, guard, outcome_of
from modeldeck.widget.traits import (
    VARIANT_ACTIONS,
    BlobView,
    CheckView,
    LeftoverView,
    LibraryRowView,
    LibraryView,
    LoadView,
    MeasuredView,
    ModelKey,
    ProofView,
    VariantAction,
)

if TYPE_CHECKING:
    from modeldeck._types import LocalModel
    from modeldeck.cache_contents import CacheContents, StoredModel
    from modeldeck.llama import Measurement


@dataclass(slots=True, kw_only=True)
class _Check:
    """A verification or repair that runs or waits."""

    is_repair: bool
    fraction: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """Why the last verification or repair of a model came to no result, and when."""

    error: ErrorInfo
    at: float


class LibraryOwner:
    """Owns the trait ``_library``. Files are read one model after the other, because a disk gains nothing by more.

    Parameters
    ----------
    session, publisher, tasks
        Shared with the other owners.
    files : LocalFiles
        Looks at the cache.
    """

    def __init__(self, session: Session, publisher: Publisher, tasks: Tasks, files: LocalFiles) -> None:
        self._session = session
        self._publisher = publisher
        self._tasks = tasks
        self._files = files
        self._load = LoadView()
        self._checks: dict[ModelKey, _Check] = {}
        self._queue: deque[ModelKey] = deque()
        self._scope: anyio.CancelScope | None = None
        self._errors: dict[ModelKey, _Failure] = {}
        self._is_busy = False
        self._pacer = Pacer(self._publish)
        files.listen(self._show_files)

    def show_load(self, load: LoadView) -> None:
        """Show which model is loaded or being loaded."""
        self._load = load
        self._publish()

    def verify(self, keys: Iterable[ModelKey], *, repair: bool = False) -> None:
        """Compare the files of these models with their digests, one model after the other."""
        for key in keys:
            self._find(key)
            if key not in self._checks:
                self._errors.pop(key, None)
                self._checks[key] = _Check(is_repair=repair)
                self._queue.append(key)
        self._publish()
        if not self._is_busy:
            self._is_busy = True
            self._tasks.start(self._work)

    def cancel(self, keys: Iterable[ModelKey]) -> None:
        """Stop verifying these models; with none given, all of them."""
        for key in tuple(keys) or tuple(self._checks):
            if key in self._queue:
                self._queue.remove(key)
                self._checks.pop(key, None)
            elif key in self._checks and self._scope is not None:
                self._scope.cancel()
        self._publish()

    async def remove(self, keys: Iterable[ModelKey]) -> int:
        """Delete these models. Returns the bytes that came free."""
        models = [(key, self._find(key).model) for key in keys]
        if any(key in self._checks for key, _ in models):
            raise InvalidRequestError(
                "A model that is being verified cannot be removed. Cancel the verification first."
            )
        freed = 0
        try:
            for _, model in models:
                freed += await self._session.remove(model)
        finally:
            await self._files.refresh()
        return freed

    async def remove_leftovers(self, ids: Iterable[str]) -> None:
        """Delete leftovers, of those that the page shows."""
        wanted = set(ids)
        contents = await self._session.contents()
        found = [leftover for leftover in contents.leftovers if self._leftover_id(leftover.path) in wanted]
        await self._session.remove_leftovers(found)
        await self._files.refresh()

    def check_idle(self, repo_id: str, variant_id: str) -> None:
        """Refuse to remove the files of a model that is being verified."""
        if any((key.repo_id, key.variant_id) == (repo_id, variant_id) for key in self._checks):
            raise InvalidRequestError("This model is being verified. Cancel that first, then remove it.")

    async def _work(self) -> None:
        sound: list[LocalModel] = []
        try:
            while self._queue:
                key = self._queue.popleft()
                with anyio.CancelScope() as self._scope:
                    sound += await self._check(key)
                self._scope = None
                self._checks.pop(key, None)
                await guard(self._files.refresh)
        finally:
            self._is_busy = False
        self._tell_sound(sound)

    def _tell_sound(self, models: list[LocalModel]) -> None:
        """One message for all of them: many would hide those about damaged models."""
        if len(models) > 1:
            text = f"{len(models)} models are exactly what the Hub has."
            self._publisher.toast("success", text, "verified_several", models=len(models))
        for model in models if len(models) == 1 else ():
            text = f"{model.label} of {model.repo_id} is exactly what the Hub has."
            self._publisher.toast("success", text, "verified", label=model.label, repo_id=model.repo_id)

    async def _check(self, key: ModelKey) -> list[LocalModel]:
        """Verify or repair a model. Returns it if a verification has found it sound."""
        check = self._checks[key]
        check.fraction = 0.0

        def report(done: int, total: int) -> None:
            check.fraction = done / total if total else 1.0
            self._pacer.mark()

        try:
            stored = self._find(key)
            name = f"{stored.model.label} of {key.repo_id}"
            verify = partial(self._session.verify, repair=check.is_repair, progress=report, on_notice=_in_row)
            files = await outcome_of(verify, stored.model)
        except ModelDeckError as error:
            self._publisher.report(error)
            await guard(self._files.refresh)
            if any(_key(stored) == key for stored in self._files.contents.models):
                self._errors[key] = _Failure(error=error.to_info(), at=time.time())
            else:  # its files are gone, and there is no row that could show it
                self._publisher.toast("error", error.message, error=error.to_info())
            return []
        say = partial(self._publisher.toast, label=stored.model.label, repo_id=key.repo_id)
        if any(file.is_valid is False for file in files):
            say("error", f"{name} is damaged. Repair it to fetch the damaged parts again.", "damaged")
        elif any(file.is_valid is None for file in files):
            say("info", f"{name} was read, but the Hub does not tell a digest to compare it with.", "uncompared")
        elif not check.is_repair:  # the engine tells of a repair
            return [stored.model]
        return []

    def _find(self, key: ModelKey) -> StoredModel:
        stored = next((stored for stored in self._files.contents.models if _key(stored) == key), None)
        if stored is None:
            raise InvalidRequestError(GONE)
        return stored

    def _show_files(self) -> None:
        """Show what is in the cache now, without errors about files that are gone or were compared since."""
        proofs = {_key(stored): stored.proof for stored in self._files.contents.models}
        for key, failure in tuple(self._errors.items()):
            proof = proofs.get(key)
            if key not in proofs or (proof is not None and proof.at > failure.at):
                del self._errors[key]
        self._publish()

    def _leftover_id(self, path: Path) -> str:
        return path.relative_to(self._session.settings.cache_dir).as_posix()

    def _publish(self) -> None:
        view = library_view(
            self._files.contents,
            cache_dir=self._session.settings.cache_dir,
            is_known=self._files.is_known,
            measured=self._files.measured,
            load=self._load,
            checks={
                key: CheckView(is_repair=check.is_repair, fraction=check.fraction)
                for key, check in self._checks.items()
            },
            errors={key: failure.error for key, failure in self._errors.items()},
        )
        self._publisher.publish("library", view)


def _in_row(_notice: str) -> None:
    """The row tells of files of the user's own, and a toast of those that cannot be compared."""


def library_view(
    contents: CacheContents,
    *,
    cache_dir: Path,
    is_known: bool = True,
    measured: dict[Path, Measurement] | None = None,
    load: LoadView | None = None,
    checks: dict[ModelKey, CheckView] | None = None,
    errors: dict[ModelKey, ErrorInfo] | None = None,
) -> LibraryView:
    """The view of a cache.

    Parameters
    ----------
    contents : CacheContents
        What the cache holds.
    cache_dir : Path
        Where it is.
    is_known : bool
        Whether somebody has looked yet.
    measured : dict, optional
        What the last load of a file took, by its path.
    load : LoadView, optional
        The model that is loaded or being loaded.
    checks, errors : dict, optional
        The verifications that run or wait, and the errors of the last ones.
    """
    return LibraryView(
        is_known=is_known,
        models=tuple(
            _row(stored, measured or {}, load or LoadView(), checks or {}, errors or {}) for stored in contents.models
        ),
        leftovers=tuple(
            LeftoverView(
                leftover_id=leftover.path.relative_to(cache_dir).as_posix(),
                repo_id=leftover.repo_id,
                kind=leftover.kind,
                name=leftover.name,
                size=leftover.size,
                modified_at=leftover.modified_at,
                is_in_use=leftover.is_in_use,
            )
            for leftover in contents.leftovers
        ),
        free_bytes=contents.free_bytes,
        total_bytes=contents.total_bytes,
    )


def _row(
    stored: StoredModel,
    measured: dict[Path, Measurement],
    load: LoadView,
    checks: dict[ModelKey, CheckView],
    errors: dict[ModelKey, ErrorInfo],
) -> LibraryRowView:
    model, key = stored.model, _key(stored)
    state = load.variant_state(model.repo_id, model.variant_id, model.commit_hash) or "downloaded"
    measurement = measured.get(model.path)
    return LibraryRowView(
        repo_id=model.repo_id,
        variant_id=model.variant_id,
        commit_hash=model.commit_hash,
        label=model.label,
        revision=model.revision,
        filenames=model.filenames,
        own_filenames=model.own_filenames,
        size=sum(blob.size for blob in stored.blobs) or model.size,
        blobs=tuple(msgspec.convert(blob, BlobView, from_attributes=True) for blob in stored.blobs),
        last_used=stored.last_used,
        proof=None if stored.proof is None else msgspec.convert(stored.proof, ProofView, from_attributes=True),
        check=checks.get(key),
        error=errors.get(key),
        state=state,
        actions=_actions(stored, state, checks.get(key)),
        measured=None if measurement is None else msgspec.convert(measurement, MeasuredView, from_attributes=True),
    )


def _actions(stored: StoredModel, state: str, check: CheckView | None) -> tuple[VariantAction, ...]:
    """The buttons of a model in the library: those of its card, and those that keep it sound."""
    if state == "loading":
        return VARIANT_ACTIONS["loading"]
    can_be_removed = bool(stored.blobs)  # what is the user's own is neither verified nor removed
    actions: list[VariantAction] = ["unload" if state == "loaded" else "load"]
    if check is not None:
        return (*actions, "cancel_verify")
    if can_be_removed:
        actions.append("verify")
    if stored.proof is not None and not stored.proof.is_valid:
        actions.append("repair")
    if can_be_removed and state != "loaded":
        actions.append("remove")
    return tuple(actions)


def _key(stored: StoredModel) -> ModelKey:
    model = stored.model
    return ModelKey(repo_id=model.repo_id, variant_id=model.variant_id, commit_hash=model.commit_hash)
