"""The Hub's rate limits, read from every answer and respected before they are reached. Pure: callers pass the time.

The Hub counts requests in fixed windows of five minutes, for three buckets: "api", "resolvers" and "pages". Every
answer carries ``RateLimit: "api";r=499;t=125``: requests left, seconds until the window ends.

References
----------
https://huggingface.co/docs/hub/rate-limits and draft-ietf-httpapi-ratelimit-headers-09.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_MAX_WAIT_SECONDS = 86_400.0
"""The longest wait, whatever a server asks for."""

_BUCKETS = ("api", "resolvers", "pages")

_RATE_LIMIT = re.compile(r'"([\w. -]{1,64})"\s*;\s*r\s*=\s*(\d{1,12})\s*;\s*t\s*=\s*(\d{1,12})')
_SECONDS = re.compile(r"\d{1,12}(\.\d{1,6})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """The requests that are left in one bucket, and the seconds until it is full again."""

    bucket: str
    remaining: int
    reset_seconds: float


def lower_names(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers by lower-case name, so that any mapping of them is read alike."""
    return {name.lower(): value for name, value in headers.items()}


def parse_rate_limit(headers: Mapping[str, str]) -> RateLimit | None:
    """Return the bucket with the fewest requests left, or ``None`` when the answer has no rate limit."""
    found = [
        RateLimit(bucket=bucket, remaining=int(remaining), reset_seconds=min(float(reset), _MAX_WAIT_SECONDS))
        for bucket, remaining, reset in _RATE_LIMIT.findall(lower_names(headers).get("ratelimit", ""))
    ]
    return min(found, key=lambda rate_limit: rate_limit.remaining, default=None)


def parse_retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return the seconds to wait by ``Retry-After`` (a number or an HTTP date), or else by an exhausted ``RateLimit``.

    Parameters
    ----------
    now
        Seconds since the epoch. It counts for a date only if the answer has no ``Date``: the clocks may differ.
    """
    fields = lower_names(headers)
    value = fields.get("retry-after", "").strip()
    if _SECONDS.fullmatch(value):
        return min(float(value), _MAX_WAIT_SECONDS)
    moment = _moment(value)
    if moment is not None:
        sent_at = _moment(fields.get("date", "")) or datetime.fromtimestamp(now, UTC)
        return max(0.0, min((moment - sent_at).total_seconds(), _MAX_WAIT_SECONDS))
    rate_limit = parse_rate_limit(headers)
    if rate_limit is not None and rate_limit.remaining == 0:
        return rate_limit.reset_seconds
    return None


def _moment(text: str) -> datetime | None:
    """Return an HTTP date, or ``None`` for any other text."""
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class RateLimits:
    """Remembers each bucket's state from the last answers, and how long to wait before the next request.

    ``now`` is in seconds, of any one clock that only goes forward.
    """

    def __init__(self) -> None:
        self._blocked_until: dict[str, float] = {}

    def observe(self, headers: Mapping[str, str], *, now: float) -> None:
        """Remember the rate limit in an answer's headers."""
        rate_limit = parse_rate_limit(headers)
        if rate_limit is None or rate_limit.bucket not in _BUCKETS:
            return
        if rate_limit.remaining == 0:
            self._blocked_until[rate_limit.bucket] = now + rate_limit.reset_seconds
        else:
            self._blocked_until.pop(rate_limit.bucket, None)

    def wait_seconds(self, bucket: str, *, now: float) -> float:
        """Return the seconds until the bucket has requests again, or 0 when a request may be sent now."""
        return max(0.0, self._blocked_until.get(bucket, now) - now)
