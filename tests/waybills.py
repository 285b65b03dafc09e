"""A saga with phases, one gather and one request, whose answers and ends some of its phases ignore, keep or refuse."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any

from sagalog import Enter, Gather, Saga, Send, StepContext, leg, on, on_enter, starts


class Phase(Enum):
    OPEN = "open"
    CLOSED = "closed"
    LOST = "lost"


@dataclass
class Begun:
    id: str
    end: str = "kept"  # which event ends the gather
    legs: int = 3
    answer: str = "counted"  # which event answers a leg
    wait: bool = False
    asks: bool = False


@dataclass
class Closed:
    id: str


@dataclass
class Counted:
    """An answer that each phase takes."""

    id: str
    number: int = 0


@dataclass
class Unheard:
    """An answer that is expected once it is closed, and ignored before."""

    id: str
    number: int = 0


@dataclass
class Closing:
    """An answer whose handler closes it."""

    id: str
    number: int = 0


@dataclass
class KeptEnd:
    id: str


@dataclass
class IgnoredEnd:
    id: str


@dataclass
class RaisedEnd:
    id: str


@dataclass
class SomeRefused:
    id: str


@dataclass
class Silence:
    id: str


@dataclass
class Load:
    id: str
    number: int
    answer: str = "counted"


@dataclass
class Ask:
    id: str


@dataclass
class Waybill:
    id: str = ""
    answer: str = ""
    log: list[str] = field(default_factory=list)


ENDS: dict[str, type] = {"kept": KeptEnd, "ignored": IgnoredEnd, "raised": RaisedEnd}
ANSWERS: dict[str, type] = {"counted": Counted, "unheard": Unheard, "closing": Closing}


def answered(command: Load) -> Any:
    return ANSWERS[command.answer](command.id, command.number)


class WaybillSaga(Saga[Waybill]):
    name = "waybill"
    phases = Phase

    @starts(Begun, key="id")
    def begun(self, state: Waybill, event: Begun) -> Any:
        state.id, state.answer = event.id, event.answer
        if event.asks:
            yield Send(Ask(event.id), reply_within=timedelta(hours=1), otherwise=Silence(event.id))
        yield Gather("loads", event.legs, then=ENDS[event.end](event.id), failed=SomeRefused(event.id), wait=event.wait)

    @leg("loads", at_once=2)
    def load(self, state: Waybill, number: int) -> Send:
        return Send(Load(state.id, number, state.answer))

    @on(Closed, key="id")
    def close(self, state: Waybill, event: Closed) -> Any:
        state.log.append("close")
        yield Enter(Phase.CLOSED)

    @on_enter(Phase.CLOSED)
    def closed(self, state: Waybill) -> None:
        state.log.append("closed")

    @on(Counted, key="id")
    def counted(self, state: Waybill, event: Counted) -> None:
        state.log.append("counted")

    @on(Closing, key="id")
    def closing(self, state: Waybill, event: Closing) -> Any:
        yield Enter(Phase.CLOSED)

    @on(Unheard, key="id", during=Phase.CLOSED, unexpected="ignore")
    def unheard(self, state: Waybill, event: Unheard) -> None:
        state.log.append("heard")

    @on(KeptEnd, key="id", during=Phase.CLOSED, unexpected="keep")
    def kept_end(self, state: Waybill, event: KeptEnd, context: StepContext) -> None:
        self._note(state, event, context)

    @on(IgnoredEnd, key="id", during=Phase.CLOSED, unexpected="ignore")
    def ignored_end(self, state: Waybill, event: IgnoredEnd, context: StepContext) -> None:
        self._note(state, event, context)

    @on(RaisedEnd, key="id", during=Phase.CLOSED)
    def raised_end(self, state: Waybill, event: RaisedEnd, context: StepContext) -> None:
        self._note(state, event, context)

    @on(SomeRefused, key="id", during=Phase.CLOSED, unexpected="keep")
    def some_refused(self, state: Waybill, event: SomeRefused, context: StepContext) -> None:
        self._note(state, event, context)

    @on(Silence, key="id")
    def silence(self, state: Waybill, event: Silence) -> None:
        state.log.append("silence")

    def _note(self, state: Waybill, event: Any, context: StepContext) -> None:
        gathered = context.gathered
        assert gathered is not None
        refused = f", not {gathered.refused}" if gathered.refused else ""
        state.log.append(f"{type(event).__name__}: {gathered.answered} of {gathered.total}{refused}")
