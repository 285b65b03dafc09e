"""Live instances by fields of an index and by keys, without the saga's code: which of both a name is, the records say.

A journal with an index is asked for each way in which the names may be meant, one way after another: first for the holders
of unique keys, by their reservations; then with each name as a field or as a key. An instance is told of in one way only.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from ..decision.ids import key_term, persistence_id, reservation_id, term_of
from ..decision.record import SagaRecord
from ..decision.reservation import decode_reservation
from ..definition.indexing import Index
from ..definition.keys import may_be_key
from ..errors import CodecError
from ..journal import Journal, PersistentRepr
from ..journal.protocol import FindsByTerms
from .view import SagaView, view_of, whole_view

_FIELD, _KEY = "f", "k"  # a way is a letter for each name; that of unique keys is empty, and so before all others
_MANY = 3  # names; from here on, it is asked first which of them are keys at all


class FoundPage(NamedTuple):
    """Instances that were found. `place` goes on from there; empty: there are no more. `looked_at`: records read."""

    views: list[SagaView]
    place: str
    looked_at: int


async def found_by(journal: Journal, saga: str, wanted: Index, *, place: str = "", limit: int = 64) -> FoundPage:
    """Return a page of the live instances that have what is wanted; and of those that may, and cannot be read.

    The latter may come on several pages. The journal has an index. Raises InvalidEventError for what can be no term.
    """
    assert isinstance(journal, FindsByTerms)
    way, _, after = place.partition(":")
    if way:
        later = [one for one in await _ways(journal, saga, wanted) if one >= way]
        if not later:
            return FoundPage([], "", 0)
        if later[0] != way:  # it was left out meanwhile
            way, after = later[0], ""
        page, after = await journal.latest_by_terms(_terms(saga, wanted, way), after=after, limit=limit)
    else:
        page, after, later = await _holders(journal, saga, wanted), "", ["", _FIELD]
    views = [await whole_view(journal, message) for message in page if _is_meant(message, wanted, way)]
    if after:
        return FoundPage(views, f"{way}:{after}", len(page))
    return FoundPage(views, f"{later[1]}:" if len(later) > 1 else "", len(page))


async def _holders(journal: Journal, saga: str, wanted: Index) -> list[PersistentRepr]:
    """Return who may hold one of these as a unique key."""
    ids = [reservation_id(saga, *one) for one in _keys(wanted)]
    holders: set[str] = set()
    for found in await journal.latest_messages(ids) if ids else ():
        if found is not None and not found.deleted:
            try:
                holders.add(decode_reservation(found.payload).holder)
            except CodecError:  # of newer code: who holds it is not known to this one
                pass
    if not holders:
        return []
    newest = await journal.latest_messages([persistence_id(saga, holder) for holder in sorted(holders)])
    return [one for one in newest if one is not None and not one.deleted]


async def _ways(index: FindsByTerms, saga: str, wanted: Index) -> list[str]:
    keys = dict(_keys(wanted))
    if len(wanted) >= _MANY:  # each that is none halves the ways
        for name, text in list(keys.items()):
            if not (await index.latest_by_terms([key_term(saga, name, text)], limit=1))[0]:
                del keys[name]
    return ["".join(way) for way in itertools.product(*(_FIELD + _KEY * (name in keys) for name in wanted))]


def _keys(wanted: Index) -> list[tuple[str, str]]:
    return [(name, text) for name, text in wanted.items() if text is not None and may_be_key(name, text)]


def _terms(saga: str, wanted: Index, way: str) -> list[str]:
    return [
        key_term(saga, name, text or "") if letter == _KEY else term_of(saga, name, text)
        for (name, text), letter in zip(wanted.items(), way, strict=True)
    ]


def _is_meant(message: PersistentRepr, wanted: Index, way: str) -> bool:
    record = view_of(message).record
    return record is None or (record.found_by(wanted) and _way(record, wanted) == way)


def _way(record: SagaRecord, wanted: Index) -> str:
    """Return the way in which an instance that has what is wanted is told of."""
    letters = ""
    for name, text in wanted.items():
        if name not in record.index and text not in record.keys.get(name, ()):
            return ""
        letters += _FIELD if name in record.index else _KEY
    return letters
