"""An event that was held to begin the next life, and could not begin it: its repair lets it begin that one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from sagalog import (
    Compensate,
    Complete,
    RetryPolicy,
    RunnerSettings,
    Saga,
    SagaRunner,
    Send,
    Status,
    on,
    starts,
)


@dataclass
class Placed:
    id: str
    text: str


@dataclass
class Cancelled:
    id: str


@dataclass
class Closed:
    id: str


@dataclass
class Reserve:
    id: str


@dataclass
class Release:
    id: str


@dataclass
class Log:
    log: list[str] = field(default_factory=list)


class Twice(Saga[Log]):
    name = "twice"
    failing: set[str] = set()

    @starts(Placed, key="id")
    def placed(self, state: Log, event: Placed) -> Any:
        if event.text in self.failing:
            raise ValueError("not now")
        state.log.append(event.text)
        return Send(Reserve(event.id), undo=Release(event.id))

    @on(Cancelled, key="id")
    def cancelled(self, state: Log, event: Cancelled) -> Any:
        if "cancelled" in self.failing:
            raise ValueError("not now")
        return Compensate()

    @on(Closed, key="id")
    def closed(self, state: Log, event: Closed) -> Any:
        state.log.append("closed")
        return Complete()


@pytest.mark.parametrize("how", ["retry", "skip"])
async def test_what_could_not_begin_the_next_life_begins_it_after_its_repair_and_before_what_comes_then(
    how: str,
) -> None:
    settings = RunnerSettings(handler_retry=RetryPolicy(attempts=1))
    Twice.failing = {"cancelled", "second"}
    async with SagaRunner("memory://", sagas=[Twice], dispatch=lambda command: None, settings=settings) as runner:
        await runner.handle(Placed("a", "first"))
        await runner.settle()
        assert (await runner.handle(Cancelled("a"))).held
        assert (await runner.handle(Placed("a", "second"))).held
        Twice.failing = {"second"}
        await runner.retry("twice", "a")
        await runner.settle()  # compensated; the next life could not begin
        found = await runner.instance(Twice, "a")
        assert (found.incarnation, found.status) == (2, Status.RUNNING)
        assert "replaying Placed failed" in found.parked
        Twice.failing = set()
        if how == "retry":
            await runner.retry("twice", "a")
            receipt = await runner.handle(Closed("a"))
            await runner.settle()
            assert receipt.handled
            assert (await runner.state(Twice, "a")).log == ["second", "closed"]
        else:
            await runner.skip("twice", "a")
            await runner.settle()
            assert not (await runner.handle(Closed("a"))).handled
