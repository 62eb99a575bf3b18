"""A token bucket: how much of something may be done now, and how long to wait for the rest. Pure; time is an argument."""

from __future__ import annotations


class TokenBucket:
    """`rate` tokens a second, at most `burst` saved up; full at first. Use it from one thread at a time."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at: float | None = None

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` tokens are there, 0 when they are; nothing is taken. More than `burst` counts as `burst`."""
        self._refill(now)
        return max(0.0, (min(amount, self._burst) - self._tokens) / self._rate)

    def take(self, amount: float, now: float) -> float:
        """Take `amount` tokens when they are there and give 0, or give the seconds to wait and take none."""
        seconds = self.wait(amount, now)
        if seconds == 0:
            self._tokens -= amount
        return seconds

    def _refill(self, now: float) -> None:
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
