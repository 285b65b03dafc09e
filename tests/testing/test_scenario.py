"""`sagalog.testing.Scenario`: given, when, then."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from sagalog import (
    Complete,
    DefinitionError,
    InvalidEventError,
    KeyTakenError,
    Saga,
    Schedule,
    Send,
    SetTimer,
    StepContext,
    on,
    starts,
)
from sagalog.testing import Scenario

from ..keyed import Blocked, Booked, DeskSaga, Moved, Ordered, ParcelSaga, Scanned, Take
from ..orders import (
    Asked,
    Cancelled,
    Charge,
    Closed,
    Failing,
    Note,
    Noted,
    OrderSaga,
    OrderState,
    Overdue,
    Paid,
    Placed,
    Refund,
    Release,
    Reserve,
    Ship,
    Survey,
)

QUARTER = timedelta(minutes=15)


@pytest.fixture
def order() -> Scenario[OrderState]:
    OrderSaga.fail_times = 0
    return Scenario(OrderSaga)


def test_what_is_sent_set_and_kept_is_seen(order: Scenario[OrderState]) -> None:
    order.when(Placed("a", 7)).then(
        sent=[Reserve("a")], timers={"payment": QUARTER}, state={"total": 7}, status="running"
    )
    order.when(Paid("a")).then(sent=[Charge("a")], timers={}, completed=False)
    order.when(Closed("a")).then(sent=[Ship("a")], completed=True, state={"paid": True})


def test_the_events_that_are_given_to_it_stay_as_they_were() -> None:
    @dataclass
    class Filled:
        key: str
        items: list[str]

    @dataclass
    class Weigh:
        key: str

    @dataclass
    class Basket:
        items: list[str] = field(default_factory=list)

    class BasketSaga(Saga[Basket]):
        name = "basket"

        @starts(Filled, key="key")
        def filled(self, state: Basket, event: Filled) -> Send:
            event.items.append("counted")
            state.items += event.items
            return Send(Weigh(event.key))

    filled = Filled("a", ["1"])
    Scenario(BasketSaga).when(filled).then(state=Basket(["1", "counted"]))
    assert filled.items == ["1"]
    with pytest.raises(InvalidEventError, match="items"):
        Scenario(BasketSaga).when(Filled("a", [1]))  # type: ignore[list-item]


def test_given_is_not_counted(order: Scenario[OrderState]) -> None:
    order.given(Placed("a"), Paid("a")).then(sent=[])
    order.when(Noted("a", "x")).then(sent=[Note("a", "x")], state=OrderState(1, True, ["placed", "paid", "x"]))


def test_timers_fire_when_their_time_has_come_and_not_before(order: Scenario[OrderState]) -> None:
    order.given(Placed("a"))
    order.after(QUARTER - timedelta(seconds=1)).then(sent=[], timers={"payment": timedelta(seconds=1)})
    order.after(timedelta(seconds=1)).then(sent=[Release("a")], compensated=True, timers={})


def test_what_was_done_is_undone_backwards(order: Scenario[OrderState]) -> None:
    order.given(Placed("a"), Paid("a")).when(Cancelled("a"))
    order.then(sent=[Refund("a"), Release("a")], compensated=True)


def test_a_refused_command_reaches_the_saga(order: Scenario[OrderState]) -> None:
    order.given(Placed("a")).refuses(Charge, "no money").when(Paid("a"))
    order.then(sent=[Charge("a"), Release("a")], compensated=True)
    assert order.state.log[-1] == "refused: no money"


def test_a_refused_undo_says_that_compensation_failed(order: Scenario[OrderState]) -> None:
    order.given(Placed("a")).refuses(Release).when(Cancelled("a")).then(status="compensation_failed")


def test_duplicates_and_events_without_an_instance_change_nothing(order: Scenario[OrderState]) -> None:
    order.when(Paid("a")).then(sent=[], status=None)
    order.when(Placed("a"), message_id="1").when(Placed("a"), message_id="1").then(sent=[], state={"total": 1})


def test_scheduled_commands_leave_in_time_also_after_the_end(order: Scenario[OrderState]) -> None:
    order.given(Placed("a"), Asked("a", "schedule")).then(completed=True, timers={})
    order.after(timedelta(hours=1)).then(sent=[Survey("a")])


def test_timers_fire_in_the_order_of_their_moments_also_those_set_meanwhile() -> None:
    class Chain(Saga[OrderState]):
        name = "chain"

        @starts(Placed, key="order_id")
        def placed(self, state: OrderState, event: Placed):
            yield SetTimer("late", Noted(event.order_id, "late"), after=timedelta(hours=3))
            yield SetTimer("first", Noted(event.order_id, "first"), after=timedelta(hours=1))

        @on(Noted, key="order_id")
        def noted(self, state: OrderState, event: Noted):
            state.log.append(event.text)
            if event.text == "first":
                yield SetTimer("between", Noted(event.order_id, "between"), after=timedelta(hours=1))

    chain = Scenario(Chain).given(Placed("a"))
    chain.after(timedelta(hours=3)).then(state={"log": ["first", "between", "late"]}, timers={})


@pytest.mark.parametrize(("missed", "late"), [("once", ["+0"]), ("skip", [])])
@pytest.mark.parametrize("years", [0, 30])
def test_a_recurring_timer_that_begins_in_the_past_fires_as_it_does_in_production(
    missed: Literal["once", "skip"], late: list[str], years: int
) -> None:
    """As in tests/runner/test_recurring.py, where a runner does the same."""

    class Daily(Saga[OrderState]):
        name = "daily"

        @starts(Placed, key="order_id")
        def placed(self, state: OrderState, event: Placed):
            first = datetime(2030, 1, 1, 6, tzinfo=UTC) - years * timedelta(days=365)
            return SetTimer("day", Overdue(event.order_id), every=timedelta(days=1), at=first, missed=missed)

        @on(Overdue, key="order_id")
        def overdue(self, state: OrderState, event: Overdue, context: StepContext):
            state.log.append(f"+{(context.now - noon).days}")

    noon = datetime(2030, 1, 1, 12, tzinfo=UTC)
    days = Scenario(Daily, now=noon).given(Placed("a")).after(timedelta(days=2))
    days.then(state={"log": [*late, "+0", "+1"]}, timers={"day": timedelta(hours=18)})
    days.away(timedelta(days=10)).then(state={"log": [*late, "+0", "+1", *(["+12"] if late else [])]})


def test_the_answer_to_a_command_of_an_earlier_life_is_let_go_and_none_is_no_answer() -> None:
    class Late(Saga[OrderState]):
        name = "late"

        @starts(Placed, key="order_id")
        def placed(self, state: OrderState, event: Placed) -> None:
            state.log.append("placed")

        @on(Closed, key="order_id")
        def closed(self, state: OrderState, event: Closed):
            yield Schedule(Survey(event.order_id), after=timedelta(seconds=3))
            yield Complete()

        @on(Noted, key="order_id")
        def noted(self, state: OrderState, event: Noted) -> None:
            state.log.append(event.text)

    for answer in (Noted("a", "answered"), None):
        late = Scenario(Late).answers(Survey, lambda command, answer=answer: answer)
        late.given(Placed("a"), Closed("a"), Placed("a")).after(timedelta(seconds=5))
        late.then(sent=[Survey("a")], state={"log": ["placed"]}, status="running")


def test_a_timer_that_sets_itself_again_at_once_is_told() -> None:
    class Restless(Saga[OrderState]):
        name = "restless"

        @starts(Placed, key="order_id")
        def placed(self, state: OrderState, event: Placed):
            return SetTimer("again", Overdue(event.order_id), after=timedelta(0))

        @on(Overdue, key="order_id")
        def overdue(self, state: OrderState, event: Overdue):
            return SetTimer("again", Overdue(event.order_id), after=timedelta(0))

    with pytest.raises(AssertionError, match="does one set itself again at once"):
        Scenario(Restless).given(Placed("a")).after(timedelta(seconds=1))


def test_a_handler_that_raises_is_heard_and_changes_nothing(order: Scenario[OrderState]) -> None:
    order.given(Placed("a"))
    OrderSaga.fail_times = 1
    with pytest.raises(RuntimeError, match="boom"):
        order.when(Failing("a"))
    order.then(state={"log": ["placed"]}).when(Failing("a")).then(sent=[Note("a", "recovered")])


def test_async_handlers_run_without_a_loop_unless_they_wait() -> None:
    import asyncio

    class Async(Saga[OrderState]):
        name = "async"

        @starts(Placed, key="order_id")
        async def placed(self, state: OrderState, event: Placed):
            state.log.append("async")
            return SetTimer("t", Overdue(event.order_id), after=QUARTER)

        @on(Overdue, key="order_id")
        async def overdue(self, state: OrderState, event: Overdue):
            await asyncio.sleep(0)

    scenario = Scenario(Async).when(Placed("a")).then(state={"log": ["async"]}, timers={"t": QUARTER})
    with pytest.raises(DefinitionError, match="waited for something"):
        scenario.after(QUARTER)


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [
        ({"sent": [Ship("a")]}, "sent: expected [Ship(order_id='a')]\n           came [Reserve(order_id='a')]"),
        ({"timers": {}}, "timers: expected {}\n             came {'payment': 'in 0:15:00'}"),
        ({"state": {"total": 9}}, "state.total: expected 9\n                  came 7"),
        ({"state": {"nothing": 9}}, "came 'no such attribute'"),
        ({"state": OrderState()}, "state: expected OrderState(total=0"),
        ({"completed": True}, "completed: expected True\n                came 'False, it is running'"),
        ({"status": "completed"}, "status: expected 'completed'\n             came 'running'"),
    ],
)
def test_what_is_not_so_is_told_with_what_happened(
    order: Scenario[OrderState], wrong: dict[str, object], shown: str
) -> None:
    order.when(Placed("a", 7))
    with pytest.raises(AssertionError) as caught:
        order.then(**wrong)  # type: ignore[arg-type]
    said = str(caught.value)
    assert shown in said
    assert "what happened to saga 'order':\n  +0:00:00  Placed(order_id='a', total=7)" in said
    assert "sends Reserve(order_id='a')" in said


def test_what_makes_no_sense_is_refused(order: Scenario[OrderState]) -> None:
    with pytest.raises(AssertionError, match="no event has started one"):
        order.then(state={})
    with pytest.raises(DefinitionError, match="time goes forward only"):
        order.after(-QUARTER)
    with pytest.raises(DefinitionError, match="a scenario is about one instance, 'a'"):
        order.given(Placed("a")).when(Placed("b"))
    with pytest.raises(InvalidEventError, match="takes no Reserve"):
        order.when(Reserve("a"))


def test_an_event_by_a_key_reaches_the_instance_while_it_holds_it() -> None:
    scenario = Scenario(ParcelSaga).when(Blocked("c"))
    assert scenario.status is None
    scenario.when(Ordered("A", ["c", "d"])).then(keys={"customer": ["c", "d"]})
    scenario.when(Blocked("c")).then(state={"log": ["blocked"]})
    scenario.when(Moved("A", old="c")).then(keys={"customer": ["d"]})
    scenario.when(Blocked("c")).then(state={"log": ["blocked"]})
    scenario.when(Blocked("d", "close")).then(completed=True, keys={})
    with pytest.raises(AssertionError, match="keys: expected"):
        scenario.then(keys={"customer": ["d"]})


def test_a_unique_key_can_be_held_by_another_instance() -> None:
    scenario = Scenario(DeskSaga).given(Booked("A")).taken("seat", 1)
    with pytest.raises(KeyTakenError, match="the instance 'another' holds it"):
        scenario.when(Take("A", "1"))
    scenario.then(keys={}, state={"log": ["booked"]})
    scenario.taken("seat", 1, held=False).when(Take("A", "1")).then(keys={"seat": ["1"]})
    scenario.when(Scanned("1", close=True)).then(completed=True, keys={})
    with pytest.raises(DefinitionError, match="has no such unique key"):
        scenario.taken("floor", 1)
