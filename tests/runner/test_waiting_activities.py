"""An operator passes an activity that waits for an event which will never come."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pytest

from sagalog import Call, ItinerarySaga, JournalSagaStateStore, RepairError, SagaRecord, Status, activity
from sagalog.decision.record import decode_record

from .conftest import Bench


@dataclass
class Asked:
    id: str


@dataclass
class Approved:
    id: str


@dataclass
class Request:
    asked: Asked | None = None
    ship: str = ""


class ApprovalSaga(ItinerarySaga[Request]):
    name = "approval"
    starts_with, key = Asked, "id"

    @activity(until=Approved, within=timedelta(days=10), remind=timedelta(days=1))
    async def approval(self, request: Request, call: Call) -> None: ...

    @activity
    async def ship(self, request: Request, call: Call) -> str:
        return "shipped"


async def record(bench: Bench) -> SagaRecord:
    assert bench.journal is not None
    saved = await JournalSagaStateStore(bench.journal, "approval").load_with_tombstone("A")
    assert saved is not None
    return decode_record(saved.payload)


async def test_by_its_number_it_counts_as_skipped_and_the_others_go_on(bench: Bench) -> None:
    if bench.journal is None:
        return  # a store by itself: the repair is the same
    async with bench.runner(sagas=[ApprovalSaga]) as running:
        await running.handle(Asked("A"))
        await running.settle()
        told = await running.skip("approval", "A")
        assert "`drop` with its number continues without an activity that waits: approval (1/0)" in told.effects[0]
        told = await running.drop("approval", "A", "1/0")
        assert told.effects == ("no longer waits for activity approval (1/0), which counts as skipped",)
        ended = await running.outcome(ApprovalSaga, "A", timeout=timedelta(seconds=30))
        assert (ended.status, ended.state.ship) == (Status.COMPLETED, "shipped")
    found = await record(bench)
    assert {name: stage.status for name, stage in found.activities.items()} == {"approval": "skipped", "ship": "done"}
    assert not found.timers


async def test_dropping_its_deadline_says_what_that_means_and_its_event_still_ends_it(bench: Bench) -> None:
    if bench.journal is None:
        return
    async with bench.runner(sagas=[ApprovalSaga]) as running:
        await running.handle(Asked("A"))
        await running.settle()
        deadline = (await record(bench)).timers["activity/approval"].id
        with pytest.raises(RepairError, match=r"there wait activity approval \(1/0\), "):
            await running.drop("approval", "A", "9/9")
        (told,) = (await running.drop("approval", "A", deadline)).effects
        assert told.endswith("the activity now waits without a deadline: `drop 1/0` continues without it")
        await running.handle(Approved("A"))
        await running.settle()
        assert (await running.state(ApprovalSaga, "A")).ship == "shipped"


async def test_skip_of_a_deadline_whose_failure_cannot_be_handled_goes_on_without_the_activity(quick: Bench) -> None:
    class Failing(ApprovalSaga):
        @ApprovalSaga.approval.failed
        def not_approved(self, request: Request, reason: str) -> None:
            raise RuntimeError("not approved")

    async with quick.runner(sagas=[Failing]) as running:
        await running.handle(Asked("A"))
        await running.settle()
        quick.advance(days=10, seconds=1)
        await running.settle()
        assert (await record(quick)).parked.startswith("handling approval.approval.overdue raised RuntimeError")
        told = await running.skip("approval", "A")
        assert told.effects[1] == "counts the activity approval as skipped"
        ended = await running.outcome(Failing, "A", timeout=timedelta(seconds=30))
        assert (ended.status, ended.state.ship) == (Status.COMPLETED, "shipped")
    found = await record(quick)
    assert {name: stage.status for name, stage in found.activities.items()} == {"approval": "skipped", "ship": "done"}
    assert not found.timers
