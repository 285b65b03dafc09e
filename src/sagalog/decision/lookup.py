"""Which messages a record holds or keeps: looked up again and again, while more and more of them come.

A lookup outlives the draft that made it. It knows for which messages it was made, and is made anew for any others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from typing import Any

from .entries import Held
from .record import SagaRecord

FEW = 64  # fewer are searched one by one


class HeldLookup:
    """Finds a message among those that a record holds. Of many, only what was added since the last call is read."""

    __slots__ = ("_count", "_ids", "_numbers", "_of")

    def __init__(self) -> None:
        self._of: Sequence[Held] = ()
        self._count = 0  # a draft may have added to `_of` since
        self._ids: set[tuple[str, str]] = set()
        self._numbers: set[tuple[str, int]] = set()

    def has(self, messages: Sequence[Held], message_id: str, kind: str) -> bool:
        """Say whether that message is among them."""
        if len(messages) < FEW:
            return any(one.id == message_id and one.kind == kind for one in messages)
        self._look_at(messages)
        return (kind, message_id) in self._ids

    def has_number(self, messages: Sequence[Held], sequence: str, number: int) -> bool:
        """Say whether a message with that number of a sequence is among them."""
        if len(messages) < FEW:
            return any(one.number == number and one.sequence == sequence for one in messages)
        self._look_at(messages)
        return (sequence, number) in self._numbers

    def _look_at(self, messages: Sequence[Held]) -> None:
        known = self._count
        if messages is self._of:
            if len(messages) == known:
                return
        elif tuple(messages[:known]) != tuple(self._of[:known]):
            known = 0
            self._ids, self._numbers = set(), set()
        for one in messages[known:]:
            self._ids.add((one.kind, one.id))
            if one.sequence:
                self._numbers.add((one.sequence, one.number))
        self._of, self._count = messages, len(messages)


class KeptMessages:
    """What a record keeps, oldest first, while a draft adds messages and takes others out.

    It finds one by its id or its number, and the first of each type and of each sequence, without looking at the others.
    Whether the moment of a message has come depends on nothing but its type, its kind, its life and its number; so no other
    one can be next.
    """

    __slots__ = ("_added", "_by_id", "_numbers", "_of_sequence", "_of_type", "_oldest", "_stored")

    def __init__(self, messages: tuple[Held, ...]) -> None:
        self._by_id: dict[tuple[str, str], Held] = {}
        self._numbers: set[tuple[str, int]] = set()
        # What is taken out stays in these until it comes to their front.
        self._oldest: deque[Held] = deque()
        self._of_type: dict[tuple[str, str, int], deque[tuple[int, Held]]] = {}
        self._of_sequence: dict[str, list[tuple[int, int, Held]]] = {}  # heaps, lowest number first
        self._added = 0
        for one in messages:
            self.add(one)
        self._stored: tuple[Held, ...] | None = messages

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Held]:
        return iter(self._by_id.values())

    def add(self, one: Held) -> None:
        """Keep one more message. One that is kept already is kept once."""
        key = one.kind, one.id
        if key in self._by_id:
            return
        self._by_id[key] = one
        self._stored = None
        self._oldest.append(one)
        if one.sequence:
            self._numbers.add((one.sequence, one.number))
            heappush(self._of_sequence.setdefault(one.sequence, []), (one.number, self._added, one))
        else:
            alike = self._of_type.setdefault((one.event.type, one.kind, one.life), deque())
            alike.append((self._added, one))
        self._added += 1

    def take(self, message_id: str, kind: str) -> Held:
        """Take that message out. Raises KeyError if it is not kept."""
        one = self._by_id.pop((kind, message_id))
        self._numbers.discard((one.sequence, one.number))
        self._stored = None
        return one

    def has(self, message_id: str, kind: str) -> bool:
        """Say whether that message is kept."""
        return (kind, message_id) in self._by_id

    def has_number(self, sequence: str, number: int) -> bool:
        """Say whether the message with that number of a sequence is kept."""
        return (sequence, number) in self._numbers

    @property
    def sequences(self) -> list[str]:
        """The sequences of which a message is kept."""
        return [sequence for sequence in self._of_sequence if self.lowest(sequence) is not None]

    def lowest(self, sequence: str) -> int | None:
        """Return the lowest number of a sequence that is kept."""
        heap = self._of_sequence.get(sequence, [])
        while heap and self._is_gone(heap[0][2]):
            heappop(heap)
        return heap[0][0] if heap else None

    def oldest(self) -> Held:
        """Return the message that came first. Raises IndexError if none is kept."""
        while self._is_gone(self._oldest[0]):
            self._oldest.popleft()
        return self._oldest[0]

    def first(self, has_come: Callable[[Held], bool]) -> Held | None:
        """Return the oldest of those whose moment `has_come`; in a sequence, a lower number comes before a higher one."""
        found, place = None, self._added
        for at, one in self._fronts():
            if at < place and has_come(one):
                found, place = one, at
        return found

    def _fronts(self) -> Iterator[tuple[int, Held]]:
        for alike in self._of_type.values():
            while alike and self._is_gone(alike[0][1]):
                alike.popleft()
            if alike:
                yield alike[0]
        for sequence, heap in self._of_sequence.items():
            if self.lowest(sequence) is not None:
                yield heap[0][1:]

    def _is_gone(self, one: Held) -> bool:
        return self._by_id.get((one.kind, one.id)) is not one

    def stored(self) -> tuple[Held, ...]:
        """Return them as a record is stored with them."""
        if self._stored is None:
            self._stored = tuple(self._by_id.values())
        return self._stored

    def is_of(self, kept: tuple[Held, ...]) -> bool:
        """Say whether these are all of `kept`, and not much more room is taken than they need."""
        return self._stored is kept and self._added <= 2 * len(kept) + FEW


class MessageLookups:
    """What is known of the messages of one instance, from one draft to the next."""

    __slots__ = ("held", "kept")

    def __init__(self) -> None:
        self.held: HeldLookup = HeldLookup()
        self.kept: KeptMessages = KeptMessages(())

    def kept_by(self, record: SagaRecord) -> KeptMessages:
        """Return what the record of a draft keeps, in the place of its tuple: a change of it changes the record."""
        kept: Any = record.kept
        if kept is not self.kept:
            if not self.kept.is_of(kept):
                self.kept = KeptMessages(kept)
            kept = record.kept = self.kept  # type: ignore[assignment]
        return self.kept

    def freeze(self, record: SagaRecord) -> None:
        """Give a record its tuple back."""
        kept: Any = record.kept
        if kept is self.kept:
            record.kept = self.kept.stored()
