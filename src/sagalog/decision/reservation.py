"""Who may hold a unique key: the record that reserves it for one step of one instance, and what it is worth.

A reservation names an instance and the number of the step that is to hold the key, and is written before that step. It is
worth something while the newest record of that instance holds the key, or while that step may still be written:

    held      the newest record holds the key
    pending   it does not, and its number is lower: the step may be on its way
    free      it does not, and its number is as high: the step can be written no more

So the record of the instance alone says who holds a key, and nothing has to be confirmed or released in a second write.
docs/design/0031-unique-keys.md has the argument.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum

import msgspec

from ..definition.codec import NOT_JSON
from ..errors import CodecError
from .entries import FINAL
from .ids import reservations_of
from .keys import KeyValue
from .record import decode_record

FORMAT = 1
MANIFEST = "saga-key"


class Reservation(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, frozen=True):
    """One value of a unique key, reserved. `epoch`: of the holder's records; 0 where none was written before the step."""

    holder: str  # correlation id
    version: int  # of the step
    at: datetime  # when it was reserved
    epoch: int = 0
    format: int = FORMAT


class Standing(Enum):
    """What a reservation is worth."""

    HELD = "held"
    PENDING = "pending"
    FREE = "free"


_decoder = msgspec.json.Decoder(Reservation)


def encode_reservation(reservation: Reservation) -> bytes:
    """Return its stored form."""
    return msgspec.json.encode(reservation)


def decode_reservation(payload: bytes) -> Reservation:
    """Return the reservation. Raises CodecError for damaged data, or a format newer than this code."""
    try:
        found = _decoder.decode(payload)
    except NOT_JSON:
        raise CodecError("the stored reservation of a key is damaged, or a newer version wrote it: upgrade") from None
    if found.format != FORMAT:
        raise CodecError(f"the reservation of a key has format {found.format}; this code knows up to {FORMAT}: upgrade")
    return found


def standing(reservation: Reservation, key: KeyValue, newest: tuple[bytes, int, int] | None) -> Standing:
    """Return what a reservation is worth. `newest`: payload, number and epoch of its holder's newest record, if any.

    A record that this code cannot read may hold anything: then the key is held.
    """
    if newest is None:
        return Standing.PENDING  # also of a holder that was purged: whoever knows nothing of it may still begin it
    payload, version, epoch = newest
    if payload:
        try:
            record = decode_record(payload)
        except CodecError:
            return Standing.HELD
        if record.status not in FINAL and key[1] in record.unique_keys.get(key[0], ()):
            return Standing.HELD
    if version >= reservation.version or reservation.epoch not in (0, epoch):
        return Standing.FREE
    return Standing.PENDING


def key_in(saga: str, reservation: str) -> KeyValue | None:
    """Return the key that a reservation's id is about; None for the id of anything else."""
    prefix = reservations_of(saga)
    name, separator, text = reservation.removeprefix(prefix).partition("=")
    return (name, text) if separator and reservation.startswith(prefix) else None
