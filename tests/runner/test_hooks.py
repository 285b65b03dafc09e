"""Hooks are told each part of a step once, in order, whatever becomes of it."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from sagalog import (
    InMemoryJournal,
    JournalSagaStateStore,
    JournalUnavailableError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    RetryPolicy,
    SagaParkedError,
    Scan,
)

from ..orders import Asked, Charge, Failing, Note, Noted, OrderSaga, Paid, Placed, Reserve
from .conftest import Bench, Gate
from .ear import Ear, listening
from .test_workers import until


@pytest.fixture
def bench() -> Bench:
    OrderSaga.fail_times, OrderSaga.calls = 0, []
    return Bench(InMemoryJournal())


async def test_each_part_of_a_step_is_told_once_and_in_order(bench: Bench) -> None:
    ear = Ear()
    async with listening(bench, ear) as runner:
        await runner.handle(Placed("a"), message_id="m1")
        await runner.handle(Placed("a"), message_id="m1")
        await runner.settle()
    kinds = [kind for kind, _ in ear.told if kind != "scanned"]
    first = ["started", "handling", "saved", "handled", "delivering", "delivered", "answered"]
    assert kinds == [*first, "handling", "handled", "answered", "saved", "stopped"]
    begun, over = ear.of("handling"), ear.of("handled")
    assert begun == over
    assert [(h.saga, h.correlation_id, h.kind, h.type, h.message_id, h.sequence_nr, h.outcome) for h in over] == [
        ("order", "a", "event", "Placed", "m1", 1, "handled"),
        ("order", "a", "event", "Placed", "m1", 2, "duplicate"),
    ]
    (delivery,) = ear.of("delivered")
    assert (delivery.command, delivery.command_id, delivery.attempt) == ("Reserve", "saga::order::a/1/0", 1)
    assert delivery.outcome == "accepted"
    step, maintenance = ear.of("saved")
    assert (step.sequence_nr, step.outcome, step.messages, step.oldest) == (1, "saved", 1, "1/0")
    assert (maintenance.sequence_nr, maintenance.messages, maintenance.oldest) == (2, 0, "")
    assert ear.of("answered") == [("Placed", ""), ("Placed", "")]
    assert ear.of("scanned")[0] == Scan("order", 0, 0.0)


async def test_a_lost_race_is_told_and_so_is_the_second_try(shared: Bench) -> None:
    one_ear, two_ear = Ear(), Ear()
    async with listening(shared, one_ear) as one, listening(shared, two_ear) as two:
        await one.handle(Placed("a"))
        await asyncio.gather(*((one, two)[n % 2].handle(Noted("a", str(n)), message_id=f"n{n}") for n in range(20)))
        await one.settle()
        await two.settle()
        lost = [save for ear in (one_ear, two_ear) for save in ear.of("saved") if save.outcome == "conflict"]
        assert len(lost) == one.counters.conflicts + two.counters.conflicts > 0
    for ear in (one_ear, two_ear):
        assert Counter(map(id, ear.of("handling"))) == Counter(map(id, ear.of("handled")))
    outcomes = Counter(
        (h.message_id, h.outcome) for ear in (one_ear, two_ear) for h in ear.of("handled") if h.type == "Noted"
    )
    assert all(outcomes[f"n{n}", "handled"] == 1 for n in range(20))
    # A save may be lost that had no message in it: what commands were accepted is recorded by both, too.
    assert sum(n for (_, outcome), n in outcomes.items() if outcome == "conflict") == sum(
        save.messages for save in lost
    )


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(JournalUnavailableError("gone"), "unavailable"), (OutcomeUnknownError("no answer"), "unknown")],
)
async def test_a_save_that_fails_is_told_with_all_its_messages(bench: Bench, error: Exception, outcome: str) -> None:
    assert bench.journal is not None
    store, ear = Gate(JournalSagaStateStore(bench.journal, "order")), Ear()
    failing = iter([error])

    def fail(key: str, payload: bytes) -> None:
        for once in failing:
            raise once

    async with listening(bench, ear, source=store) as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        store.before = fail
        answers = await asyncio.gather(*(runner.handle(Noted("a", str(n))) for n in range(2)), return_exceptions=True)
        await runner.settle()
    failed = [save for save in ear.of("saved") if save.outcome == outcome]
    assert Counter(map(id, ear.of("handling"))) == Counter(map(id, ear.of("handled")))
    noted = [outcome for kind, outcome in ear.outcomes if kind == "Noted"]
    assert noted.count(outcome) == sum(save.messages for save in failed) >= 1
    assert noted.count("handled") == sum(not isinstance(answer, Exception) for answer in answers)


async def test_what_would_make_the_record_too_large_is_over_too(bench: Bench) -> None:
    ear = Ear()
    async with listening(bench, ear, max_payload_bytes=2000) as runner:
        await runner.handle(Placed("a"))
        with pytest.raises(PayloadTooLargeError):
            await runner.handle(Asked("a", "big"))
        await runner.settle()
    assert ear.outcomes == [("Placed", "handled"), ("Asked", "repeated")]
    assert ear.of("handling") == ear.of("handled")
    assert ear.of("answered") == [("Placed", ""), ("Asked", "PayloadTooLargeError")]


async def test_retries_parking_and_the_repair_are_told(bench: Bench) -> None:
    OrderSaga.fail_times = 3
    ear = Ear()
    async with listening(bench, ear) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Failing("a"), message_id="f")
        await runner.handle(Noted("a", "later"), message_id="n")
        await runner.retry("order", "a")
        await runner.settle()
    assert ear.outcomes[1:] == [("Failing", "failed")] * 3 + [
        ("Noted", "held"),
        ("Failing", "handled"),
        ("Noted", "handled"),
    ]
    assert {h.error for h in ear.of("handled") if h.outcome == "failed"} == {"RuntimeError"}
    assert [h.waited for h in ear.of("handled")] == [False] * 5 + [True] * 2
    assert ear.of("parked") == [("order", "a", "handling Failing raised RuntimeError, 3 times")]


async def test_a_replay_that_would_make_the_record_too_large_tells_what_holds_and_what_is_taken_back(
    bench: Bench,
) -> None:
    OrderSaga.fail_times = 3
    ear = Ear()
    async with listening(bench, ear, max_payload_bytes=2500) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Failing("a"))
        await runner.handle(Noted("a"))
        await runner.handle(Asked("a", "big"))
        before = len(ear.outcomes)
        await runner.retry("order", "a")
        await runner.settle()
    assert sorted(ear.outcomes[before:]) == [
        ("Asked", "repeated"),
        ("Asked", "repeated"),
        ("Failing", "handled"),
        ("Failing", "repeated"),
        ("Noted", "handled"),
        ("Noted", "repeated"),
    ]
    assert Counter(map(id, ear.of("handling"))) == Counter(map(id, ear.of("handled")))
    assert [reason.partition(":")[0] for _, _, reason in ear.of("parked")] == [
        "handling Failing raised RuntimeError, 3 times",
        "replaying Asked failed",
    ]


async def test_commands_that_fail_are_refused_or_have_no_handler_are_told(bench: Bench) -> None:
    ear = Ear()
    bench.world.fail = {Reserve: 1}
    bench.world.refuse = {Charge}
    async with listening(bench, ear) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Paid("a"))
        await until(lambda: "Release" in bench.world.names)
        await runner.settle()
    told = [(d.command, d.attempt, d.outcome, d.error) for d in ear.of("delivered")]
    assert told == [
        ("Reserve", 1, "failed", "ConnectionError"),
        ("Reserve", 2, "accepted", ""),
        ("Charge", 1, "refused", "CommandRefused"),
        ("Release", 1, "accepted", ""),
    ]
    assert ear.of("delivering") == ear.of("delivered")
    (refused,) = [h for h in ear.of("handled") if h.kind == "refused"]
    assert (refused.type, refused.outcome) == ("Charge", "handled")

    ear = Ear()
    async with listening(bench, ear, dispatch={Note: print}, dispatch_retry=RetryPolicy(attempts=1)) as runner:
        await runner.handle(Placed("b"))
        await runner.settle()
    assert [(d.command, d.outcome, d.error) for d in ear.of("delivered")] == [("Reserve", "failed", "DefinitionError")]
    assert ear.of("parked") == []  # it is left to a worker that has one


async def test_a_record_that_cannot_be_read_is_told_once(bench: Bench) -> None:
    ear = Ear()
    assert bench.journal is not None
    store = JournalSagaStateStore(bench.journal, "order")
    await store.save("a", b"{", expected_version=0)
    async with listening(bench, ear) as runner:
        for _ in range(2):
            with pytest.raises(SagaParkedError):
                await runner.handle(Noted("a"))
    assert ear.of("parked") == [("order", "a", "the stored record is damaged: it is not JSON")]
