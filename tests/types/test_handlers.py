"""Type checkers catch a handler of the wrong event or state: they are run on classes with known mistakes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
from __future__ import annotations
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any, assert_type
from contextlib import asynccontextmanager
from sagalog import *
from sagalog.blocking import BlockingRunner
from sagalog.web import StandardWebhooks, StatusEndpoint, Webhook, lifespan
from starlette.applications import Starlette
from starlette.routing import Route
import attrs
import msgspec
from pydantic import BaseModel

@dataclass
class Placed:
    id: str

@dataclass
class Paid:
    id: str

@dataclass
class Ship:
    id: str

@dataclass
class State:
    n: int = 0

@dataclass
class OtherState:
    n: int = 0
"""

GOOD = (
    HEAD
    + """
class Good(Saga[State]):
    name = "good"

    @starts(Placed, key="id")
    def generator(self, state: State, event: Placed) -> Iterator[Action]:
        yield Send(Ship(event.id))
        yield SetTimer("t", Paid(event.id), after=timedelta(1))
        yield SetTimer("u", Paid(event.id), cron="0 9 1 * *", zone="Europe/Berlin", missed="each")
        yield Send(Ship(event.id), reply_within=timedelta(1), otherwise=Paid(event.id), reply=Paid, late="park")

    @leg("many", at_once=5)
    def one_of_many(self, state: State, number: int) -> Send:
        return Send(Ship(str(number)))

    def many(self) -> Action:
        return Gather("many", 10_000, then=Paid(""), failed=Paid(""), wait=True)

    @when_all(Placed, Paid)
    def both(self, state: State) -> Iterator[Action]:
        yield Send(Ship(""))

    @when_all(Placed, Ship)
    async def both_in_context(self, state: State, context: StepContext) -> None: ...

    @on(Paid, key=lambda event: event.id)
    async def coroutine(self, state: State, event: Paid) -> Action | None:
        return Complete()

    @on(Ship, key="id")
    async def async_generator(self, state: State, event: Ship) -> AsyncIterator[Action]:
        yield Compensate()

    @on_refused(Ship)
    def refused_ship(self, state: State, refused: Refused[Ship]) -> list[Action]:
        return [CancelTimer(refused.command.id)]


class Timely(Saga[State]):
    name = "timely"
    messages = Ship | Paid

    @starts(Placed, key="id", again="ignore")
    def placed(self, state: State, event: Placed, context: StepContext) -> Generator[Action, None, Action]:
        yield SetTimer("t", Paid(event.id), at=context.now + timedelta(1))
        return Complete()

    @on(Paid, key="id")
    async def paid(self, state: State, event: Paid, context: StepContext) -> Action | None:
        return None

    @on_refused(Ship)
    def refused_ship(self, state: State, refused: Refused[Ship], context: StepContext) -> Actions:
        return None


class Phase(Enum):
    NEW = 1
    OLD = 2


class Phased(Saga[State]):
    name = "phased"
    phases = Phase
    unexpected = "keep"

    @starts(Placed, key="id")
    def placed(self, state: State, event: Placed) -> Iterator[Action]:
        yield Enter(Phase.OLD)

    @on(Paid, key="id", during=Phase.NEW, unexpected={Phase.OLD: "ignore"})
    def paid(self, state: State, event: Paid) -> None: ...

    @on(Ship, key="id", during=(Phase.NEW, Phase.OLD))
    def shipped(self, state: State, event: Ship, context: StepContext) -> Actions:
        assert_type(context.phase, Enum | None)
        return None

    @on_enter(Phase.OLD)
    def entered(self, state: State) -> Iterator[Action]:
        yield Send(Ship("1"))

    @on_leave(Phase.NEW)
    def left(self, state: State, context: StepContext) -> None: ...


class Wider(Saga[State]):
    name = "wider"

    @starts(Placed, key="id")
    def nothing(self, state: State, event: Placed) -> None:
        state.n += 1

    @on(Paid, key="id")
    def any_event(self, state: object, event: object) -> Actions:
        return Complete()


class Ear(Hook):
    def handled(self, handling: Handling) -> None: ...


hearing: list[Hook] = [Ear()]


class Trip(ItinerarySaga[State]):
    name = "trip"
    starts_with, key = Placed, "id"

    def begin(self, state: State, event: Placed) -> Actions:
        return None

    @activity
    async def first(self, state: State, call: Call) -> int:
        return call.attempt

    @first.undo
    async def unfirst(self, state: State, call: Call) -> None:
        assert_type(call.of, str)

    @first.then
    def after_first(self, state: State) -> Iterator[Action]:
        yield Send(Ship("1"))

    @first.failed
    async def failed_first(self, state: State, reason: str) -> Action | None: ...

    @activity(after=first, when=lambda state: bool(state.n), retry=RetryPolicy(attempts=2), optional=True)
    def second(self, state: State, call: Call) -> None: ...

    @activity(after=(first, "second"), until=Paid, unless=Ship, key="id", remind=timedelta(1), within=timedelta(2))
    async def third(self, state: State, call: Call) -> None: ...

    def result(self, state: State) -> str:
        return "x"


class Runs(Saga[State]):
    name = "runs"

    @starts(Placed, key="id")
    def placed(self, state: State, event: Placed) -> Iterator[Action]:
        yield Run("pay")
        yield Run(Runs.pay)

    @activity
    async def pay(self, state: State, call: Call) -> None: ...


class Parent(Saga[State]):
    name = "parent"

    @starts(Placed, key="id")
    def placed(self, state: State, event: Placed) -> Iterator[Action]:
        yield StartChild(Good, event, undo=Ship(event.id))

    @leg("some")
    def child(self, state: State, number: int) -> StartChild:
        return StartChild(Good, Placed(str(number)))

    @on_child(Good)
    def heard(self, state: State, ended: ChildEnded) -> Actions:
        assert_type(ended.id, str)
        return Complete() if ended.outcome == "completed" else Compensate()

    @on_child("parent")
    async def own(self, state: State, ended: ChildEnded, context: StepContext) -> None: ...


class Plain(Saga[dict[str, int]]):
    name = "plain"

    def correlation_id(self, event: Any) -> str | None:
        return "one"

    def handle(self, state: dict[str, int], event: Any) -> Actions:
        return None


async def use() -> None:
    async with SagaRunner("memory://", sagas=[Good, Wider(), Plain], dispatch={Ship: print}) as runner:
        receipt: Receipt = await runner.handle(Placed("1"), message_id="m")
        assert receipt.handled
        state = await runner.state(Good, "1")
        assert_type(state, State)
        outcome = await runner.outcome(Wider(), "1", timeout=timedelta(seconds=1), missing="wait")
        assert_type(outcome, SagaOutcome[State])
        assert_type(outcome.state, State)
        async for found in runner.find(Good, n=1):
            assert_type(found, SagaInstance[State])
            assert_type(found.state, State)
        plain = await runner.state(Plain, "1")
        assert_type(plain, dict[str, int])
        store: SagaStateStore = JournalSagaStateStore(open_journal("memory://"), "good")
        await store.save("a", b"", expected_version=0)


@asynccontextmanager
async def resources(runner: SagaRunner) -> AsyncIterator[dict[str, int]]:
    yield {"pool": 1}


async def ship(command: Ship, context: CommandContext) -> Paid:
    assert_type(context.id, str)
    return Paid(command.id)


shop = SagaRunner("sqlite:///x.db", sagas=[Good], dispatch={Ship: ship}, client=True, lifespan=resources)


@attrs.define
class Sent:
    id: str


class Lost(msgspec.Struct):
    id: str


class Gone(BaseModel):
    id: str


@shop.command(Ship)
async def one_event(command: Ship) -> Paid | None: ...


@shop.command(Ship)
def several(command: Ship, context: CommandContext) -> list[Paid | Sent] | tuple[Lost, Gone]:
    return [Paid(command.id)]


@shop.command(Ship)
async def one_by_one(command: Ship) -> AsyncIterator[Sent]:
    yield Sent(command.id)


@shop.command(Ship)
def generated(command: Ship) -> Iterator[Gone]:
    yield Gone(id=command.id)


@shop.command(Ship)
async def struct(command: Ship) -> Lost:
    return Lost(command.id)


@shop.command(Ship)
async def nothing(command: object) -> None: ...


class Receiver:
    async def __call__(self, command: Ship, context: CommandContext) -> Paid:
        return Paid(command.id)


shop.command(Ship, timeout=timedelta(seconds=5))(Receiver())


async def repairs() -> None:
    assert_type(await shop.retry(Good, "1"), Repaired)
    assert_type(await shop.skip(Good(), "1", note="as told"), Repaired)
    assert_type(await shop.drop("good", "1", "2/0"), Repaired)
    assert_type(await shop.cancel(Good, "1", compensate=False), Repaired)
    assert_type(await one_event(Ship("1")), Paid | None)


def shown(state: State) -> dict[str, int]:
    return {"n": state.n}


def web() -> Starlette:
    paid = Webhook(shop, {"paid": Paid}, signature=StandardWebhooks("whsec_"), message_id=None, unknown="ignore")
    status = StatusEndpoint(shop, Good, state=shown)
    return Starlette(routes=[Route("/paid", paid), Route("/{id}", status)], lifespan=lifespan(shop))


def blocking() -> None:
    sagas = BlockingRunner(shop, timeout=timedelta(seconds=5))
    assert_type(sagas.handle(Placed("1"), message_id="m"), Receipt)
    assert_type(sagas.state(Good, "1"), State)
    assert_type(sagas.instance(Good, "1"), SagaInstance[State])
    assert_type(sagas.outcome(Good, "1"), SagaOutcome[State])
    assert_type(sagas.find(Good, n=1), list[SagaInstance[State]])
    assert_type(sagas.retry(Good, "1"), Repaired)
"""
)

