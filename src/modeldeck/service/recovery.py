"""What a client remembers so that its downloads survive the end of an engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from modeldeck._errors import ModelDeckError
from modeldeck._types import DownloadRequest, DownloadSnapshot, DownloadState
from modeldeck.engine.state import ACTIONS_WITHOUT_ENGINE, is_settled

MAX_RESTARTS = 3
RESTART_WINDOW_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Wish:
    """A download that this client wants: enough to ask a new engine for it. It is kept in memory only."""

    request: DownloadRequest
    token: str | None = field(repr=False)


class Recovery:
    """A client's wishes, and the state of its downloads between one engine and the next. It does no I/O."""

    def __init__(self) -> None:
        self._wishes: dict[str, Wish] = {}
        self._lost: set[str] = set()
        """Downloads that this client has reported as failed because their engine ended."""
        self._owed: set[str] = set()
        """Downloads whose token this client still has to give to a new engine."""
        self._rev_base = 0
        self._engine: tuple[int, float] | None = None
        self._restarts: deque[float] = deque(maxlen=MAX_RESTARTS)

    # --- wishes

    def want(self, job_id: str, request: DownloadRequest, token: str | None) -> None:
        self._wishes[job_id] = Wish(request, token)

    def drop(self, job_id: str) -> None:
        self._wishes.pop(job_id, None)

    def wish(self, job_id: str) -> Wish | None:
        return self._wishes.get(job_id)

    def token_of(self, job_id: str) -> str | None:
        wish = self._wishes.get(job_id)
        return wish.token if wish else None

    # --- the end of an engine

    def may_restart(self, now: float) -> bool:
        """Count one more attempt to replace an engine that ended. ``False`` when there were too many lately."""
        if len(self._restarts) == MAX_RESTARTS and now - self._restarts[0] < RESTART_WINDOW_SECONDS:
            return False
        self._restarts.append(now)
        return True

    def allow_restarts(self) -> None:
        """Forget earlier restarts, because somebody asks for the engine now."""
        self._restarts.clear()

    def lose(self, snapshot: DownloadSnapshot, error: ModelDeckError) -> DownloadSnapshot:
        """Return the snapshot of a running download whose engine ended and could not be replaced."""
        self._lost.add(snapshot.job_id)
        return replace(
            snapshot,
            state=DownloadState.FAILED,
            error=error.to_info(),
            rate=None,
            eta_seconds=None,
            connections=0,
            actions=ACTIONS_WITHOUT_ENGINE,
            rev=snapshot.rev + 1,
        )

    def take_lost(self, job_id: str) -> bool:
        """Whether the download failed only because its engine ended. A second call says no."""
        if job_id not in self._lost:
            return False
        self._lost.discard(job_id)
        return True

    # --- the next engine

    def adopt(self, engine: tuple[int, float], before: Mapping[str, DownloadSnapshot]) -> dict[str, Wish]:
        """Go over to an engine, named by its process id and start time.

        Returns
        -------
        dict
            This client's downloads that the end of the last engine interrupted: the new one may have to be asked again.
        """
        if engine != self._engine:
            self._engine = engine
            self._rev_base = max((snapshot.rev for snapshot in before.values()), default=0)
        cut_off = {
            job_id: wish
            for job_id, wish in self._wishes.items()
            if job_id in self._lost or (job_id in before and not is_settled(before[job_id].state))
        }
        self._lost.clear()
        self._owed = {job_id for job_id, wish in cut_off.items() if wish.token is not None}
        return cut_off

    @property
    def engine(self) -> tuple[int, float] | None:
        """Process id and start time of the engine that was adopted last."""
        return self._engine

    def shift(self, snapshot: DownloadSnapshot) -> DownloadSnapshot:
        """Make ``rev`` grow from engine to engine, although each engine counts from the start."""
        return replace(snapshot, rev=snapshot.rev + self._rev_base) if self._rev_base else snapshot

    def must_give_token(self, snapshot: DownloadSnapshot) -> bool:
        """Whether this snapshot only says that a new engine does not know the token. A second call says no."""
        if snapshot.job_id not in self._owed or not lacks_token(snapshot):
            return False
        self._owed.discard(snapshot.job_id)
        return True


def lacks_token(snapshot: DownloadSnapshot) -> bool:
    """Whether the download failed for want of a token, as every gated one does in an engine that was just started."""
    error = snapshot.error
    return snapshot.state is DownloadState.FAILED and error is not None and error.code in ("unauthorized", "gated")
