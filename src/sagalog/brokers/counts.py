"""What a source has done, and how it is doing: for health, metrics and `SIGUSR1`."""

from __future__ import annotations

import msgspec


class SourceCounts(msgspec.Struct):
    """Counts of one source since its runner was made."""

    received: int = 0
    redelivered: int = 0  # delivered before, as far as the broker counts
    accepted: int = 0  # after their step was durable, or because they were ignored
    duplicates: int = 0  # of these, known to all their sagas already
    ignored: int = 0  # by policy: unreadable, or taken by no saga
    dead_letters: int = 0
    retried: int = 0  # attempts that failed for a while: the journal was away, say
    broker_errors: int = 0  # calls that the broker did not answer


class SourceGauges(msgspec.Struct, frozen=True):
    """One source now. `lag`: messages before it that are not accepted; `oldest_seconds`: how long the oldest has waited.

    Both are None where the broker does not say, or has not been asked yet. `under_way`: received and not accepted yet.
    `stopped`: why it reads no more; `trouble`: what goes wrong at present.
    """

    name: str
    counts: SourceCounts
    under_way: int = 0
    lag: int | None = None
    oldest_seconds: float | None = None
    stopped: str = ""
    trouble: str = ""
    trouble_seconds: float = 0.0
