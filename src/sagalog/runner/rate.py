"""A rate: how many commands of one type may leave in a second, evenly."""

from __future__ import annotations

_BURST_SECONDS = 0.1  # so much of an unused rate may leave at once


class Rate:
    """Lets so many leave in a second: in any T seconds `per_second` times T at most, and one (or a tenth of a second's)."""

    __slots__ = ("_at", "_most", "_tokens", "per_second")

    def __init__(self, per_second: float, now: float) -> None:
        self.per_second: float = per_second
        self._most = max(1.0, per_second * _BURST_SECONDS)
        self._tokens, self._at = self._most, now

    def wait_seconds(self, now: float) -> float:
        """Return how long it is until the next one may leave; 0: it may leave now."""
        self._tokens = min(self._most, self._tokens + max(0.0, now - self._at) * self.per_second)
        self._at = max(self._at, now)
        return 0.0 if self._tokens >= 1.0 - 1e-9 else (1.0 - self._tokens) / self.per_second

    def take(self) -> None:
        """Let one leave."""
        self._tokens -= 1.0
