"""What the errors of JetStream mean."""

from __future__ import annotations

from ...errors import JournalFormatError, JournalUnavailableError

WRONG_LAST = (10071, 10164)  # compare-and-set failed
IN_PROCESS = 10158  # the same message id is just being stored for somebody else
NO_MESSAGE = 10037
NO_RESPONDERS = 503
BUSY = (NO_RESPONDERS, 429)  # "too many requests": nothing was done
PASSING = (NO_RESPONDERS, 10167)  # certainly not stored, and another time it is
NO_JETSTREAM = (10039, 10076)
NO_PEERS = 10005  # fewer servers than replicas are known, perhaps only for now
DENIED = -1
_NO_STREAM = 10059
_FULL = (10002, 10023, 10028, 10047, 10077, 10122)
_SEALED = 10109


class Rejected(Exception):  # noqa: N818
    """JetStream's answer is an error: certainly not done."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(description)
        self.code = code
        self.description = description


NOBODY_ANSWERS = Rejected(NO_RESPONDERS, "JetStream does not answer: is it on, and has the cluster a leader?")


def takes_no_more(error: Rejected) -> bool:
    """Say whether a stream can be read only, because it is full or sealed."""
    return error.code in _FULL or error.code == _SEALED


def refused(error: Rejected, where: str, stream: str) -> JournalUnavailableError | JournalFormatError:
    """Return our error for an answer that says no; nothing was stored."""
    if error.code == DENIED:
        return JournalUnavailableError(
            f"{where}: {error.description}: grant the user that permission. Nothing was stored."
        )
    if error.code == _NO_STREAM:
        return JournalFormatError(
            f"{where} has no stream {stream!r}: create it with `sagalog migrate --journal URL`, or open the journal with "
            "?migrate=true"
        )
    if error.code in _FULL:
        return JournalUnavailableError(
            f"{where}: the stream {stream!r} is full ({error.description}): give JetStream more room. Nothing was stored."
        )
    if error.code == _SEALED:
        return JournalUnavailableError(
            f"{where}: the stream {stream!r} is sealed, which cannot be undone: export it to another journal. Nothing was "
            "stored."
        )
    return JournalUnavailableError(f"{where}: {error.description} ({error.code}). Nothing was stored.")