BAD = (
    HEAD
    + """
class WrongEvent(Saga[State]):
    name = "wrong-event"

    @starts(Placed, key="id")  # event
    def placed(self, state: State, event: Paid) -> None: ...


class WrongChild(Saga[State]):
    name = "wrong-child"

    @on_child(WrongEvent)  # event
    def heard(self, state: State, ended: Paid) -> None: ...

    @on_child("other")  # state
    def other(self, state: OtherState, ended: ChildEnded) -> None: ...


class WrongState(Saga[State]):
    name = "wrong-state"

    @starts(Placed, key="id")  # state
    def placed(self, state: OtherState, event: Placed) -> None: ...


class WrongContext(Saga[State]):
    name = "wrong-context"

    @starts(Placed, key="id")  # event
    def placed(self, state: State, event: Placed, context: int) -> None: ...


class WrongStateBesideContext(Saga[State]):
    name = "wrong-state-2"

    @starts(Placed, key="id")  # state
    def placed(self, state: OtherState, event: Placed, context: StepContext) -> None: ...


class WrongResult(Saga[State]):
    name = "wrong-result"

    @starts(Placed, key="id")  # result
    def placed(self, state: State, event: Placed) -> Ship: ...


class WrongUndo(ItinerarySaga[State]):
    name = "wrong-undo"
    starts_with, key = Placed, "id"

    @activity
    async def one(self, state: State, call: Call) -> None: ...

    @one.undo  # result
    async def back(self, state: OtherState, call: Call) -> None: ...

    @activity()  # result
    async def two(self, state: State) -> None: ...


shop = SagaRunner("sqlite:///x.db", sagas=[WrongEvent])


@shop.command(Ship)  # event
async def of_another_command(command: Paid) -> None: ...


@shop.command(Ship)  # event
async def of_another_context(command: Ship, context: int) -> None: ...


@shop.command(Ship)  # event
def of_three(command: Ship, context: CommandContext, more: int) -> None: ...


@shop.command(Ship)  # result
async def a_number(command: Ship) -> int:
    return 1


@shop.command(Ship)  # result
def a_text(command: Ship) -> str:
    return "done"


@shop.command(Ship)  # result
async def numbers(command: Ship) -> list[int]:
    return [1]


@shop.command(Ship)  # result
async def a_mapping(command: Ship) -> dict[str, int]:
    return {"n": 1}


async def repairs() -> None:
    await shop.retry(Ship, "1")  # event
    await shop.cancel(State(), "1")  # event
"""
)


