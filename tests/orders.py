"""The order saga that most tests run: small, with every kind of action, and told by events what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sagalog import (
    CancelTimer,
    CommandContext,
    CommandRefused,
    Compensate,
    Complete,
    Refused,
    Saga,
    Schedule,
    Send,
    SetTimer,
    on,
    on_refused,
    starts,
)


@dataclass
class Placed:
    order_id: str
    total: int = 1


@dataclass
class Reserved:
    order_id: str


@dataclass
class Paid:
    order_id: str


@dataclass
class Noted:
    order_id: str
    text: str = ""


@dataclass
class Overdue:
    order_id: str


@dataclass
class Cancelled:
    order_id: str


@dataclass
class Closed:
    order_id: str


@dataclass
class Failing:
    order_id: str
    error: str = "boom"


@dataclass
class Asked:
    order_id: str
    action: str = ""


@dataclass
class Reserve:
    order_id: str


@dataclass
class Release:
    order_id: str


@dataclass
class Charge:
    order_id: str


@dataclass
class Refund:
    order_id: str


@dataclass
class Ship:
    order_id: str


@dataclass
class Survey:
    order_id: str


@dataclass
class Note:
    order_id: str
    text: str


@dataclass
class OrderState:
    total: int = 0
    paid: bool = False
    log: list[str] = field(default_factory=list)


class OrderSaga(Saga[OrderState]):
    name = "order"
    messages = (Survey,)
    index = ("paid",)
    # Tests switch these on; they stand for the outside world, not for state.
    fail_times = 0
    calls: list[str] = []

    @starts(Placed, key="order_id")
    def placed(self, state: OrderState, event: Placed):
        state.total += event.total
        state.log.append("placed")
        yield Send(Reserve(event.order_id), undo=Release(event.order_id))
        yield SetTimer("payment", Overdue(event.order_id), after=timedelta(minutes=15))

    @on(Reserved, key="order_id")
    def reserved(self, state: OrderState, event: Reserved):
        state.log.append("reserved")

    @on(Paid, key="order_id")
    def paid(self, state: OrderState, event: Paid):
        state.paid = True
        state.log.append("paid")
        return [CancelTimer("payment"), Send(Charge(event.order_id), undo=Refund(event.order_id))]

    @on(Noted, key="order_id")
    def noted(self, state: OrderState, event: Noted):
        state.log.append(event.text)
        return Send(Note(event.order_id, event.text))

    @on(Overdue, key="order_id")
    def overdue(self, state: OrderState, event: Overdue):
        state.log.append("overdue")
        return Compensate()

    @on(Cancelled, key="order_id")
    def cancelled(self, state: OrderState, event: Cancelled):
        state.log.append("cancelled")
        return Compensate()

    @on(Closed, key="order_id")
    def closed(self, state: OrderState, event: Closed):
        state.log.append("closed")
        return [Send(Ship(event.order_id)), Complete(len(state.log))]

    @on(Failing, key="order_id")
    def failing(self, state: OrderState, event: Failing):
        state.log.append("must never be seen")
        type(self).calls.append(event.order_id)
        if type(self).fail_times > 0:
            type(self).fail_times -= 1
            raise RuntimeError(event.error)
        state.log[-1] = "recovered"
        return Send(Note(event.order_id, "recovered"))

    @on(Asked, key="order_id")
    def asked(self, state: OrderState, event: Asked):
        state.log.append(event.action)
        match event.action:
            case "schedule":
                return [Schedule(Survey(event.order_id), after=timedelta(hours=1)), Complete()]
            case "again":
                return SetTimer("payment", Overdue(event.order_id), after=timedelta(minutes=30))
            case "not an action":
                return [Ship(event.order_id)]  # type: ignore[list-item]
            case "big":
                state.log.append("x" * 3_000)
            case _:
                return None
        return None

    @on_refused(Charge)
    def charge_refused(self, state: OrderState, refused: Refused[Charge]):
        state.log.append(f"refused: {refused.reason}")
        return Compensate()


@dataclass
class World:
    """The command handlers' side: what arrived, in order, and what to answer."""

    seen: list[tuple[str, Any]] = field(default_factory=list)
    refuse: set[type] = field(default_factory=set)
    fail: dict[type, int] = field(default_factory=dict)
    replies: dict[type, Any] = field(default_factory=dict)

    def __call__(self, command: Any, context: CommandContext) -> Any:
        self.seen.append((context.id, command))
        kind = type(command)
        if kind in self.refuse:
            raise CommandRefused("no")
        if self.fail.get(kind, 0) > 0:
            self.fail[kind] -= 1
            raise ConnectionError("try later")
        reply = self.replies.get(kind)
        return reply(command) if reply is not None else None

    @property
    def names(self) -> list[str]:
        return [type(command).__name__ for _, command in self.seen]
