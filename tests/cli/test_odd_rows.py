"""One odd instance is shown as it is, and hides none of the others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from sagalog import InMemoryJournal, JournalFormatError, PersistentRepr, SagaRunner
from sagalog.cli.list import _first_line
from sagalog.cli.show import _lines
from sagalog.decision.record import decode_record, encode_record
from sagalog.journal.protocol import FIRST_MOMENT, LAST_MOMENT
from sagalog.operating.family import Family
from sagalog.operating.inspect import instances
from sagalog.operating.outbox import pending
from sagalog.operating.stats import stats

from ..orders import OrderSaga, Placed

LAST = datetime.max.replace(tzinfo=UTC)
FIRST = datetime.min.replace(tzinfo=UTC)


async def journal_with(due_at: datetime) -> InMemoryJournal:
    journal = InMemoryJournal()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=lambda command, context: None) as runner:
        await runner.handle(Placed("good"), message_id="1")
        await runner.handle(Placed("odd"), message_id="2")
        await runner.settle()
    message = await journal.latest_message("saga::order::odd")
    assert message is not None
    record = decode_record(message.payload)
    assert record.timers
    record.timers = {name: msgspec.structs.replace(timer, due_at=due_at) for name, timer in record.timers.items()}
    record.updated_at = record.started_at = due_at
    number = message.sequence_nr + 1
    at = min(max(due_at, FIRST_MOMENT), LAST_MOMENT)  # a journal takes no other; in the payload it may stand
    await journal.write_messages(
        [PersistentRepr("saga::order::odd", number, encode_record(record), message.manifest, "w", due_at=at)]
    )
    return journal


@pytest.mark.parametrize("due_at", [LAST, FIRST])
async def test_a_moment_at_the_end_of_the_calendar_hides_nothing(due_at: datetime) -> None:
    journal = await journal_with(due_at)
    now = datetime.now(UTC)
    views = [view async for view in instances(journal)]
    assert {view.correlation_id for view in views} == {"good", "odd"}
    assert {view.correlation_id: view.overdue(now) for view in views}["odd"] is (due_at == FIRST)
    assert sum(one.live for one in await stats(journal)) == 2
    for view in views:
        assert view.record is not None
        assert _lines(view, view.record, await pending(journal, view), Family(), now)


async def test_a_row_that_its_journal_cannot_read_is_shown_as_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await journal_with(datetime.now(UTC) + timedelta(days=1))
    real = journal.latest_message

    async def damaged(persistence_id: str) -> PersistentRepr | None:
        if persistence_id.endswith("odd"):
            raise JournalFormatError("the row is damaged")
        return await real(persistence_id)

    async def damaged_page(*_: Any, **__: Any) -> list[PersistentRepr]:
        raise JournalFormatError("a row is damaged")

    page = journal.latest_by_prefix

    async def ids(prefix: str, **more: Any) -> list[str]:
        return [message.persistence_id for message in await page(prefix, **more)]

    monkeypatch.setattr(journal, "ids_by_prefix", ids)
    monkeypatch.setattr(journal, "latest_message", damaged)
    monkeypatch.setattr(journal, "latest_by_prefix", damaged_page)
    assert {view.correlation_id: view.status async for view in instances(journal)} == {
        "good": "running",
        "odd": "unreadable",
    }
    (figures,) = await stats(journal)
    assert (figures.live, figures.unreadable) == (2, 1)


def test_a_reason_of_several_lines_is_begun_in_the_list() -> None:
    assert _first_line("raised KeyError\n  in shop.py:12") == "raised KeyError ..."
    assert _first_line("one") == "one"
