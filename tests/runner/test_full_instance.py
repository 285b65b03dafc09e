"""An instance whose record has no room says so with an error that goes away; an event that is too large is told apart."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sagalog import CommandRefused, InstanceFullError, PayloadTooLargeError, SagaRunner, SqliteJournal

from .. import phased
from ..orders import Asked, Failing, Note, Noted, OrderSaga, Placed
from ..phased import Labelled, Orders
from .conftest import Bench

LIMIT = 4_000
TEXT = "x" * 300


async def park_full(runner: SagaRunner) -> int:
    """Park the instance, and let it hold all it can; return how many messages that are."""
    OrderSaga.fail_times = 9
    await runner.handle(Placed("a"), message_id="placed")
    assert (await runner.handle(Failing("a"), message_id="failing")).held
    with pytest.raises(InstanceFullError):
        for number in range(100):
            await runner.handle(Asked("a", TEXT), message_id=f"note-{number}")
    return number + 1


async def test_what_a_full_parked_instance_refuses_is_handled_after_its_repair(bench: Bench) -> None:
    async with bench.runner(max_payload_bytes=LIMIT) as runner:
        refused = await park_full(runner) - 1
        with pytest.raises(InstanceFullError, match="send it again later") as raised:
            await runner.handle(Asked("a", TEXT), message_id=f"note-{refused}")
        error = raised.value
        assert not isinstance(error, PayloadTooLargeError)
        assert (error.saga, error.correlation_id, error.event_type) == ("order", "a", "Asked")
        assert error.limit_bytes == (LIMIT if bench.journal is not None else LIMIT // 8)
        await runner.skip("order", "a")
        await runner.settle()
        assert (await runner.handle(Asked("a", TEXT), message_id=f"note-{refused}")).handled


async def test_an_event_that_is_too_large_by_itself_is_refused_as_that_also_by_a_full_instance(bench: Bench) -> None:
    async with bench.runner(max_payload_bytes=LIMIT) as runner:
        await park_full(runner)
        with pytest.raises(PayloadTooLargeError):
            await runner.handle(Noted("a", "x" * LIMIT))


async def test_of_many_at_once_those_that_fit_are_held_and_the_rest_may_come_again(bench: Bench) -> None:
    async with bench.runner(max_payload_bytes=LIMIT) as runner:
        OrderSaga.fail_times = 9
        await runner.handle(Placed("a"), message_id="placed")
        await runner.handle(Failing("a"), message_id="failing")
        answers = await asyncio.gather(
            *(runner.handle(Asked("a", TEXT), message_id=f"note-{number}") for number in range(20)),
            return_exceptions=True,
        )
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        assert 0 < len(errors) < 20
        assert {type(error) for error in errors} == {InstanceFullError}


async def test_an_event_that_finds_too_many_undelivered_commands_may_come_again(quick: Bench) -> None:
    gone = asyncio.Event()

    async def away(command: object) -> None:
        await gone.wait()

    async with quick.runner(dispatch=away, max_payload_bytes=LIMIT) as runner:
        await runner.handle(Placed("a"))
        with pytest.raises(InstanceFullError):
            for number in range(100):
                # what the state keeps of it is short, so that only its command takes room
                await runner.handle(Asked("a", "x") if number == 0 else Noted("a", "y" * 60), message_id=f"n-{number}")
        gone.set()
        await runner.settle()
        assert (await runner.handle(Noted("a", "y" * 60), message_id=f"n-{number}")).handled


@pytest.mark.parametrize("ends", ["accepted", "taken over", "refused"])
async def test_a_replay_that_has_no_room_for_more_commands_goes_on_when_they_are_gone(quick: Bench, ends: str) -> None:
    away = asyncio.Event()

    async def dispatch(command: Any) -> None:
        if isinstance(command, Note) and not away.is_set():
            await away.wait()
            if ends == "refused":
                raise CommandRefused("no")

    texts = [f"{number} {'x' * 200}" for number in range(6)]
    async with quick.runner(dispatch=dispatch, max_payload_bytes=LIMIT, stop_timeout=timedelta(0)) as runner:
        OrderSaga.fail_times = 9
        await runner.handle(Placed("a"), message_id="placed")
        assert (await runner.handle(Failing("a"), message_id="failing")).held
        for text in texts:
            assert (await runner.handle(Noted("a", text))).held
        repaired = await runner.skip("order", "a")
        assert "it continues when they are accepted" in repaired.parked
        assert repaired.replayed + repaired.held == 6
        assert 0 < repaired.replayed < 6
        assert (await runner.handle(Noted("a", "behind"))).held
        if ends != "taken over":
            away.set()
            await runner.settle()
    if ends == "taken over":
        away.set()
        quick.advance(seconds=60)
        async with quick.runner(max_payload_bytes=LIMIT) as other:
            await other.settle()
    record = await quick.record("a")
    assert (record.parked, record.held, record.goes_on) == ("", (), False)
    assert [line for line in await quick.log("a") if "xxx" in line or line == "behind"] == [*texts, "behind"]


async def test_an_event_whose_own_command_or_state_is_too_large_is_to_blame_itself(quick: Bench) -> None:
    async with quick.runner(max_payload_bytes=2_000) as runner:
        await runner.handle(Placed("a"))
        with pytest.raises(PayloadTooLargeError):
            await runner.handle(Asked("a", "big"))  # into its state
        with pytest.raises(PayloadTooLargeError):
            await runner.handle(Noted("a", "x" * 1_500))  # into its state, and into its command


async def test_what_waits_for_its_phase_leaves_no_room_until_that_comes(quick: Bench) -> None:
    Orders.failing = set()
    async with quick.runner(sagas=(Orders,), dispatch=lambda _: None, max_payload_bytes=LIMIT) as runner:
        await runner.handle(phased.Placed("o"))
        with pytest.raises(InstanceFullError):
            for number in range(5):
                assert (await runner.handle(Labelled("o", f"{number}" * 1_000), message_id=f"early-{number}")).kept
        await runner.handle(phased.Paid("o"))
        with pytest.raises(PayloadTooLargeError):  # now it is the state that leaves none
            await runner.handle(Labelled("o", f"{number}" * 1_000), message_id=f"early-{number}")


async def test_an_answer_for_a_full_instance_waits_for_its_repair_and_is_asked_for_once(quick: Bench) -> None:
    asked: list[str] = []
    tried = asyncio.Event()

    def answer(command: Any) -> Any:
        if not isinstance(command, Note):
            return None
        asked.append(command.text)
        tried.set()
        return Asked("a", TEXT)

    async with quick.runner(dispatch=answer, max_payload_bytes=LIMIT) as runner:
        await park_full(runner)
        await runner.handle(Placed("b"))
        await runner.handle(Noted("b", "for a"))
        await tried.wait()
        assert not (await quick.record("b")).parked
        await runner.skip("order", "a")
        await runner.settle()
    assert asked == ["for a"]
    assert (await quick.log("a")).count(TEXT) > 1
    assert not (await quick.record("b")).outbox


async def test_an_answer_that_is_too_large_beside_the_command_that_it_answers_is_asked_for_once(quick: Bench) -> None:
    asked: list[str] = []

    def answer(command: Any) -> Any:
        if not isinstance(command, Note):
            return None
        asked.append(command.text)
        return Noted("a", "y" * 600)

    async with quick.runner(dispatch=answer, max_payload_bytes=2_600) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Noted("a", "x" * 600))
        await runner.settle()
        assert "its answer, a Noted, cannot be handled" in (await quick.record("a")).parked
    assert len(asked) == 1


async def test_within_a_transaction_of_the_caller_it_is_told_the_same(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    async with SqliteJournal(path) as journal, Bench(journal).runner(max_payload_bytes=LIMIT) as runner:
        await park_full(runner)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            with pytest.raises(InstanceFullError):
                await runner.handle(Asked("a", TEXT), message_id="within", connection=connection)
            connection.execute("ROLLBACK")
