"""Which messages a record holds or keeps: looked up again and again, while more and more of them come.

A few are looked through one by one. Of many, their ids are kept in a set that outlives the draft: what was added since is
all that is looked at. It says of itself which messages it knows, so that after whatever else it is made anew.
"""

from __future__ import annotations

from collections.abc import Sequence

from .record import Held

FEW = 64  # so many are looked through one by one


class MessageLookup:
    """Finds a message among those that a record holds, or among those that it keeps."""

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


class MessageLookups:
    """What is known of the messages of one instance, from one draft to the next."""

    __slots__ = ("held", "kept")

    def __init__(self) -> None:
        self.held: MessageLookup = MessageLookup()
        self.kept: MessageLookup = MessageLookup()
