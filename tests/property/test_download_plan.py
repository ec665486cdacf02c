"""Sets of ranges, and the planner, which hands out every missing byte exactly once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from modeldeck.engine.plan import (
    FAIRNESS_RATIO,
    LARGEST_REQUEST_BYTES,
    SMALLEST_REQUEST_BYTES,
    Lease,
    Planner,
    RangeSet,
    fair_request_bytes,
    request_bytes,
)

LIMIT = 60
ranges = st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT))
operations = st.lists(st.tuples(st.booleans(), ranges))


def cells(found: RangeSet) -> set[int]:
    return {cell for start, stop in found for cell in range(start, stop)}


@given(operations)
def test_a_range_set_is_a_set_of_bytes(steps: list[tuple[bool, tuple[int, int]]]) -> None:
    found, model = RangeSet(), set[int]()
    for is_added, (start, stop) in steps:
        assert found.overlaps(start, stop) == bool(model & set(range(start, stop)))
        if is_added:
            found.add(start, stop)
            model |= set(range(start, stop))
        else:
            found.remove(start, stop)
            model -= set(range(start, stop))
        assert cells(found) == model
        assert found.total == len(model)
        flat = [edge for pair in found for edge in pair]
        assert flat == sorted(set(flat)), "sorted, not empty, merged"
        missing = found.missing(LIMIT)
        assert {c for start, stop in missing for c in range(start, stop)} == set(range(LIMIT)) - model
        assert found.front == next(cell for cell in range(LIMIT + 2) if cell not in model)


@given(st.lists(ranges))
def test_the_order_of_adding_does_not_matter(pairs: list[tuple[int, int]]) -> None:
    assert RangeSet(pairs) == RangeSet(reversed(pairs))


@given(st.floats(0, 1e12), st.floats(0, 1e3), st.integers(0, 1 << 50), st.integers(0, 100))
def test_request_sizes_stay_within_bounds(rate: float, wait: float, waiting: int, workers: int) -> None:
    wanted = request_bytes(rate, wait)
    assert SMALLEST_REQUEST_BYTES <= wanted <= LARGEST_REQUEST_BYTES
    fair = fair_request_bytes(wanted, waiting=waiting, workers=workers, smallest=wanted // FAIRNESS_RATIO)
    assert SMALLEST_REQUEST_BYTES <= fair <= wanted


class PlannerMachine(RuleBasedStateMachine):
    """Connections lease, fetch, fail and help each other in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 40 << 20
        self.planner = Planner([(0, self.size)])
        self.leases: list[Lease] = []
        self.fetched = RangeSet()

    @rule(wanted=st.integers(1, 16 << 20), split_bytes=st.one_of(st.none(), st.integers(0, 1 << 20)))
    def take(self, wanted: int, split_bytes: int | None) -> None:
        lease = self.planner.take(wanted, split_bytes=split_bytes)
        if lease is not None:
            assert lease.remaining > 0
            self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), share=st.floats(0, 1))
    def fetch(self, data: st.DataObject, share: float) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        count = int(lease.remaining * share)
        assert not self.fetched.overlaps(lease.position, lease.position + count), "no byte is fetched twice"
        self.fetched.add(lease.position, lease.position + count)
        lease.position += count

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        self.leases.remove(lease)
        self.planner.give_back(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def restart(self, data: st.DataObject) -> None:
        """A server without ranges sends the file from 0, so no lower range may stay with another connection."""
        lease = data.draw(st.sampled_from(self.leases))
        self.planner.restart(lease)
        others = RangeSet((other.position, other.stop) for other in self.leases)
        missing = RangeSet(self.fetched.missing(self.size))
        for start, stop in others:
            missing.remove(start, stop)
        assert not [start for start, _ in missing if start < lease.position]

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.planner.remaining == self.size - self.fetched.total

    def teardown(self) -> None:
        for lease in self.leases:
            self.planner.give_back(lease)
        while (lease := self.planner.take(16 << 20)) is not None:
            assert not self.fetched.overlaps(lease.position, lease.stop)
            self.fetched.add(lease.position, lease.stop)
            lease.position = lease.stop
            self.planner.give_back(lease)
        assert list(self.fetched) == [(0, self.size)]
        assert self.planner.is_done


TestPlanner = PlannerMachine.TestCase
TestPlanner.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
