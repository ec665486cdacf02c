"""How long to wait before a failed request is sent again."""

from __future__ import annotations

import random

_RANDOM = random.Random()


def backoff_seconds(
    failures: int, *, base_seconds: float, cap_seconds: float, generator: random.Random = _RANDOM
) -> float:
    """Draw the wait after ``failures`` failures in a row, with full jitter.

    The wait is uniform between 0 and a bound that doubles with each failure, so that clients that failed together do
    not come back together.

    Parameters
    ----------
    failures
        Failures so far, 1 or more.
    base_seconds
        The bound after the first failure, in seconds.
    cap_seconds
        The largest bound, in seconds.
    generator
        Where the random numbers come from.

    Returns
    -------
    float
        Seconds to wait.

    References
    ----------
    M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Examples
    --------
    >>> 0 <= backoff_seconds(3, base_seconds=0.5, cap_seconds=30.0) <= 2.0
    True
    """
    return generator.uniform(0, min(cap_seconds, base_seconds * 2 ** (failures - 1)))
