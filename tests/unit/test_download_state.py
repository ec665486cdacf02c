from itertools import pairwise

from modeldeck._types import DownloadState
from modeldeck.engine.state import LEGAL_MOVES, actions_of, can_move, is_settled

S = DownloadState


def test_every_state_has_its_moves_and_actions() -> None:
    assert set(LEGAL_MOVES) == set(S)
    for state in S:
        assert actions_of(state)


def test_the_usual_way_is_legal() -> None:
    way = [S.QUEUED, S.RESOLVING, S.DOWNLOADING, S.VERIFYING, S.READY]
    assert all(can_move(source, target) for source, target in pairwise(way))


def test_what_is_over_stays_over() -> None:
    assert not LEGAL_MOVES[S.READY]
    assert not LEGAL_MOVES[S.CANCELLED]
    assert not can_move(S.PAUSED, S.DOWNLOADING)
    assert not can_move(S.FAILED, S.PAUSED)


def test_actions_lead_to_legal_moves() -> None:
    goal = {"pause": S.PAUSED, "cancel": S.CANCELLED, "resume": S.QUEUED, "retry": S.QUEUED}
    for state in S:
        for action in actions_of(state):
            if action == "dismiss":
                assert state.is_final
            elif action in ("move_up", "move_down"):
                assert state is S.QUEUED
            else:
                assert can_move(state, goal[action])
        assert ("cancel" in actions_of(state)) == can_move(state, S.CANCELLED)


def test_every_running_state_can_be_stopped_and_can_fail() -> None:
    for state in S:
        if not is_settled(state):
            assert {S.PAUSED, S.CANCELLED, S.FAILED} <= LEGAL_MOVES[state]
