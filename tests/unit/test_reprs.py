"""What a debugger or a log shows of our objects: what they are of, and where; never a password."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sagalog import (
    EventClock,
    InMemoryJournal,
    InMemorySagaStateStore,
    ManualClock,
    Saga,
    SagaRunner,
    SqliteJournal,
    SystemClock,
    starts,
)
from sagalog.journal.nats import NatsJournal
from sagalog.journal.postgres import PostgresJournal
from sagalog.testing import Scenario


@dataclass
class Placed:
    order_id: str


@dataclass
class Order: ...


class OrderSaga(Saga[Order]):
    name = "order"

    @starts(Placed, key="order_id")
    def placed(self, state: Order, event: Placed) -> None: ...


def test_a_saga_and_its_scenario_say_which_they_are() -> None:
    assert repr(OrderSaga()) == "<OrderSaga 'order'>"
    order = Scenario(OrderSaga, now=datetime(2030, 1, 1, tzinfo=UTC))
    assert repr(order) == "<Scenario of 'order', not started at 2030-01-01 00:00:00>"
    assert repr(order.given(Placed("A-1"))) == "<Scenario of 'order', running at 2030-01-01 00:00:00>"


async def test_a_runner_says_of_what_it_is_and_whether_it_runs() -> None:
    runner = SagaRunner(InMemoryJournal(), sagas=[OrderSaga])
    assert repr(runner) == "<SagaRunner of order on InMemoryJournal, not running>"
    async with runner:
        assert repr(runner) == "<SagaRunner of order on InMemoryJournal, running>"


async def test_no_password_is_shown() -> None:
    shown = [
        repr(SagaRunner("postgresql://shop:secret@db/shop", sagas=[OrderSaga])),
        repr(PostgresJournal("postgresql://shop:secret@db/shop", schema="sagas")),
        repr(NatsJournal("nats://shop:secret@one,two", stream="sagas")),
    ]
    assert not [one for one in shown if "secret" in one]
    assert shown[0] == "<SagaRunner of order on postgresql, not running>"
    assert "db" in shown[1]
    assert "schema sagas" in shown[1]
    assert "one" in shown[2]
    assert "stream sagas" in shown[2]


async def test_a_journal_a_store_and_a_clock_say_what_they_hold(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "orders.db")
    assert repr(journal) == f"<SqliteJournal in {str(tmp_path / 'orders.db')!r}>"
    await journal.close()
    assert repr(InMemoryJournal()) == "<InMemoryJournal of 0 ids>"
    assert repr(InMemorySagaStateStore("order")).startswith("<InMemorySagaStateStore of 'order' over <InMemoryJournal")
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    assert [repr(ManualClock(moment)), repr(EventClock(moment)), repr(SystemClock())] == [
        "<ManualClock at 2030-01-01T00:00:00+00:00>",
        "<EventClock at 2030-01-01T00:00:00+00:00>",
        "<SystemClock>",
    ]
