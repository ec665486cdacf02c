import random

import pytest

from modeldeck._backoff import backoff_seconds


@pytest.mark.parametrize(("failures", "bound"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 3.0), (50, 3.0)])
def test_the_wait_is_drawn_below_a_bound_that_doubles_up_to_the_cap(failures: int, bound: float) -> None:
    waits = [
        backoff_seconds(failures, base_seconds=0.5, cap_seconds=3.0, generator=random.Random(seed))
        for seed in range(200)
    ]
    assert 0 <= min(waits) < 0.1 * bound
    assert 0.9 * bound < max(waits) <= bound
    assert len(set(waits)) == 200
