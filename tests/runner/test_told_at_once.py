"""Why an event is refused is told of what is stored, and not of what a worker has in memory and another one has changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sagalog import (
    DefinitionError,
    Gather,
    InMemoryJournal,
    InstanceFullError,
    Saga,
    SagaRunner,
    Send,
    SqliteJournal,
    on,
    starts,
)

from .conftest import Bench


@dataclass
class Placed:
    order_id: str


@dataclass
class Weigh:
    order_id: str


@dataclass
class Packed:
    order_id: str


@dataclass
class AllWeighed:
    order_id: str


@dataclass
class Print:
    order_id: str
    text: str


@dataclass
class Order:
    log: list[str] = field(default_factory=list)


class PackingSaga(Saga[Order]):
    name = "packing"

    @starts(Placed, key="order_id")
    def placed(self, order: Order, event: Placed) -> None: ...

    @on(Packed, key="order_id")
    def packed(self, order: Order, event: Packed) -> Gather:
        end = AllWeighed(event.order_id)
        return Gather("scales", [Send(Weigh(event.order_id))], then=end, failed=end)

    @on(AllWeighed, key="order_id")
    def weighed(self, order: Order, event: AllWeighed) -> None:
        order.log.append("weighed")

    @on(Print, key="order_id")
    def printed(self, order: Order, event: Print) -> Send:
        return Send(event)


@pytest.fixture(params=["memory", "sqlite"])
async def two(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    journal: Any = InMemoryJournal() if request.param == "memory" else SqliteJournal(tmp_path / "orders.db")
    yield Bench(journal)
    await journal.close()


async def _never(command: Any) -> None:
    await asyncio.Event().wait()


def worker(bench: Bench) -> SagaRunner:
    return bench.runner(
        sagas=(PackingSaga,),
        dispatch=_never,
        max_payload_bytes=20_000,
        stop_timeout=timedelta(0),
    )


async def test_a_step_that_could_not_be_taken_is_decided_again_on_what_another_worker_has_left(two: Bench) -> None:
    async with worker(two) as one, worker(two) as other:
        await other.handle(Placed("a"))
        await other.handle(Packed("a"))
        with pytest.raises(DefinitionError, match="is under way already"):
            await other.handle(Packed("a"))
        await one.drop(PackingSaga, "a", "2/0")
        assert (await one.state(PackingSaga, "a")).log == ["weighed"]
        assert (await other.handle(Packed("a"))).handled


async def test_a_full_outbox_that_an_operator_has_emptied_elsewhere_is_full_no_more(two: Bench) -> None:
    async with worker(two) as one, worker(two) as other:
        await other.handle(Placed("a"))
        for _ in range(5):
            await other.handle(Print("a", "x" * 3000))
        with pytest.raises(InstanceFullError):
            await other.handle(Print("a", "x" * 6000))
        for step in range(2, 7):
            await one.drop(PackingSaga, "a", f"{step}/0")
        assert (await other.handle(Print("a", "x" * 6000))).handled
