import json
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeldeck.hub.ratelimit import RateLimit, RateLimits, parse_rate_limit, parse_retry_after

RECORDED = json.loads((Path(__file__).parents[1] / "data/http/ratelimit.json").read_text())
NOW = 1_790_000_000.0


def test_every_recorded_header_is_understood() -> None:
    found = [parse_rate_limit(item["headers"]) for item in RECORDED if "ratelimit" in map(str.lower, item["headers"])]
    assert [(limit.bucket, limit.remaining, limit.reset_seconds) for limit in found if limit] == [
        ("pages", 94, 53.0),
        ("resolvers", 2999, 51.0),
        ("resolvers", 2999, 69.0),
        ("api", 499, 125.0),
        ("api", 0, 55.0),
    ]


def test_the_policy_beside_it_is_no_limit() -> None:
    headers = {"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    assert parse_rate_limit(headers) == RateLimit(bucket="api", remaining=0, reset_seconds=55.0)


def test_of_several_buckets_the_emptiest_counts() -> None:
    limit = parse_rate_limit({"ratelimit": '"a";r=9;t=1, "b";r=2;t=3, "c";r=5;t=1'})
    assert limit is not None
    assert (limit.bucket, limit.remaining) == ("b", 2)


@pytest.mark.parametrize("value", ["", "api", '"api"', '"api";r=x;t=1', '"api";r=-1;t=1', '"api";r=1e9;t=1', "r=1;t=2"])
def test_other_text_is_no_rate_limit(value: str) -> None:
    assert parse_rate_limit({"RateLimit": value}) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"Retry-After": formatdate(NOW + 90, usegmt=True)}, 90.0),
        ({"Retry-After": formatdate(NOW - 90, usegmt=True)}, 0.0),
        ({"Retry-After": formatdate(NOW + 3605, usegmt=True), "Date": formatdate(NOW + 3600, usegmt=True)}, 5.0),
        ({"retry-after": formatdate(NOW - 3595, usegmt=True), "date": formatdate(NOW - 3600, usegmt=True)}, 5.0),
        ({"Retry-After": formatdate(NOW + 90, usegmt=True), "Date": "today"}, 90.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 -0000"}, 0.0),
        ({"Retry-After": "999999999999"}, 86_400.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "3", "RateLimit": '"api";r=0;t=55'}, 3.0),
        ({"Retry-After": "soon", "RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"RateLimit": '"api";r=3;t=55'}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert parse_retry_after(headers, now=NOW) == seconds


@given(st.dictionaries(st.sampled_from(["retry-after", "date", "ratelimit", "ratelimit-policy"]), st.text(max_size=60)))
def test_no_header_breaks_the_parsers(headers: dict[str, str]) -> None:
    wait = parse_retry_after(headers, now=NOW)
    assert wait is None or 0 <= wait <= 86_400
    parse_rate_limit(headers)


def test_an_exhausted_bucket_holds_back_its_own_requests_until_its_window_ends() -> None:
    limits = RateLimits()
    assert limits.wait_seconds("api", now=100.0) == 0.0
    limits.observe({"RateLimit": '"api";r=0;t=55'}, now=100.0)
    assert limits.wait_seconds("api", now=110.0) == 45.0
    assert limits.wait_seconds("resolvers", now=110.0) == 0.0
    assert limits.wait_seconds("api", now=156.0) == 0.0
    limits.observe({"RateLimit": '"api";r=499;t=290'}, now=120.0)
    assert limits.wait_seconds("api", now=120.0) == 0.0


def test_only_the_hubs_buckets_are_remembered() -> None:
    limits = RateLimits()
    for number in range(1000):
        limits.observe({"RateLimit": f'"bucket{number}";r=0;t=55'}, now=0.0)
    assert limits.wait_seconds("bucket7", now=0.0) == 0.0
