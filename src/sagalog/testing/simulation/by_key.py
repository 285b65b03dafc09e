"""Rules about keys: a unique one is held once at a time, and an accepted event reached all who held its key."""

from __future__ import annotations

from ...decision import ids
from ...decision.entries import FINAL
from ...decision.inbox import each
from ...decision.keys import KeyValue, pairs
from ...decision.reservation import decode_reservation
from .ledger import Landed, Ledger
from .outside import SentEvent
from .situation import Situation


def check_unique(ledger: Ledger) -> None:
    """No two live instances of a saga hold the same value of a unique key, and its reservation names the one that does."""
    landed = sorted(
        (one for lives in ledger.lives.values() for life in lives for one in life), key=lambda one: one.tick
    )
    holders: dict[tuple[str, KeyValue], str] = {}
    reserved: dict[str, str] = {}
    for one in landed:
        persistence_id = one.message.persistence_id
        if persistence_id.startswith(ids.BY_KEY):
            reserved[persistence_id] = "" if one.message.deleted else decode_reservation(one.message.payload).holder
            continue
        if one.record is None and one.message.payload:
            continue  # a newer version wrote it: what it holds is not known
        saga, correlation_id = ids.parts_of(persistence_id)
        held = _held(one)
        for key, holder in list(holders.items()):
            if key[0] == saga and holder == correlation_id and key[1] not in held:
                del holders[key]
        for name, text in held:
            holder = holders.setdefault((saga, (name, text)), correlation_id)
            here = f"{persistence_id}#{one.message.sequence_nr}"
            assert holder == correlation_id, f"{here} holds the unique key {name}={text}, and {holder!r} holds it, too"
            at = reserved.get(ids.reservation_id(saga, name, text), "")
            assert at == correlation_id, f"{here} holds the unique key {name}={text}, which is reserved for {at!r}"


def _held(landed: Landed) -> set[KeyValue]:
    record = landed.record
    if record is None or record.status in FINAL:
        return set()
    return set(pairs(record.unique_keys))


def check_reached(run: Situation, sent: SentEvent, saga: str, by: KeyValue) -> None:
    """Whoever held the key all the while that the event was on its way, until it was accepted, knows it."""
    accepted = sent.known[saga]
    began = max((tick for _, tick in sent.attempts if tick < accepted), default=accepted)
    for persistence_id, lives in run.ledger.lives.items():
        if ids.parts_of(persistence_id)[0] != saga or not persistence_id.startswith(ids.FAMILY):
            continue
        before = None
        known = False
        held = True
        for one in (one for life in lives for one in life):
            if one.tick < began:
                before = one
            elif one.tick < accepted:
                held = held and one.record is not None and one.record.holds(by)
            if one.record is not None and one.tick < accepted:
                record = one.record
                known = known or sent.message_id in {
                    *(handled.id for handled in record.handled),
                    *each(record.inbox),
                    *(waits.id for waits in (*record.held, *record.kept)),
                }
        held = held and before is not None and before.record is not None and before.record.holds(by)
        assert known or not held, (
            f"{sent.message_id} was accepted, and {persistence_id}, which held its key, has not had it"
        )
