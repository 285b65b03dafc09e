"""What a runner shows of itself: coroutine functions that say so, no plumbing of the command line, repairs by class."""

from __future__ import annotations

import inspect
import re

import pytest

import sagalog
import sagalog.blocking
import sagalog.brokers
import sagalog.journal
from sagalog import (
    InMemoryJournal,
    InMemorySagaStateStore,
    InvalidEventError,
    JournalSagaStateStore,
    SagaRunner,
    SqliteJournal,
)

from ..orders import OrderSaga, Placed

MEMBERS = {
    "set and given": "client clock counters hooks in_memory journal resources sagas settings using",
    "registered": "command reads reports",
    "its life": "gauges health serve start stop",
    "events": "handle handle_many settle",
    "questions": "find instance outcome state",
    "repairs": "cancel drop pause paused resume retry skip",
}


def test_a_runner_has_these_public_members_and_no_others() -> None:
    runner = SagaRunner("memory://", sagas=[OrderSaga])
    assert sorted(name for name in dir(runner) if not name.startswith("_")) == sorted(
        " ".join(MEMBERS.values()).split()
    )


@pytest.mark.parametrize(
    "cls",
    [SagaRunner, InMemoryJournal, SqliteJournal, InMemorySagaStateStore, JournalSagaStateStore, sagalog.brokers.Source],
)
def test_what_is_awaited_is_a_coroutine_function(cls: type) -> None:
    """Frameworks ask `inspect.iscoroutinefunction` whether to await what they are given."""
    methods = {name: one for name, one in inspect.getmembers(cls, inspect.isfunction) if not name.startswith("_")}
    promised = {name: str(one.__annotations__.get("return")) for name, one in methods.items()}
    awaited = [name for name, said in promised.items() if re.match("(Awaitable|Coroutine|.*Future)", said)]
    assert awaited == []
    assert any(inspect.iscoroutinefunction(one) for one in methods.values())


async def test_a_repair_takes_the_class_of_a_saga_or_its_name() -> None:
    async with SagaRunner("memory://", sagas=[OrderSaga], dispatch=lambda command: None) as runner:
        for name, saga in (("a", OrderSaga), ("b", OrderSaga()), ("c", "order")):
            await runner.handle(Placed(name))
            await runner.cancel(saga, name, compensate=False)
            assert (await runner.outcome(OrderSaga, name)).status == "cancelled"
        for odd in (None, 5, Placed, sagalog.Saga):
            with pytest.raises(InvalidEventError, match="saga"):
                await runner.retry(odd, "a")  # type: ignore[arg-type]
