"""The states of a download and the moves between them, as data."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from modeldeck._types import Action, DownloadState

_S = DownloadState

LEGAL_MOVES: Mapping[DownloadState, frozenset[DownloadState]] = MappingProxyType(
    {
        _S.QUEUED: frozenset({_S.RESOLVING, _S.PAUSED, _S.FAILED, _S.CANCELLED}),
        _S.RESOLVING: frozenset({_S.DOWNLOADING, _S.VERIFYING, _S.READY, _S.PAUSED, _S.FAILED, _S.CANCELLED}),
        _S.DOWNLOADING: frozenset({_S.VERIFYING, _S.READY, _S.PAUSED, _S.FAILED, _S.CANCELLED}),
        _S.VERIFYING: frozenset({_S.DOWNLOADING, _S.READY, _S.PAUSED, _S.FAILED, _S.CANCELLED}),
        _S.PAUSED: frozenset({_S.QUEUED, _S.CANCELLED}),
        _S.FAILED: frozenset({_S.QUEUED, _S.CANCELLED}),
        _S.READY: frozenset(),
        _S.CANCELLED: frozenset(),
    }
)

_ACTIONS: Mapping[DownloadState, tuple[Action, ...]] = MappingProxyType(
    {
        _S.QUEUED: ("move_up", "move_down", "pause", "cancel"),
        _S.RESOLVING: ("pause", "cancel"),
        _S.DOWNLOADING: ("pause", "cancel"),
        _S.VERIFYING: ("pause", "cancel"),
        _S.PAUSED: ("resume", "cancel"),
        _S.FAILED: ("retry", "cancel", "dismiss"),
        _S.READY: ("dismiss",),
        _S.CANCELLED: ("dismiss",),
    }
)


ACTIONS_WITHOUT_ENGINE: tuple[Action, ...] = ("retry",)
"""For a download that failed because its engine ended: the others need an engine that knows it."""


def can_move(source: DownloadState, target: DownloadState) -> bool:
    """Return whether a download may go from one state directly to another."""
    return target in LEGAL_MOVES[source]


def actions_of(state: DownloadState) -> tuple[Action, ...]:
    """Return the actions that are possible in a state.

    Pausing stops a download and keeps its partial files; resuming continues it. Retrying continues a failed download.
    Cancelling stops it and deletes its partial files, also those of a failed download. Those that another unfinished
    download needs stay, and those of a repair, as they are the user's model. Dismissing takes a download that has ended
    off the list and leaves the partial files of a failed one for a later download of the same file. Moving up or down
    changes the order of those that wait.
    """
    return _ACTIONS[state]


def is_settled(state: DownloadState) -> bool:
    """Return whether nothing happens any more without another action."""
    return state.is_final or state is DownloadState.PAUSED
