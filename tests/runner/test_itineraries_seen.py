"""What operators see of activities: which is where, what each step did, what code could not go on with, and the picture."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from sagalog import Call, ItinerarySaga, SagaRunner, SqliteJournal, activity
from sagalog.cli.group import sagalog as main
from sagalog.diagram import mermaid, outline, svg
from sagalog.operating.inspect import instances
from sagalog.operating.readable import Code
from sagalog.runner.inside import has_handler

from ..trips import TripRequested, TripSaga, World, refused


async def ended(url: str, world: World) -> None:
    async with SagaRunner(url, sagas=[TripSaga(world)]) as running:
        await running.handle(TripRequested("T-1", car=False))
        await running.settle()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'trips.db'}"


async def test_show_and_history_tell_which_activity_is_where(url: str) -> None:
    await ended(url, World(answers={"hotel": refused("full")}))
    shown = await asyncio.to_thread(CliRunner().invoke, main, ["show", "T-1", "--journal", url])
    assert "does    flight undone (1/0)" in shown.output
    assert "does    car skipped: not needed" in shown.output
    assert "does    hotel failed (2/0): refused: full" in shown.output
    told = await asyncio.to_thread(CliRunner().invoke, main, ["history", "T-1", "--journal", url])
    for line in ("activity flight running", "activity flight done", "activity hotel failed: refused: full"):
        assert line in told.output
    assert "activity flight undone" in told.output


@dataclass
class Shorter:
    request: TripRequested | None = None
    flight: str | None = None
    hotel: str | None = None
    log: list[str] = field(default_factory=list)


class WithoutHotel(ItinerarySaga[Shorter]):
    name = "trip"
    starts_with, key = TripRequested, "trip_id"

    @activity
    async def flight(self, trip: Shorter, call: Call) -> str:
        return "LH 1"


async def test_check_tells_which_instances_code_without_an_activity_could_not_go_on_with(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "trips.db")
    world = World()
    world.gate("hotel")
    running = SagaRunner(journal, sagas=[TripSaga(world)])
    await running.start()
    await running.handle(TripRequested("T-1", car=False))
    await world.reached("hotel")
    code = Code([WithoutHotel()], lambda command: True)
    (view,) = [view async for view in instances(journal)]
    told = [reason.text for reason in code.reasons(view)]
    assert any(text.startswith("activity hotel is running, but this code has no such activity") for text in told)
    assert any(text.startswith("activity flight may have to be undone, but this code has no undo") for text in told)
    assert list(Code([TripSaga()], partial(has_handler, running)).reasons(view)) == []
    world.gates["hotel"].set()
    await running.stop()
    await journal.close()


def test_the_diagram_is_the_graph_of_activities() -> None:
    drawn = mermaid(outline(TripSaga))
    for part in ('(["flight"])', '(["car (where needed)"])', "undone by", "complete"):
        assert part in drawn
    assert "cancel_flight" in svg(outline(TripSaga))
