"""Event time at the end of a log, and at a stop: nothing is left out of its order, and nobody waits for another."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest

from sagalog import (
    Action,
    CommandContext,
    EventClock,
    Incoming,
    InMemoryJournal,
    RetryPolicy,
    RunnerSettings,
    RunnerStoppedError,
    Saga,
    SagaRunner,
    Send,
    SetTimer,
    on,
    starts,
)

from ..dated import (
    START,
    Noted,
    Order,
    Overdue,
    Placed,
    Remind,
    Reminded,
    Reserve,
    Slow,
    Story,
    run,
    runner_of,
)
from ..servers.processes import eventually


class Daily(Saga[Story]):
    name = "daily"

    @starts(Placed, key="id")
    def placed(self, state: Story, event: Placed) -> Iterator[Action]:
        yield SetTimer("daily", Overdue(event.id), every=timedelta(days=1), missed="each")

    @on(Overdue, key="id")
    def overdue(self, state: Story, event: Overdue) -> Iterator[Action]:
        state.told.append("overdue")
        yield Send(Remind(event.id, len(state.told)))

    @on(Reminded, key="id")
    def reminded(self, state: Story, event: Reminded) -> None:
        state.told.append("reminded")


def runner_of_daily(
    journal: InMemoryJournal,
    failing: dict[str, int],
    attempts: Counter[str],
    *,
    cache_size: int = 20_000,
    answers: bool = True,
    plain: bool = False,
) -> SagaRunner:
    """Return a runner in which each command fails so many times, by the id of its instance; `attempts` counts them."""

    def carry_out(command: Remind, context: CommandContext) -> Reminded | None:
        attempts[context.id] += 1
        if attempts[context.id] <= failing.get(command.id, 0):
            raise OSError("away")
        return Reminded(command.id, command.number) if answers else None

    async def carry_out_later(command: Remind, context: CommandContext) -> Reminded | None:
        return carry_out(command, context)

    remind = carry_out if plain else carry_out_later
    settings = RunnerSettings(
        dispatch_retry=RetryPolicy(base=timedelta(milliseconds=1), cap=timedelta(milliseconds=20)),
        cache_size=cache_size,
    )
    return SagaRunner(journal, sagas=[Daily], dispatch={Remind: remind}, clock=EventClock(), settings=settings)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize("failures", [0, 1, 3])
async def test_what_is_due_at_the_end_of_a_log_waits_for_the_next_attempt_of_what_is_before_it(
    failures: int, answers: bool, plain: bool
) -> None:
    journal, told = Slow(), []
    attempts: Counter[str] = Counter()
    for _ in range(2):
        async with runner_of_daily(journal, {"a": failures}, attempts, answers=answers, plain=plain) as runner:
            await runner.handle(Placed("a"), message_id="1", at=START)
            await runner.handle(Placed("b"), message_id="2", at=START + timedelta(days=3, hours=1))
            await runner.settle()
            told.append((await runner.state(Daily, "a")).told)
    assert told == [(["overdue", "reminded"] if answers else ["overdue"]) * 3] * 2
    assert set(attempts.values()) == {failures + 1}


@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize("cache_size", [1, 20_000])
@pytest.mark.parametrize("count", [2, 300])
async def test_what_is_due_behind_many_attempts_is_due_however_few_instances_are_kept_in_memory(
    count: int, cache_size: int, answers: bool
) -> None:
    names = [f"a{number}" for number in range(count)]
    attempts: Counter[str] = Counter()
    failing = {name: 1 + number % 3 for number, name in enumerate(names)}
    async with runner_of_daily(Slow(), failing, attempts, cache_size=cache_size, answers=answers) as runner:
        await asyncio.gather(*(runner.handle(Placed(name), message_id=name, at=START) for name in names))
        await runner.handle(Placed("last"), message_id="last", at=START + timedelta(days=3, hours=1))
        await runner.settle()
        for name in names:
            assert (await runner.state(Daily, name)).told == (["overdue", "reminded"] if answers else ["overdue"]) * 3
    assert set(attempts.values()) == {2, 3, 4} & set(range(count + 2))


async def test_an_instance_whose_receiver_is_away_keeps_no_other_from_its_timers() -> None:
    async with runner_of_daily(InMemoryJournal(), {"away": 10**9, "soon": 2}, Counter()) as runner:
        for name in ("away", "soon"):
            await runner.handle(Placed(name), message_id=name, at=START)
        await runner.handle(Placed("last"), message_id="last", at=START + timedelta(days=3, hours=1))
        settling = asyncio.create_task(runner.settle())

        async def all_told() -> bool:
            return (await runner.state(Daily, "soon")).told == ["overdue", "reminded"] * 3

        await eventually(all_told)
        assert not settling.done()
    async with asyncio.timeout(30):  # it ends with the runner
        await settling


async def test_an_event_that_waits_for_a_command_at_a_stop_is_left_to_the_next_run() -> None:
    journal, tried = InMemoryJournal(), asyncio.Event()
    log = [
        Incoming(event, str(n), START + timedelta(hours=n)) for n, event in enumerate((Placed("a"), Noted("a", "n")))
    ]

    async def away(command: Reserve) -> None:
        tried.set()
        raise OSError("away")

    async with SagaRunner(journal, sagas=[Order], dispatch=away, clock=EventClock()) as runner:
        feeding = asyncio.create_task(runner.handle_many(log))
        await tried.wait()
    with pytest.raises(ExceptionGroup) as refused:
        await feeding
    assert [type(one) for one in refused.value.exceptions] == [RunnerStoppedError]
    await run(journal, [(one.message_id or "", one.at or START, one.event) for one in log], random.Random(1))
    async with runner_of(journal, random.Random(1)) as again:
        told = [one.split()[0] for one in (await again.state(Order, "a")).told]
    assert told[:3] == ["placed", "reserved", "noted"]
