"""Whether to try again after a failure, and how long to wait."""

from __future__ import annotations

from dataclasses import dataclass

from modeldeck._backoff import backoff_seconds
from modeldeck._errors import ModelDeckError
from modeldeck.hub.errors import is_transient


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How patient a download is.

    Attributes
    ----------
    max_attempts
        Failures in a row, without progress between them, after which the download fails.
    base_seconds, cap_seconds
        The bound of the first wait, and the largest bound: see `backoff_seconds`.
    longest_wait_seconds
        If a server asks for a longer wait, the download fails and says so.
    progress_bytes
        After this many bytes the failures are counted from 0 again.
    """

    max_attempts: int = 8
    base_seconds: float = 0.5
    cap_seconds: float = 30.0
    longest_wait_seconds: float = 660.0
    progress_bytes: int = 16 << 10


class Attempts:
    """Counts failures in a row and says how long to wait after each."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._progress_at_failure = 0
        self.failures = 0

    def wait_after(self, error: ModelDeckError, progress: int) -> float | None:
        """Return the seconds to wait before the next attempt, or ``None`` if the error is final.

        Parameters
        ----------
        error
            Why the attempt failed.
        progress
            Bytes received so far, in all attempts.
        """
        if not is_transient(error):
            return None
        if progress - self._progress_at_failure >= self._policy.progress_bytes:
            self.failures = 0
        self._progress_at_failure = progress
        self.failures += 1
        if self.failures >= self._policy.max_attempts:
            return None
        wait = backoff_seconds(
            self.failures, base_seconds=self._policy.base_seconds, cap_seconds=self._policy.cap_seconds
        )
        told = error.details.get("retry_after_seconds")
        if told is None:
            return wait
        return told + wait if told <= self._policy.longest_wait_seconds else None
