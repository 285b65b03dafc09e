"""An answer and its deadline: one of the two is handled first, in a record, whatever dies in between."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from sagalog import CommandRefused, JournalSagaStateStore, SagaRecord, SagaRunner
from sagalog.decision.record import decode_record

from ..asking import Answered, Ask, AskSaga, Confirmed, Told, Wanted
from .conftest import Bench


def runner(bench: Bench, **settings: Any) -> SagaRunner:
    return bench.runner(sagas=[AskSaga], **settings)


async def record(bench: Bench) -> SagaRecord:
    if bench.journal is None:
        saved = await bench.plain.load("a")
    else:
        saved = await JournalSagaStateStore(bench.journal, "ask").load_with_tombstone("a")
    assert saved is not None
    return decode_record(saved.payload)


async def log(bench: Bench) -> list[str]:
    return AskSaga().decode_state((await record(bench)).state_bytes()).log[1:]


async def test_the_answer_of_the_command_handler_ends_the_wait(bench: Bench) -> None:
    bench.world.replies[Ask] = lambda command: Answered(command.id)
    async with runner(bench) as running:
        await running.handle(Wanted("a"))
        await running.settle()
        assert not (await record(bench)).requests
        bench.advance(minutes=10)
        await running.settle()
    assert await log(bench) == ["answered"]


async def test_silence_is_told_once_and_never_early_across_restarts(bench: Bench) -> None:
    async with runner(bench) as running:
        await running.handle(Wanted("a"))
        await running.settle()
        bench.clock.advance(timedelta(minutes=2) - timedelta(microseconds=1))
        await running.settle()
        assert await log(bench) == []
    bench.advance(minutes=1)
    for _ in range(2):
        async with runner(bench) as running:
            await running.settle()
    assert await log(bench) == ["silence"]


async def test_a_refusal_ends_the_wait(quick: Bench) -> None:
    quick.world.refuse.add(Ask)
    async with runner(quick) as running:
        await running.handle(Wanted("a"))
        await running.settle()
        quick.advance(minutes=10)
        await running.settle()
    assert await log(quick) == ["refused"]


async def test_an_answer_that_is_there_before_a_due_deadline_is_handled_wins(quick: Bench) -> None:
    async with runner(quick) as running:
        await running.handle(Wanted("a", by_type=True))
        await running.settle()
    quick.advance(hours=1)
    async with runner(quick) as running:
        await running.handle(Confirmed("a"))
        await running.settle()
    assert await log(quick) == ["confirmed"]


async def test_an_answer_that_was_held_by_a_parked_instance_comes_before_the_deadline(quick: Bench) -> None:
    async with runner(quick) as running:
        await running.handle(Wanted("a", by_type=True))
        await running.handle(Told("a", "fail"))
        await running.handle(Confirmed("a"))
        quick.advance(hours=1)
        await running.settle()
        assert (await record(quick)).parked
        await running.skip("ask", "a")
        await running.settle()
    assert await log(quick) == ["confirmed"]


async def test_a_late_answer_is_ignored_and_counted_or_parks_as_its_request_says(quick: Bench) -> None:
    for late in ("ignore", "park"):
        async with runner(quick) as running:
            await running.handle(Wanted("a", late, by_type=True))
            quick.advance(minutes=3)
            await running.settle()
            receipt = await running.handle(Confirmed("a"), message_id=f"late {late}")
            if late == "ignore":
                assert receipt.ignored
                assert running.counters.ignored == 1
                assert (await running.handle(Confirmed("a"), message_id="late ignore")).duplicate
                assert await log(quick) == ["silence"]
            else:
                assert receipt.held
                assert running.counters.parked == 1
                assert (await record(quick)).parked.startswith("Confirmed answers Ask (")
                await running.retry("ask", "a")
                await running.settle()
                assert await log(quick) == ["silence", "confirmed"]
            quick.advance(hours=3)  # it ends, and the next life begins without what this one waited for
            await running.settle()
            assert not (await record(quick)).requests


async def test_a_late_answer_held_by_a_parked_instance_is_ignored_when_it_is_replayed(quick: Bench) -> None:
    async with runner(quick) as running:
        await running.handle(Wanted("a", "ignore", by_type=True))
        quick.advance(minutes=3)
        await running.settle()
        await running.handle(Told("a", "fail"))
        await running.handle(Confirmed("a"), message_id="late")
        await running.skip("ask", "a")
        await running.settle()
        stored = await record(quick)
        assert (stored.held, stored.requests) == ((), ())
        assert [audit.action for audit in stored.audit] == ["skip"]
        assert (await running.handle(Confirmed("a"), message_id="late")).duplicate
    assert await log(quick) == ["silence"]


async def test_a_command_that_is_not_delivered_in_time_is_delivered_all_the_same(quick: Bench) -> None:
    gate = asyncio.Event()

    async def slowly(command: Ask) -> Answered:
        await gate.wait()
        return Answered(command.id)

    async with runner(quick, dispatch={Ask: slowly}) as running:
        await running.handle(Wanted("a"))
        quick.advance(minutes=3)
        while not await log(quick):
            await asyncio.sleep(0.001)
        gate.set()
        await running.settle()
    assert await log(quick) == ["silence", "answered"]


async def test_an_answer_of_a_handler_that_then_refuses_a_second_attempt_ends_one_wait(quick: Bench) -> None:
    attempts: list[str] = []

    def once(command: Ask) -> Any:
        attempts.append(command.id)
        if len(attempts) > 1:
            raise CommandRefused("again")
        return Answered(command.id)

    async with runner(quick, dispatch={Ask: once}) as running:
        await running.handle(Wanted("a"))
        await running.settle()
        quick.advance(hours=1)
        await running.settle()
    assert await log(quick) == ["answered"]


async def test_cancelling_it_as_it_stands_names_the_deadline_as_show_does_and_waits_for_nothing(quick: Bench) -> None:
    async with runner(quick) as running:
        await running.handle(Wanted("a"))
        await running.settle()
        done = await running.cancel("ask", "a", compensate=False)
        assert "drops the timers no answer to Ask (1/0), over" in done.effects
    assert not (await record(quick)).requests
