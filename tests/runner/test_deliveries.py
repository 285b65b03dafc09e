"""What command handlers may do to a worker: answer nonsense, hang, raise what is no failure, and take long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    CommandContext,
    CommandPolicy,
    DefinitionError,
    InMemoryJournal,
    JournalUnavailableError,
    ManualClock,
    Outcome,
    RetryPolicy,
    RunnerSettings,
    Saga,
    SagaRunner,
    Send,
    SetTimer,
    on,
    starts,
)

from ..servers.processes import eventually

LONG = 3600.0


@dataclass
class Opened:
    id: str


@dataclass
class Moved:
    id: str


@dataclass
class Rang:
    id: str


@dataclass
class Progress:
    id: str


@dataclass
class Done:
    id: str


@dataclass
class Charge:
    id: str


@dataclass
class Mail:
    id: str


@dataclass
class Seen:
    done: int = 0
    progress: int = 0
    moved: int = 0
    rang: int = 0


class Account(Saga[Seen]):
    name = "account"

    @starts(Opened, key="id")
    def opened(self, state: Seen, event: Opened) -> Any:
        yield Send(Charge(event.id))
        if event.id.startswith("mail"):
            yield Send(Mail(event.id))

    @on(Moved, key="id")
    def moved(self, state: Seen, event: Moved) -> None:
        state.moved += 1

    @on(Progress, key="id")
    def progress(self, state: Seen, event: Progress) -> None:
        state.progress += 1

    @on(Done, key="id")
    def done(self, state: Seen, event: Done) -> None:
        state.done += 1


class Letters(Saga[Seen]):
    name = "letters"

    @starts(Opened, key="id")
    def opened(self, state: Seen, event: Opened) -> Any:
        return Send(Mail(event.id))


class Alarm(Saga[Seen]):
    name = "alarm"

    @starts(Opened, key="id")
    def opened(self, state: Seen, event: Opened) -> Any:
        return SetTimer("t", Rang(event.id), after=timedelta(milliseconds=10))

    @on(Rang, key="id")
    async def rang(self, state: Seen, event: Rang) -> Any:
        if event.id.startswith("hangs"):
            await asyncio.sleep(LONG)
        return Send(Mail(event.id))


FAST = RetryPolicy(attempts=None, base=timedelta(milliseconds=1), cap=timedelta(milliseconds=2))


def runner_of(
    dispatch: Any, *sagas: type[Saga[Any]], journal: Any = None, clock: Any = None, **settings: Any
) -> SagaRunner:
    settings = {"dispatch_retry": FAST, "stop_timeout": timedelta(milliseconds=200), **settings}
    return SagaRunner(
        journal or InMemoryJournal(),
        sagas=sagas or [Account],
        dispatch=dispatch,
        clock=clock,
        settings=RunnerSettings(**settings),
    )


async def parked(runner: SagaRunner) -> None:
    while runner.counters.parked == 0:
        await asyncio.sleep(0.001)
    await runner.settle()


class Charged:
    """A receiver that counts, and answers or raises what it is told to."""

    def __init__(self, *, answer: Any = None, error: BaseException | None = None) -> None:
        self.calls = 0
        self._answer, self._error = answer, error

    def __call__(self, command: Any) -> Any:
        self.calls += 1
        if self._error is not None:
            raise self._error
        return self._answer


class AsyncCharged(Charged):
    async def __call__(self, command: Any) -> Any:  # type: ignore[override]
        return super().__call__(command)


@pytest.mark.parametrize("receiver", [Charged, AsyncCharged])
@pytest.mark.parametrize(
    "answer",
    [True, 0, {"status": "ok"}, "done", object(), Charge("a"), [Done("a"), 1]],
    ids=lambda answer: type(answer).__name__,
)
async def test_an_answer_that_is_no_event_is_asked_for_once(receiver: type[Charged], answer: Any) -> None:
    charge = receiver(answer=answer)
    async with runner_of(charge) as runner:
        await runner.handle(Opened("a"))
        await parked(runner)
        assert charge.calls == 1
        await runner.skip("account", "a")
        assert (await runner.handle(Moved("a"))).outcomes == {"account": Outcome.HANDLED}


async def test_an_answer_over_the_limit_is_asked_for_once() -> None:
    charge = Charged(answer=Done("a" * 5000))
    async with runner_of(charge, max_payload_bytes=2000) as runner:
        await runner.handle(Opened("a"))
        await parked(runner)
    assert charge.calls == 1


@pytest.mark.parametrize("receiver", [Charged, AsyncCharged])
@pytest.mark.parametrize(
    "error", [TypeError("x"), NameError("x"), NotImplementedError("x"), DefinitionError("x")], ids=repr
)
async def test_what_another_attempt_would_raise_again_parks_at_once_and_says_where(
    receiver: type[Charged], error: Exception
) -> None:
    charge = receiver(error=error)
    journal = InMemoryJournal()
    async with runner_of(charge, journal=journal) as runner:
        await runner.handle(Opened("a"))
        await parked(runner)
        latest = await journal.latest_message("saga::account::a")
    assert charge.calls == 1
    assert latest is not None
    if not isinstance(error, DefinitionError):
        assert b"test_deliveries.py:" in latest.payload


class Panic(BaseException):
    """As a Rust extension raises one."""


@pytest.mark.parametrize("receiver", [Charged, AsyncCharged])
@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit(), Panic()], ids=repr)
async def test_an_exception_that_is_no_exception_is_a_failed_attempt(
    receiver: type[Charged], error: BaseException
) -> None:
    charge = receiver(error=error)
    mailed: list[str] = []

    def dispatch(command: Any) -> Any:
        return charge(command) if isinstance(command, Charge) else mailed.append(command.id)

    policy = RetryPolicy(attempts=3, base=timedelta(milliseconds=1), cap=timedelta(milliseconds=1))
    async with runner_of(dispatch, Account, Letters, dispatch_retry=policy) as runner:
        await runner.handle(Opened("a"))
        await parked(runner)
        assert charge.calls == 3
        assert (await runner.handle(Opened("b"))).handled
        await runner.settle()
        assert mailed == ["a", "b"]
        assert (await runner.health()).ready


async def test_the_answer_of_a_second_attempt_is_not_taken_for_one_of_the_first() -> None:
    journal = InMemoryJournal()
    attempts = 0

    async def charge(command: Charge) -> AsyncIterator[Any]:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            yield Progress("a")
            raise OSError
        yield Done("a")

    runner = runner_of(None, journal=journal)
    runner.command(Charge)(charge)
    async with runner:
        await runner.handle(Opened("a"))
        await runner.settle()
        while attempts < 2:
            await asyncio.sleep(0.001)
        await runner.settle()
    latest = await journal.latest_message("saga::account::a")
    assert latest is not None
    assert b'"done":1,"progress":1' in latest.payload


async def test_a_reply_to_a_saga_that_has_ended_does_not_ask_the_receiver_again() -> None:
    charge = Charged(answer=Progress("nobody"))
    async with runner_of(charge, no_instance="raise") as runner:
        await runner.handle(Opened("a"))
        await runner.settle()
        assert charge.calls == 1
        assert runner.counters.parked == 0


async def test_only_the_answer_is_tried_again_while_the_journal_is_away() -> None:
    class Away(InMemoryJournal):
        refuse = 0

        async def write_batch(self, records: Any) -> Any:
            if self.refuse:
                self.refuse -= 1
                raise JournalUnavailableError("away")
            return await super().write_batch(records)

    journal = Away()

    async def charge(command: Charge) -> Done:
        nonlocal calls
        calls += 1
        journal.refuse = 3
        return Done("a")

    calls = 0
    async with runner_of(charge, journal=journal) as runner:
        await runner.handle(Opened("a"))
        await runner.settle()
    assert journal.refuse == 0
    assert calls == 1
    assert runner.counters.commands == 1


async def test_hanging_commands_of_one_type_hold_up_no_other_type() -> None:
    mailed = asyncio.Event()

    async def dispatch(command: Any) -> None:
        if isinstance(command, Charge):
            await asyncio.sleep(LONG)
        mailed.set()

    async with runner_of(dispatch, Account, Letters, max_dispatch=4) as runner:
        await runner.handle_many([Opened(f"o-{n}") for n in range(8)])
        async with asyncio.timeout(40):
            await mailed.wait()


async def test_a_command_has_the_time_the_attempts_and_the_places_that_it_was_given() -> None:
    at_once = most = calls = 0
    runner = runner_of(None)

    @runner.command(
        Charge,
        timeout=timedelta(milliseconds=20),
        retry=RetryPolicy(attempts=2, base=timedelta(milliseconds=1), cap=timedelta(milliseconds=1)),
        places=2,
    )
    async def charge(command: Charge) -> None:
        nonlocal at_once, most, calls
        calls += 1
        at_once += 1
        most = max(most, at_once)
        try:
            await asyncio.sleep(LONG)
        finally:
            at_once -= 1

    async with runner:
        await runner.handle_many([Opened(f"o-{n}") for n in range(6)])
        async with asyncio.timeout(40):
            while runner.counters.parked < 6:
                await asyncio.sleep(0.001)
    assert (most, calls) == (2, 12)


@pytest.mark.parametrize(
    "policy", [{"timeout": 5}, {"timeout": timedelta(0)}, {"retry": 3}, {"places": 0}, {"places": 2.0}], ids=repr
)
def test_a_policy_of_a_wrong_type_is_refused(policy: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match=next(iter(policy))):
        CommandPolicy(**policy)


async def test_a_hung_command_is_cut_off_when_an_operator_cancels() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def dispatch(command: Any) -> None:
        begun.set()
        try:
            await asyncio.sleep(LONG)
        finally:
            ended.set()

    async with runner_of(dispatch) as runner:
        await runner.handle(Opened("a"))
        await begun.wait()
        await runner.cancel("account", "a", compensate=False)
        # What is under way belongs to a durable step; only what is dropped from the outbox is cut off.
        assert not ended.is_set()


async def test_a_timer_handler_that_hangs_holds_up_no_other_timer() -> None:
    mailed: list[str] = []
    runner = runner_of(lambda command: mailed.append(command.id), Alarm, due_poll=timedelta(milliseconds=10))
    async with runner:
        await runner.handle(Opened("hangs"))
        await asyncio.sleep(0.05)
        for n in range(20):
            await runner.handle(Opened(f"o-{n}"))
        async with asyncio.timeout(40):
            while len(mailed) < 20:
                await asyncio.sleep(0.001)


@pytest.mark.parametrize("event", [Opened, Moved])
async def test_a_worker_that_renews_its_lease_is_not_taken_over(event: Any) -> None:
    journal, clock = InMemoryJournal(), ManualClock()  # so that no lease ends while this machine is busy
    lease = timedelta(milliseconds=200)
    begun: list[str] = []
    go_on = asyncio.Event()

    def worker(name: str) -> SagaRunner:
        async def charge(command: Charge, context: CommandContext) -> None:
            begun.append(name)
            await go_on.wait()

        return runner_of(
            charge,
            journal=journal,
            clock=clock,
            lease=lease,
            due_poll=timedelta(milliseconds=50),
            stop_timeout=timedelta(seconds=5),
        )

    async def renewed() -> bool:
        due = await journal.due_ids("saga::", clock.now() + timedelta(hours=1))
        return due[0][1] - clock.now() > 0.55 * lease

    async with worker("one") as one, worker("two") as two:
        await one.handle(Opened("a"), message_id="m")
        await eventually(lambda: bool(begun))
        await two.handle(event("a"), message_id="m" if event is Opened else "n")
        for _ in range(40):  # sixteen leases by the clock, and some by that of the machine
            clock.advance(0.4 * lease)
            await eventually(renewed)
        assert begun == ["one"]
        go_on.set()
        await one.settle()
        await two.settle()
    assert begun == ["one"]


async def test_a_dead_worker_is_taken_over_even_while_others_step_the_instance() -> None:
    journal = InMemoryJournal()
    taken = asyncio.Event()

    async def hangs(command: Charge) -> None:
        await asyncio.sleep(LONG)

    async def takes(command: Charge) -> None:
        taken.set()

    settings = {"journal": journal, "lease": timedelta(milliseconds=200), "due_poll": timedelta(milliseconds=50)}
    one = runner_of(hangs, **settings, stop_timeout=timedelta(0))
    await one.start()
    await one.handle(Opened("a"))
    await one.stop()  # its command stays in the outbox
    async with runner_of(takes, **settings) as two:
        async with asyncio.timeout(40):
            while not taken.is_set():
                await two.handle(Moved("a"))
                await asyncio.sleep(0.02)


async def test_a_command_that_ends_its_workers_is_parked_and_can_be_passed() -> None:
    journal = InMemoryJournal()
    begun: list[str] = []

    async def ends(command: Charge) -> None:
        begun.append(command.id)
        await asyncio.sleep(LONG)

    settings = {
        "journal": journal,
        "lease": timedelta(milliseconds=50),
        "due_poll": timedelta(milliseconds=10),
        "max_takeovers": 3,
    }
    for number in range(5):
        worker = runner_of(ends, **settings, stop_timeout=timedelta(0))
        await worker.start()
        if number == 0:
            await worker.handle(Opened("a"), message_id="m")
        async with asyncio.timeout(40):
            while len(begun) <= number and worker.counters.parked == 0:
                await asyncio.sleep(0.001)
        await worker.stop()  # its time is over at once: what it was at stays where it is, as after a kill
    assert begun == ["a"] * 4  # the first one, and three that took over
    assert worker.counters.parked == 1

    charged: list[str] = []
    async with runner_of(lambda command: charged.append(command.id), **settings) as worker:
        await worker.settle()
        assert charged == []
        await worker.retry("account", "a")
        await worker.settle()
    assert charged == ["a"]
