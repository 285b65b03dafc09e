"""The record of an instance as this worker knows it.

    load (what was read), settle (what was stored) ─► [cached record] ─► turn, deliver

Another worker may have written since. So every write names the version that it builds on, and what would only be told is
decided on a record that was read for it.
"""

from __future__ import annotations

from ..decision.lookup import MessageLookups
from ..decision.pages import NO_MESSAGES, StoredMessages
from ..decision.record import SagaRecord


class CachedRecord:
    """What is known of the record of one instance. Only the methods here change it, and `cache.py` its size."""

    __slots__ = (
        "epoch",
        "fresh",
        "load_first",
        "loaded",
        "lookups",
        "record",
        "size",
        "stored_messages",
        "version",
        "written",
    )

    def __init__(self) -> None:
        self.loaded: bool = False
        self.fresh: bool = False  # it was read for the next turn
        self.load_first: bool = False  # the next turn must not begin on the guess that nothing is stored
        self.record: SagaRecord | None = None
        self.version: int = 0
        self.written: int = 0  # the newest version that this worker wrote
        self.epoch: int = 0  # its numbers begin anew after a purge, and the epoch tells which are meant
        self.stored_messages: StoredMessages = NO_MESSAGES  # how that is stored what the record holds and keeps
        self.lookups: MessageLookups | None = None  # of what it holds and keeps, as the last draft left them
        self.size: int = 0  # in bytes as it is stored, with all that it holds

    def was_read(self, record: SagaRecord | None, version: int, epoch: int, messages: StoredMessages) -> bool:
        """Enter what is stored. Returns whether that is another record than the one before."""
        before = self.epoch, self.version
        if epoch != self.epoch:
            self.written = 0
        self.record, self.version, self.epoch, self.stored_messages = record, version, epoch, messages
        self.loaded = self.fresh = True
        self.load_first = False
        return (epoch, version) != before

    def had_landed(self, version: int) -> None:
        """Note that what was read is a write of ours that had no answer."""
        self.written = version

    def was_stored(self, record: SagaRecord, version: int, epoch: int) -> None:
        """Enter what a write of ours has stored."""
        self.record, self.version, self.epoch, self.written = record, version, epoch, version
        self.loaded, self.load_first = True, False

    def holds(self, messages: StoredMessages, lookups: MessageLookups | None) -> None:
        """Note how the messages of the record are stored, and what they are looked up in."""
        self.stored_messages, self.lookups = messages, lookups

    def guess_nothing(self) -> None:
        """Let the next turn begin as if nothing were stored."""
        self.record, self.version, self.epoch = None, 0, 0

    def grows_old(self) -> None:
        """Note that the turn for which it was read is over."""
        self.fresh = False

    def unload(self) -> None:
        """Let the next turn read what is stored, unless it may guess that nothing is."""
        self.loaded = False

    def read_first(self) -> None:
        """Let the next turn read what is stored, whatever it begins with."""
        self.loaded, self.load_first = False, True

    def drop(self) -> None:
        """Forget the record. Its instance has ended; another worker may start it again at any time."""
        self.loaded, self.record = False, None
