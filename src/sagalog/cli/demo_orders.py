"""What `sagalog demo` runs: an order saga, and the worker that runs it until it is killed.

The shop around it is a file, the ledger: every command that reaches "the outside world" is a line in it. It is written
and read without Sagalog, so it can testify.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sagalog import (
    CancelTimer,
    CommandContext,
    CommandRefused,
    Complete,
    RunnerSettings,
    Saga,
    SagaRunner,
    Send,
    SetTimer,
    on,
    starts,
)


@dataclass
class OrderPlaced:
    order: str
    total: int


@dataclass
class PaymentReceived:
    order: str


@dataclass
class PaymentOverdue:
    order: str


@dataclass
class ParcelDelivered:
    order: str


@dataclass
class ReserveStock:
    order: str


@dataclass
class ReleaseStock:
    order: str


@dataclass
class ChargeCard:
    order: str
    total: int


@dataclass
class RefundCard:
    order: str


@dataclass
class ShipParcel:
    order: str


@dataclass
class Order:
    total: int = 0
    steps: list[str] = field(default_factory=list)


class OrderSaga(Saga[Order]):
    name = "order"

    @starts(OrderPlaced, key="order")
    def placed(self, state: Order, event: OrderPlaced) -> Any:
        state.total = event.total
        state.steps.append("placed")
        yield Send(ReserveStock(event.order), undo=ReleaseStock(event.order))
        yield Send(ChargeCard(event.order, event.total), undo=RefundCard(event.order))
        yield SetTimer("payment", PaymentOverdue(event.order), after=timedelta(minutes=15))

    @on(PaymentReceived, key="order")
    def paid(self, state: Order, event: PaymentReceived) -> Any:
        state.steps.append("paid")
        yield CancelTimer("payment")
        yield Send(ShipParcel(event.order))  # refused for some: then the saga takes back what it did, backwards

    @on(PaymentOverdue, key="order")
    def overdue(self, state: Order, event: PaymentOverdue) -> Any:
        state.steps.append("overdue")

    @on(ParcelDelivered, key="order")
    def delivered(self, state: Order, event: ParcelDelivered) -> Any:
        state.steps.append("delivered")
        yield Complete()


def undeliverable(order: str) -> bool:
    """Say whether the carrier refuses this order: every eighth."""
    return int(order.rpartition("-")[2]) % 8 == 0


async def work(journal: str, ledger_path: str) -> None:
    """Handle the events of standard input, one JSON object a line, and acknowledge each on standard output."""
    ledger = os.open(ledger_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def dispatch(command: Any, context: CommandContext) -> Any:
        refused = isinstance(command, ShipParcel) and undeliverable(command.order)
        note = {"id": context.id, "command": type(command).__name__, "order": command.order, "refused": refused}
        os.write(ledger, json.dumps(note).encode() + b"\n")
        await asyncio.sleep(0.002)  # the outside world takes its time
        if refused:
            raise CommandRefused("the carrier does not deliver there")
        return ParcelDelivered(command.order) if isinstance(command, ShipParcel) else None

    types = {cls.__name__: cls for cls in (OrderPlaced, PaymentReceived)}
    runner = SagaRunner(
        journal, sagas=[OrderSaga], dispatch=dispatch, settings=RunnerSettings(lease=timedelta(seconds=1))
    )
    loop = asyncio.get_running_loop()
    at_work: set[asyncio.Task[None]] = set()

    async def handle(message: dict[str, Any]) -> None:
        receipt = await runner.handle(types[message["type"]](**message["data"]), message_id=message["id"])
        print(json.dumps({"accepted": message["id"], "known": receipt.duplicate}), flush=True)

    async with runner:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            task = asyncio.create_task(handle(json.loads(line)))
            at_work.add(task)
            task.add_done_callback(at_work.discard)
        if at_work:
            await asyncio.wait(at_work)
        await runner.settle()


if __name__ == "__main__":
    asyncio.run(work(*sys.argv[1:]))
