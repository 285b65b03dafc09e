"""A saga that asks, with a deadline, and notes what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sagalog import Complete, Refused, Saga, Send, SetTimer, StepContext, on, on_refused, starts


@dataclass
class Wanted:
    id: str
    late: str = "handle"
    by_type: bool = False


@dataclass
class Ask:
    id: str


@dataclass
class Answered:
    id: str


@dataclass
class Confirmed:
    id: str


@dataclass
class Silence:
    id: str


@dataclass
class Over:
    id: str


@dataclass
class Told:
    id: str
    what: str


@dataclass
class Asking:
    log: list[str] = field(default_factory=list)
    late: str = ""


class AskSaga(Saga[Asking]):
    name = "ask"

    @starts(Wanted, key="id")
    def wanted(self, state: Asking, event: Wanted) -> Any:
        state.log.append("asked")
        state.late = event.late
        reply = Confirmed if event.by_type else None
        yield Send(
            Ask(event.id),
            reply_within=timedelta(minutes=2),
            otherwise=Silence(event.id),
            reply=reply,
            late=event.late,  # type: ignore[arg-type]
        )
        yield SetTimer("over", Over(event.id), after=timedelta(hours=2))

    @on(Answered, key="id")
    def answered(self, state: Asking, event: Answered) -> None:
        state.log.append("answered")

    @on(Confirmed, key="id")
    def confirmed(self, state: Asking, event: Confirmed) -> None:
        state.log.append("confirmed")

    @on(Silence, key="id")
    def silence(self, state: Asking, event: Silence, context: StepContext) -> None:
        state.log.append("silence")

    @on_refused(Ask)
    def ask_refused(self, state: Asking, refused: Refused[Ask]) -> None:
        state.log.append("refused")

    @on(Told, key="id")
    def told(self, state: Asking, event: Told) -> Any:
        state.log.append(event.what)
        if event.what == "fail":
            raise RuntimeError("told to")
        if event.what == "again":
            yield Send(Ask(event.id), reply_within=timedelta(minutes=5), otherwise=Silence(event.id), reply=Confirmed)

    @on(Over, key="id")
    def over(self, state: Asking, event: Over) -> Any:
        yield Complete()
