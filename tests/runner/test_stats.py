from __future__ import annotations

from datetime import timedelta

from sagalog import JournalSagaStateStore
from sagalog.decision.repair import retry
from sagalog.operating.apply import apply
from sagalog.operating.stats import stats
from sagalog.operating.steps import steps

from ..orders import Closed, Failing, Noted, OrderSaga, Paid, Placed, Reserve
from .conftest import Bench


async def test_stats_count_what_a_journal_holds(shared: Bench) -> None:
    OrderSaga.fail_times = 99
    assert shared.journal is not None
    shared.world.fail = {Reserve: 0}
    async with shared.runner() as runner:
        for key in ("a", "b", "c"):
            await runner.handle(Placed(key))
        await runner.handle(Failing("a"))
        await runner.handle(Noted("a"))
        await runner.handle(Closed("b"))
        await runner.settle()
        began = shared.clock.now()
    store = JournalSagaStateStore(shared.journal, "loan")
    await store.save("broken", b"{")
    shared.advance(minutes=20)
    loan, order = await stats(shared.journal, now=shared.clock.now())
    assert (loan.saga, loan.live, loan.unreadable) == ("loan", 1, 1)
    assert (order.live, order.parked, order.held, order.remembered) == (2, 1, 2, 1)
    assert (order.undelivered, order.oldest_undelivered_at) == (0, None)
    assert order.oldest_overdue_timer_at == began + timedelta(minutes=15)
    assert order.overdue == 1  # not that of the parked one, which waits for its repair
    assert (order.changed, order.started, order.ended) == (3, 3, 1)
    (later,) = await stats(shared.journal, "order", now=shared.clock.now() + timedelta(hours=1))
    assert (later.live, later.changed, later.started, later.ended) == (2, 0, 0, 0)
    assert (await stats(shared.journal, "nobody"))[0].live == 0


async def test_the_oldest_undelivered_command_is_as_old_as_its_step(shared: Bench) -> None:
    assert shared.journal is not None
    shared.world.fail = {Reserve: 99}
    async with shared.runner() as runner:
        await runner.handle(Placed("a"))
        sent = shared.clock.now()
        shared.advance(seconds=90)
        await runner.handle(Noted("a", "later"))
    (order,) = await stats(shared.journal, now=shared.clock.now())
    assert (order.undelivered, order.oldest_undelivered_at) == (2, sent)


async def test_steps_say_what_changed_what_was_sent_and_who_repaired(shared: Bench) -> None:
    OrderSaga.fail_times = 3
    assert shared.journal is not None
    async with shared.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Paid("a"))
        await runner.handle(Failing("a"))
        await apply(shared.journal, "order", "a", retry(by="ada"), now=shared.clock.now())
        await runner.settle()
    found = [step async for step in steps(shared.journal, "order", "a")]
    assert [change.path for change in found[0].changes] == ["total", "paid", "log"]
    assert ("paid", False, True) in found[1].changes
    assert [kind for _, kind in found[1].view.sent] == ["Charge"]
    repaired = [step for step in found if step.repairs]
    assert [(audit.action, audit.by) for step in repaired for audit in step.repairs] == [("retry", "ada")]
    assert repaired[0].changes == []
