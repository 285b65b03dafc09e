"""Numbers begin anew after a purge: a worker that still knows the old life never writes over the new one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sagalog import (
    Complete,
    DefinitionError,
    InMemoryJournal,
    Journal,
    JournalSagaStateStore,
    ManualClock,
    Outcome,
    Saga,
    SagaRunner,
    on,
    open_journal,
    starts,
)
from sagalog.decision.record import decode_record

from ..orders import OrderSaga, OrderState
from .test_deliveries import Moved, Opened


class Life(Saga[OrderState]):
    name = "life"

    @starts(Opened, key="id")
    def opened(self, state: OrderState, event: Opened) -> Complete | None:
        state.log.append("opened")
        return Complete() if event.id == "ends" else None

    @on(Moved, key="id")
    def moved(self, state: OrderState, event: Moved) -> Complete | None:
        state.log.append("moved")
        return Complete() if len(state.log) > 2 else None


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    return InMemoryJournal() if request.param == "memory" else open_journal(f"sqlite:///{tmp_path / 'j.db'}")


async def test_a_worker_that_has_the_old_life_in_memory_does_not_write_over_the_new_one(journal: Journal) -> None:
    clock = ManualClock(datetime(2030, 1, 1, tzinfo=UTC))
    asleep = SagaRunner(journal, sagas=[Life], clock=clock)
    other = SagaRunner(journal, sagas=[Life], clock=clock)
    async with asleep, other:
        await asleep.handle(Opened("a"))
        await asleep.handle(Moved("a"))  # version 2 of the first life, in its memory
        await other.handle(Moved("a"))  # version 3: it has ended
        clock.advance(timedelta(seconds=1))
        await journal.purge([("saga::life::a", 3)])
        await other.handle(Opened("a"))
        await other.handle(Moved("a"))  # version 2 of the second life
        assert (await asleep.handle(Moved("a"))).outcomes == {"life": Outcome.HANDLED}
        saved = await JournalSagaStateStore(journal, "life").load_with_tombstone("a")
        assert saved is not None
        assert bytes(decode_record(saved.payload).state).count(b"opened") == 1
        assert asleep.counters.conflicts == 1
    await journal.close()


async def test_a_journal_that_lacks_a_method_is_refused_with_its_name() -> None:
    class Old:
        async def write_messages(self, *_: object) -> None: ...

    with pytest.raises(DefinitionError, match=r"Old lacks .*write_batch.*move_due"):
        SagaRunner(Old(), sagas=[OrderSaga])  # type: ignore[arg-type]
