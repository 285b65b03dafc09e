"""New code changes what an activity is that old code has begun: its deadline, its reminder, and whether it waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sagalog import Call, ItinerarySaga, JournalSagaStateStore, SagaRunner, activity
from sagalog.decision.record import decode_record
from sagalog.operating.inspect import find
from sagalog.operating.readable import Code, begun_without_undo

from .conftest import Bench

MINUTE = timedelta(minutes=1)
CALLS: list[str] = []


@dataclass
class Asked:
    id: str


@dataclass
class Approved:
    id: str


@dataclass
class Closed:
    id: str


@dataclass
class Request:
    asked: Asked | None = None
    log: str = ""


def saga(called: Callable[[], Any] | None = None, **options: Any) -> Any:
    """Return an itinerary of an approval with these options, and what follows it."""

    class ApprovalSaga(ItinerarySaga[Request]):
        name = "approval"
        starts_with, key = Asked, "id"

        @activity(**options)
        def approval(self, request: Request, call: Call) -> None:
            CALLS.append("approval")
            if called is not None:
                called()

        @approval.failed
        def not_approved(self, request: Request, reason: str) -> None:
            request.log += reason

        @activity(until=Closed, within=timedelta(days=9))
        async def closing(self, request: Request, call: Call) -> None: ...

    return ApprovalSaga


def fail() -> None:
    raise ConnectionError("away")


async def begun(bench: Bench, old: Any) -> None:
    """Let a worker with the old code begin it, and stop."""
    CALLS.clear()
    async with bench.runner(sagas=[old]) as running:
        await running.handle(Asked("A"))
        await running.settle()


async def stage(bench: Bench, name: str = "approval") -> tuple[str, set[str]]:
    """Return what became of an activity, and which timers are set."""
    assert bench.journal is not None
    saved = await JournalSagaStateStore(bench.journal, "approval").load_with_tombstone("A")
    assert saved is not None
    record = decode_record(saved.payload)
    assert not record.parked, record.parked
    found = record.activities.get(name)
    return "" if found is None else found.status, set(record.timers)


async def pass_by(bench: Bench, running: SagaRunner, *spans: timedelta) -> None:
    for span in spans:
        bench.clock.advance(span)
        await running.settle()


async def reasons(bench: Bench, new: Any) -> list[str]:
    """Return why that code could not go on with it, as `sagalog check` says."""
    assert bench.journal is not None
    (view,) = await find(bench.journal, "A", "approval")
    return [reason.text for reason in Code([new()], lambda command: True).reasons(view)]


async def test_a_deadline_holds_also_where_the_code_has_none(quick: Bench) -> None:
    await begun(quick, saga(until=Approved, within=5 * MINUTE))
    without = saga(until=Approved)  # an old worker beside new ones, or newer code that has dropped it
    async with quick.runner(sagas=[without]) as running:
        await pass_by(quick, running, 6 * MINUTE)
        assert await stage(quick) == ("failed", set())
        assert (await running.state(without, "A")).log == "it took too long"


async def test_a_deadline_passes_without_effect_where_the_code_lets_nothing_fail(quick: Bench) -> None:
    await begun(quick, saga(until=Approved, within=5 * MINUTE, remind=2 * MINUTE))
    new = saga(until=Approved, parks=True)
    async with quick.runner(sagas=[new]) as running:
        await pass_by(quick, running, 6 * MINUTE)
        assert await stage(quick) == ("waiting", set())
        assert (await running.state(new, "A")).log == ""
        await running.handle(Approved("A"))
        assert (await stage(quick))[0] == "done"


async def test_a_deadline_that_the_code_has_no_more_ends_with_its_activity(quick: Bench) -> None:
    await begun(quick, saga(until=Approved, within=5 * MINUTE, remind=2 * MINUTE))
    new = saga(until=Approved)
    async with quick.runner(sagas=[new]) as running:
        await running.handle(Approved("A"))
        await running.settle()
        assert await stage(quick, "closing") == ("waiting", {"activity/closing"})
        await pass_by(quick, running, 6 * MINUTE)
        assert (await running.state(new, "A")).log == ""


async def test_a_reminder_that_the_code_has_no_more_reminds_nobody(quick: Bench) -> None:
    await begun(quick, saga(until=Approved, remind=MINUTE))
    new = saga(until=Approved)
    assert await reasons(quick, new) == []
    async with quick.runner(sagas=[new]) as running:
        await pass_by(quick, running, 2 * MINUTE, 2 * MINUTE)
        assert await stage(quick) == ("waiting", set())
        assert CALLS == ["approval"]
        await running.handle(Approved("A"))
        assert (await stage(quick))[0] == "done"


async def test_what_waits_for_an_event_is_left_to_code_in_which_it_does(quick: Bench) -> None:
    waits = saga(fail, until=Approved, remind=timedelta(days=1))
    await begun(quick, waits)
    other = saga()
    assert await reasons(quick, other) == [
        "activity approval waits for an event, but in this code it does not: give the new one another name"
    ]
    CALLS.clear()
    async with quick.runner(sagas=[other]) as running:
        await pass_by(quick, running, 6 * MINUTE, timedelta(days=1))
        assert (await stage(quick))[0] == "waiting"  # what the other code's method returns is no approval
        assert CALLS == []
    async with quick.runner(sagas=[saga(until=Approved)]) as running:
        await pass_by(quick, running, MINUTE)
        assert CALLS
        await running.handle(Approved("A"))
        assert (await stage(quick))[0] == "done"


async def test_a_call_is_left_to_code_in_which_it_is_one(quick: Bench) -> None:
    await begun(quick, saga(fail))
    other = saga(until=Approved)
    assert await reasons(quick, other) == [
        "activity approval is carried out, but in this code it waits for an event: give the new one another name"
    ]
    CALLS.clear()
    async with quick.runner(sagas=[other]) as running:
        await pass_by(quick, running, 6 * MINUTE, 6 * MINUTE)
        assert (await stage(quick))[0] == "running"
        assert CALLS == []
    async with quick.runner(sagas=[saga()]) as running:
        await pass_by(quick, running, MINUTE)
        assert CALLS == ["approval"]
        assert (await stage(quick))[0] == "done"


def tour(*, undo: bool, pivot: bool = False) -> Any:
    class Tour(ItinerarySaga[Request]):
        name = "approval"
        starts_with, key = Asked, "id"

        @activity
        async def first(self, request: Request, call: Call) -> None: ...

        @activity(pivot=pivot)
        async def second(self, request: Request, call: Call) -> None: ...

        @activity(until=Closed)
        async def third(self, request: Request, call: Call) -> None: ...

        @activity
        async def fourth(self, request: Request, call: Call) -> None: ...

        if undo:

            @first.undo
            async def first_back(self, request: Request, call: Call) -> None: ...

            @second.undo
            async def second_back(self, request: Request, call: Call) -> None: ...

        if undo and not pivot:

            @third.undo
            async def third_back(self, request: Request, call: Call) -> None: ...

            @fourth.undo
            async def fourth_back(self, request: Request, call: Call) -> None: ...

    return Tour


async def without_undo(bench: Bench, new: Any) -> list[str]:
    assert bench.journal is not None
    (view,) = await find(bench.journal, "A", "approval")
    assert view.record is not None
    return begun_without_undo(new(), view.record)


async def test_check_tells_of_an_undo_that_is_newer_than_its_activity(quick: Bench) -> None:
    await begun(quick, tour(undo=False))
    assert await without_undo(quick, tour(undo=False)) == []
    assert await without_undo(quick, tour(undo=True)) == ["first", "second", "third"]


async def test_check_tells_of_no_undo_behind_a_pivot_or_begun_with_it(quick: Bench) -> None:
    for begins in (tour(undo=False, pivot=True), tour(undo=True)):
        await begun(quick, begins)
        assert await without_undo(quick, tour(undo=True, pivot=True)) == []
        async with quick.runner(sagas=[begins]) as running:
            await running.cancel("approval", "A", compensate=False)
