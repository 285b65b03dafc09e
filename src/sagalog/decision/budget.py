"""A rate that workers share: a bucket of tokens that fills evenly, from which each takes some for its next second.

One token lets one command leave. The bucket holds those of one second at most (and at least one), so that nobody is let
through in a rush for what was not used before.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from ..errors import CodecError

_AHEAD = timedelta(seconds=10)  # by which a worker's clock may be ahead of another's


class Budget(msgspec.Struct, frozen=True):
    """How many tokens were in the bucket at a moment."""

    at: datetime
    tokens: float


def most_tokens(rate: float) -> float:
    """Return how many tokens the bucket holds."""
    return max(1.0, rate)


def taking(budget: Budget | None, rate: float, now: datetime, wanted: int, back: int) -> tuple[Budget, int]:
    """Return the bucket after a worker has taken up to `wanted` tokens, and how many it got.

    `back`: those of its last ones that it has not used. A clock that is behind another fills nothing; one that was ahead
    by more than ten seconds is not believed any more.
    """
    most = most_tokens(rate)
    if budget is None or budget.at > now + _AHEAD:
        budget = Budget(now, most if budget is None else min(most, budget.tokens))
    passed = max(0.0, (now - budget.at).total_seconds())
    tokens = min(most, budget.tokens + passed * rate + back)
    got = min(wanted, int(tokens + 1e-9))
    return Budget(max(now, budget.at), tokens - got), got


def wait_seconds(budget: Budget, rate: float) -> float:
    """Return how long it is until the bucket holds a token."""
    return max(0.0, (1.0 - budget.tokens) / rate)


def encode_budget(budget: Budget) -> bytes:
    """Return the payload to store."""
    return msgspec.json.encode(budget)


def decode_budget(payload: bytes) -> Budget:
    """Return what was stored. Raises CodecError for what cannot be read."""
    try:
        return msgspec.json.decode(payload, type=Budget)
    except msgspec.MsgspecError as error:
        raise CodecError(f"the shared rate of a command type cannot be read: {error}") from None
