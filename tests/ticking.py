"""A saga whose timers come again and again, told by events how."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sagalog import CancelTimer, Complete, Saga, Send, SetTimer, StepContext, on, starts


@dataclass
class Begun:
    id: str
    missed: str = "once"
    every: float = 3600.0  # seconds
    most: int = 0  # then it ends


@dataclass
class Ticked:
    id: str


@dataclass
class Told:
    id: str
    what: str


@dataclass
class Bill:
    id: str
    at: datetime


@dataclass
class Ticks:
    at: list[datetime] = field(default_factory=list)
    begun: datetime | None = None
    every: float = 0.0
    missed: str = ""
    most: int = 0


class TickSaga(Saga[Ticks]):
    name = "tick"
    failing = False  # of the world outside
    most_kept = 10_000

    @starts(Begun, key="id")
    def begun(self, state: Ticks, event: Begun, context: StepContext) -> Any:
        state.begun, state.every, state.missed, state.most = context.now, event.every, event.missed, event.most
        yield SetTimer("tick", Ticked(event.id), every=timedelta(seconds=event.every), missed=event.missed)  # type: ignore[arg-type]

    @on(Ticked, key="id")
    def ticked(self, state: Ticks, event: Ticked, context: StepContext) -> Any:
        if type(self).failing:
            raise RuntimeError("failing")
        assert context.message_at is not None
        state.at.append(context.message_at)
        del state.at[: -self.most_kept]
        yield Send(Bill(event.id, context.message_at))
        if len(state.at) == state.most:
            yield Complete()

    @on(Told, key="id")
    def told(self, state: Ticks, event: Told) -> Any:
        match event.what:
            case "cancel":
                yield CancelTimer("tick")
            case "replace":
                yield SetTimer("tick", Ticked(event.id), every=timedelta(days=1))
            case "end":
                yield Complete()
