"""Limits of the engine: how they are typed, and which ones are refused."""

import pytest

from modeldeck import EngineLimits, InvalidRequestError, Session
from modeldeck._settings import check_limits
from modeldeck.cli.limits import changed_limits, limits_line, parse_bandwidth


@pytest.mark.parametrize(
    ("text", "bytes_per_second"),
    [
        ("20MB/s", 20_000_000),
        (" 1.5 MiB/s ", 1_572_864),
        ("500kB/s", 500_000),
        ("2GB", 2_000_000_000),
        ("100Mbit/s", 12_500_000),
        ("64 kbit/s", 8_000),
        ("800B/s", 800),
        ("10MBps", 10_000_000),
        ("none", None),
        ("Unlimited", None),
    ],
)
def test_a_bandwidth_is_understood(text: str, bytes_per_second: int | None) -> None:
    assert parse_bandwidth(text) == bytes_per_second


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("20", "not a bandwidth"),
        ("", "not a bandwidth"),
        ("fast", "not a bandwidth"),
        ("-20MB/s", "not a bandwidth"),
        ("1e3MB/s", "not a bandwidth"),
        ("20MB/h", "not a bandwidth"),
        ("nan MB/s", "not a bandwidth"),
        ("20Mb/s", "bits or bytes"),
        ("0MB/s", "less than 1 B/s"),
        ("0.4B/s", "less than 1 B/s"),
    ],
)
def test_a_wrong_bandwidth_says_what_to_write(text: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        parse_bandwidth(text)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (EngineLimits(max_active_jobs=0), "downloads at once"),
        (EngineLimits(max_connections=-1), "connections"),
        (EngineLimits(max_active_jobs=2.5), "whole number"),  # type: ignore[arg-type]
        (EngineLimits(max_connections=True), "whole number"),
        (EngineLimits(max_active_jobs="2"), "whole number"),  # type: ignore[arg-type]
        (EngineLimits(bandwidth_bytes_per_second=0), "at least 1 byte per second"),
        (EngineLimits(bandwidth_bytes_per_second=1e6), "at least 1 byte per second"),  # type: ignore[arg-type]
    ],
)
def test_limits_that_cannot_be_kept_are_refused_before_an_engine_starts(limits: EngineLimits, message: str) -> None:
    for door in (check_limits, lambda limits: Session(limits=limits)):
        with pytest.raises(InvalidRequestError, match=message):
            door(limits)


def test_only_what_is_given_changes() -> None:
    limits = EngineLimits(max_active_jobs=1, max_connections=2, bandwidth_bytes_per_second=3)
    assert changed_limits(limits, None, None, None) == limits
    assert changed_limits(limits, "none", None, 4) == EngineLimits(max_active_jobs=1, max_connections=4)
    assert changed_limits(limits, "1MB/s", 5, None) == EngineLimits(
        max_active_jobs=5, max_connections=2, bandwidth_bytes_per_second=1_000_000
    )
    assert limits_line(limits) == "Bandwidth: 3 B/s. Downloads at once: 1. Connections: 2."
    assert limits_line(EngineLimits()).startswith("Bandwidth: no limit.")
