import pytest

from modeldeck._errors import (
    GatedError,
    ModelDeckError,
    NetworkTimeoutError,
    OfflineError,
    RateLimitedError,
    ServerError,
)
from modeldeck.engine.retry import Attempts, RetryPolicy

POLICY = RetryPolicy(max_attempts=4, base_seconds=1.0, cap_seconds=3.0, longest_wait_seconds=100.0, progress_bytes=10)


def attempts() -> Attempts:
    return Attempts(POLICY)


def test_waits_have_full_jitter_under_an_exponential_bound() -> None:
    for _ in range(50):
        tries = attempts()
        for bound in (1.0, 2.0, 3.0):
            wait = tries.wait_after(OfflineError("gone"), 0)
            assert wait is not None
            assert 0 <= wait <= bound
        assert tries.wait_after(OfflineError("gone"), 0) is None
    draws = {attempts().wait_after(OfflineError("gone"), 0) for _ in range(50)}
    assert len(draws) == 50


def test_progress_starts_the_count_again() -> None:
    tries = attempts()
    for step in range(100):
        assert tries.wait_after(NetworkTimeoutError("slow"), step * 10) is not None
    assert tries.failures == 1


def test_a_little_progress_is_none() -> None:
    tries = attempts()
    waits = [tries.wait_after(NetworkTimeoutError("slow"), step * 9) for step in range(4)]
    assert waits[-1] is None


@pytest.mark.parametrize("error", [GatedError("no"), ServerError("nonsense"), ServerError("no", status_code=404)])
def test_what_will_not_pass_is_not_tried_again(error: ModelDeckError) -> None:
    assert attempts().wait_after(error, 0) is None


def test_the_server_is_asked_again_when_it_says() -> None:
    wait = attempts().wait_after(RateLimitedError("slow down", retry_after_seconds=60.0), 0)
    assert wait is not None
    assert 60 <= wait <= 61


def test_a_server_that_wants_hours_is_told_to_the_user() -> None:
    assert attempts().wait_after(RateLimitedError("slow down", retry_after_seconds=7200.0), 0) is None
