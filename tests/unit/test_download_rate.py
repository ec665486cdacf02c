import pytest

from modeldeck.engine.rate import STALL_SECONDS, WARM_UP_SECONDS, RateMeter


def fed(rate: float, seconds: float, *, step: float = 0.25) -> RateMeter:
    meter = RateMeter()
    for tick in range(int(seconds / step) + 1):
        meter.update(tick * step, int(rate * tick * step))
    return meter


def test_nothing_is_guessed_at_the_start() -> None:
    meter = RateMeter()
    assert meter.rate is None
    assert meter.eta_seconds(1000) is None
    meter.update(0.0, 0)
    meter.update(WARM_UP_SECONDS / 2, 1000)
    assert meter.rate is None


@pytest.mark.parametrize("seconds", [1, 2, 10, 100])
def test_a_constant_speed_is_right_from_the_first_rate_on(seconds: float) -> None:
    meter = fed(1e6, seconds)
    assert meter.rate == pytest.approx(1e6, rel=1e-3)
    assert meter.eta_seconds(5_000_000) == pytest.approx(5.0, rel=1e-3)


def test_the_distance_between_updates_does_not_matter() -> None:
    assert fed(1e6, 10, step=0.1).rate == pytest.approx(fed(1e6, 10, step=1.0).rate, rel=1e-3)


def test_an_old_speed_is_forgotten() -> None:
    meter = fed(10e6, 10)
    for tick in range(1, 81):
        meter.update(10 + tick * 0.25, int(100e6 + 1e6 * tick * 0.25))
    assert meter.rate == pytest.approx(1e6, rel=0.1)


def test_a_stall_is_seen_and_ends_the_estimate() -> None:
    meter = fed(1e6, 5)
    assert not meter.is_stalled
    meter.update(5 + STALL_SECONDS, 5_000_000)
    assert meter.is_stalled
    assert meter.eta_seconds(1000) is None
    meter.update(5.5 + STALL_SECONDS, 5_100_000)
    assert not meter.is_stalled


def test_an_eta_of_weeks_is_left_out() -> None:
    assert fed(100.0, 20).eta_seconds(10**12) is None
    assert fed(100.0, 20).eta_seconds(None) is None


def test_a_clock_that_stands_still_or_goes_back_changes_nothing() -> None:
    meter = fed(1e6, 5)
    before = meter.rate
    meter.update(5.0, 6_000_000)
    meter.update(1.0, 7_000_000)
    assert meter.rate == before
