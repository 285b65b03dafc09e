"""What a runner has done so far."""

from __future__ import annotations

import msgspec

from ..decision.message import Outcome


class Counters(msgspec.Struct):
    """Counts since the runner was made. An event for two sagas counts twice."""

    handled: int = 0  # messages that changed an instance
    duplicates: int = 0  # messages that were known already
    ignored: int = 0  # events for which there was no live instance
    held: int = 0  # messages kept for the repair of a parked instance
    kept: int = 0  # messages that wait in the record for their moment; counted as handled, too, when it has come
    started: int = 0
    finished: int = 0
    saves: int = 0  # records written
    conflicts: int = 0  # saves lost to another worker, and decided again
    commands: int = 0  # commands accepted
    refused: int = 0
    dispatch_errors: int = 0  # attempts that failed and are tried again
    handler_errors: int = 0
    timers: int = 0  # timers that fired
    parked: int = 0
    takeovers: int = 0  # instances whose undelivered commands were taken over
    purged: int = 0


def count(counters: Counters, outcome: Outcome) -> None:
    """Count what became of a message."""
    if outcome is Outcome.HANDLED:
        counters.handled += 1
    elif outcome is Outcome.DUPLICATE:
        counters.duplicates += 1
    elif outcome is Outcome.HELD:
        counters.held += 1
    elif outcome is Outcome.KEPT:
        counters.kept += 1
    else:
        counters.ignored += 1