def marked(source: str, *marks: str) -> set[int]:
    return {n for n, line in enumerate(source.splitlines(), 1) if line.rpartition("# ")[2] in marks and "# " in line}


def mypy(folder: Path, source: str) -> tuple[set[int], str]:
    (folder / "checked.py").write_text(source)
    (folder / "mypy.ini").write_text("[mypy]\nstrict = true\nplugins = sagalog.mypy\n")
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "checked.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return {int(n) for n in re.findall(r"^checked\.py:(\d+): error", done.stdout, re.M)}, done.stdout


def test_mypy_accepts_every_form_of_handler(tmp_path: Path) -> None:
    assert mypy(tmp_path, GOOD)[0] == set(), mypy(tmp_path, GOOD)[1]


def test_mypy_catches_a_wrong_event_a_wrong_state_and_a_wrong_result(tmp_path: Path) -> None:
    lines, output = mypy(tmp_path, BAD)
    assert {line for line in lines if line in marked(BAD, "event", "state", "result")} == marked(
        BAD, "event", "state", "result"
    ), output
    assert 'Handler takes state "checked.OtherState", but the state of WrongState is "checked.State"' in output


def pyright(folder: Path, source: str) -> set[int]:
    (folder / "checked.py").write_text(source)
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "checked.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False, timeout=240)
    if not done.stdout.lstrip().startswith("{"):
        pytest.skip(f"pyright does not run here: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {one["range"]["start"]["line"] + 1 for one in found if one["severity"] == "error"}


def test_pyright_accepts_every_form_of_handler(tmp_path: Path) -> None:
    assert pyright(tmp_path, GOOD) == set()


def test_pyright_catches_a_wrong_event_and_a_wrong_result(tmp_path: Path) -> None:
    assert marked(BAD, "event", "result") <= pyright(tmp_path, BAD)
