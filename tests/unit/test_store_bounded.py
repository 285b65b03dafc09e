"""A save of a store ends, whatever its journal does."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sagalog import InMemoryJournal, JournalSagaStateStore, JournalUnavailableError, PersistentRepr, SequenceOutOfOrder
from sagalog.journal import store
from sagalog.waiting import Waiting


class Loses(InMemoryJournal):
    """A journal that counts every write as lost: behind the same number, or because another one is first each time."""

    def __init__(self, *, moves: bool) -> None:
        super().__init__()
        self.moves, self.tried = moves, 0

    async def write_messages(self, messages: Sequence[PersistentRepr], *, atomic: bool = False) -> None:
        self.tried += 1
        if self.moves:
            await super().write_messages(messages)
        raise SequenceOutOfOrder((messages[0].persistence_id,))


@pytest.mark.parametrize(("moves", "why"), [(False, "somebody's open transaction"), (True, "others all the time")])
async def test_a_save_that_loses_each_time_gives_up_and_says_why(
    moves: bool,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "_HELD", Waiting(attempts=5, first=0.0001, most=0.0002))
    monkeypatch.setattr(store, "_CONTENDED", Waiting(attempts=7, first=0.0001, most=0.0002))
    journal = Loses(moves=moves)
    with pytest.raises(JournalUnavailableError, match=why):
        await JournalSagaStateStore(journal, "order").save("a", b"{}")
    assert journal.tried in (6, 8)


def test_without_being_told_a_save_ends_within_a_minute() -> None:
    assert store._CONTENDED.seconds == 60.0
    assert store._HELD.attempts is not None
    assert store._HELD.attempts * store._HELD.most < 4
