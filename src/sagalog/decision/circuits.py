"""Which circuits are open: what each worker says about its own, for doctors and dashboards to see."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from ..errors import CodecError


class OpenCircuit(msgspec.Struct, frozen=True):
    """A circuit that was open in a worker when it last said so. It says so again before `until`, if it lives.

    `error` is the type of what the last attempt raised, never its message.
    """

    command: str
    worker: str
    since: datetime
    until: datetime
    failures: int
    error: str = ""


class Circuits(msgspec.Struct, frozen=True):
    """What the workers of a journal say."""

    open: tuple[OpenCircuit, ...] = ()


def reported(circuits: Circuits, worker: str, mine: Iterable[OpenCircuit], now: datetime) -> Circuits:
    """Return what is said once a worker has spoken: what it said before is forgotten, and what is of the dead."""
    others = [one for one in circuits.open if one.worker != worker and one.until > now]
    return Circuits((*others, *mine))


def encode_circuits(circuits: Circuits) -> bytes:
    """Return the payload to store."""
    return msgspec.json.encode(circuits)


def decode_circuits(payload: bytes) -> Circuits:
    """Return what was stored. Raises CodecError for what cannot be read."""
    try:
        return msgspec.json.decode(payload, type=Circuits)
    except msgspec.MsgspecError as error:
        raise CodecError(f"the record of open circuits cannot be read: {error}") from None
