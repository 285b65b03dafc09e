"""An order saga with phases that most tests of phases run: it keeps, ignores and refuses what comes out of its phase."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any

from sagalog import (
    Compensate,
    Complete,
    Enter,
    Saga,
    Send,
    SetTimer,
    StepContext,
    on,
    on_enter,
    on_leave,
    starts,
)


class Phase(Enum):
    PLACED = "placed"
    PAID = "paid"
    SHIPPED = "shipped"


@dataclass
class Placed:
    order_id: str


@dataclass
class Paid:
    order_id: str
    fails: bool = False


@dataclass
class Labelled:
    """Expected while it is paid; kept before, ignored afterwards."""

    order_id: str
    text: str = ""
    times: int = 1


@dataclass
class Shipped:
    """Expected while it is paid; kept before."""

    order_id: str


@dataclass
class Reviewed:
    """Expected once it is shipped; its sender is told before."""

    order_id: str


@dataclass
class Overdue:
    """Of a timer that is set when it is placed."""

    order_id: str


@dataclass
class Reminded:
    """Of a timer that is set when it is placed, and is kept until it is shipped."""

    order_id: str


@dataclass
class Cancelled:
    order_id: str


@dataclass
class Closed:
    order_id: str


@dataclass
class Restarted:
    """Begins a life; kept while it is placed."""

    order_id: str


@dataclass
class Asked:
    """Returns the actions that are put into it, whatever the phase."""

    order_id: str
    what: str = ""


@dataclass
class Charge:
    order_id: str


@dataclass
class Refund:
    order_id: str


@dataclass
class Told:
    text: str


@dataclass
class Order:
    order_id: str = ""
    log: list[str] = field(default_factory=list)


class Orders(Saga[Order]):
    name = "phased"
    phases = Phase
    most_kept = 5
    messages = (Told, Charge, Refund)
    failing: set[str] = set()  # labels whose handler fails ...
    flaky: dict[str, int] = {}  # ... and which fail so many times

    @starts(Placed, key="order_id")
    def placed(self, state: Order, event: Placed) -> Any:
        state.order_id = event.order_id
        state.log.append("placed")
        yield Send(Charge(event.order_id), undo=Refund(event.order_id))
        yield SetTimer("overdue", Overdue(event.order_id), after=timedelta(hours=1))
        yield SetTimer("reminder", Reminded(event.order_id), after=timedelta(hours=1))

    @on(Paid, key="order_id", during=Phase.PLACED)
    def paid(self, state: Order, event: Paid) -> Any:
        state.log.append("paid")
        yield Enter(Phase.PAID)

    @on(Paid, key="order_id", during=(Phase.PAID, Phase.SHIPPED))
    def paid_again(self, state: Order, event: Paid, context: StepContext) -> Any:
        assert context.phase is not None
        state.log.append(f"paid again, {context.phase.name}")
        yield Send(Told("twice"))

    @on(Labelled, key="order_id", during=Phase.PAID, unexpected={Phase.PLACED: "keep", Phase.SHIPPED: "ignore"})
    def labelled(self, state: Order, event: Labelled) -> None:
        if event.text in self.failing:
            raise RuntimeError(event.text)
        if self.flaky.get(event.text, 0) > 0:
            self.flaky[event.text] -= 1
            raise RuntimeError(event.text)
        state.log.append(f"labelled {event.text * event.times}")

    @on(Shipped, key="order_id", during=Phase.PAID, unexpected={Phase.PLACED: "keep"})
    def shipped(self, state: Order, event: Shipped) -> Any:
        state.log.append("shipped")
        yield Enter(Phase.SHIPPED)

    @on(Reviewed, key="order_id", during=Phase.SHIPPED)
    def reviewed(self, state: Order, event: Reviewed) -> None:
        state.log.append("reviewed")

    @on(Overdue, key="order_id", during=Phase.PLACED)
    def overdue(self, state: Order, event: Overdue) -> None:
        state.log.append("overdue")

    @on(Reminded, key="order_id", during=Phase.SHIPPED, unexpected="keep")
    def reminded(self, state: Order, event: Reminded) -> None:
        state.log.append("reminded")

    @on(Cancelled, key="order_id")
    def cancelled(self, state: Order, event: Cancelled) -> Any:
        yield Compensate()

    @on(Closed, key="order_id")
    def closed(self, state: Order, event: Closed) -> Any:
        yield Complete()

    @starts(Restarted, key="order_id", during=(Phase.PLACED, Phase.PAID), unexpected={Phase.SHIPPED: "keep"})
    def restarted(self, state: Order, event: Restarted) -> None:
        state.order_id = event.order_id
        state.log.append("restarted")

    @on(Asked, key="order_id")
    def asked(self, state: Order, event: Asked) -> Any:
        return eval(event.what)

    @on_enter(Phase.PLACED, Phase.PAID)
    def entered(self, state: Order, context: StepContext) -> Any:
        state.log.append("in")
        yield Send(Told("in"))

    @on_leave(Phase.PLACED)
    def left(self, state: Order) -> Any:
        state.log.append("out")
        yield Send(Told("out"))
