"""The end of a gather in a saga with phases, with a runner: parked with, repaired, kept over a restart."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sagalog import SagaRecord, SagaRunner
from sagalog.decision.record import decode_record

from ..waybills import Ask, Begun, Closed, Load, Unheard, WaybillSaga, answered
from .conftest import Bench
from .ear import Ear, listening

DISPATCH: dict[type, Any] = {Load: answered, Ask: lambda command: Unheard(command.id)}


def runner(bench: Bench, *hooks: Any) -> SagaRunner:
    return listening(bench, *hooks, sagas=[WaybillSaga], dispatch=DISPATCH)


async def record(running: SagaRunner) -> SagaRecord:
    latest = await running.journal.latest_message("saga::waybill::1")
    assert latest is not None
    return decode_record(latest.payload)


async def parked(running: SagaRunner) -> SagaRecord:
    await running.handle(Begun("1", end="raised"))
    while not (found := await record(running)).parked:
        await asyncio.sleep(0)
    await running.settle()
    return found


async def log(running: SagaRunner) -> list[str]:
    state = await running.state(WaybillSaga, "1")
    assert state is not None
    return state.log


async def test_an_end_that_its_phase_refuses_parks_once_the_answer_is_stored_and_hooks_are_told(quick: Bench) -> None:
    ear = Ear()
    async with runner(quick, ear) as running:
        await parked(running)
        assert await log(running) == ["counted"] * 3
    told = [reason for _, _, reason in ear.of("parked")]
    assert len(told) == 1
    assert told[0].startswith("RaisedEnd is the end of the gather 'loads'")


async def test_retry_keeps_it_until_a_phase_expects_it_also_over_a_restart(quick: Bench) -> None:
    async with runner(quick) as running:
        await parked(running)
        repaired = await running.retry("waybill", "1")
        assert (repaired.replayed, repaired.parked) == (1, "")
        assert [kept.event.type for kept in (await record(running)).kept] == ["RaisedEnd"]
    async with runner(quick) as running:
        await running.handle(Closed("1"))
        assert (await log(running))[-1] == "RaisedEnd: 3 of 3"


@pytest.mark.parametrize("then", ["skip", "drop"])
async def test_skip_and_drop_let_the_gather_end_without_it(quick: Bench, then: str) -> None:
    async with runner(quick) as running:
        await parked(running)
        if then == "skip":
            await running.skip("waybill", "1")
        else:
            await running.retry("waybill", "1")
            (kept,) = (await record(running)).kept
            await running.drop("waybill", "1", kept.id)
        await running.handle(Closed("1"))
        stored = await record(running)
        assert (stored.kept, stored.held, stored.gathers) == ((), (), {})
        assert await log(running) == ["counted"] * 3 + ["close", "closed"]
