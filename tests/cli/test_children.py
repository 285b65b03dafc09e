"""Families as an operator sees them: who started what, what runs, what is parked, and what this code lacks."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from sagalog import InMemoryJournal, RetryPolicy, RunnerSettings, SagaRunner
from sagalog.cli.group import sagalog as command
from sagalog.diagram import mermaid, outline, svg
from sagalog.operating.inspect import find
from sagalog.operating.readable import Code

from ..families import Delivered, Lost, Ordered, OrderSaga, ParcelSaga, ShipParcel


def run(*arguments: str) -> str:
    return CliRunner().invoke(command, [*arguments]).output


def happen(url: str, *events: Any, sagas: Any = (OrderSaga, ParcelSaga)) -> None:
    async def handle() -> None:
        settings = RunnerSettings(handler_retry=RetryPolicy(attempts=1))
        async with SagaRunner(url, sagas=sagas, dispatch=lambda command: None, settings=settings) as runner:
            for event in events:
                await runner.handle(event)
                await runner.settle()

    asyncio.run(handle())


def test_show_draws_the_family_of_an_instance(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/orders.db"
    happen(url, Ordered("a", 3), Delivered("a-0"), Ordered("b", 1, "raise"))
    shown = run("show", "a", "--journal", url)
    assert "child   parcel a-1 (1/2): running" in shown
    assert "family  2 running, 1 completed" in shown
    assert "parent  order a (1/3): running" in run("show", "a-2", "--journal", url)
    assert "child   parcel b-0 (1/1): parked, handling ShipParcel raised ValueError, 1 time" in run(
        "show", "b", "--journal", url
    )
    fields = json.loads(run("show", "a", "--journal", url, "--json"))
    assert fields["family"]["ended"] == {"completed": 1}
    assert [one["id"] for one in fields["family"]["children"]] == ["a-1", "a-2"]


def test_show_tells_of_a_child_that_is_not_started_and_of_one_that_has_ended_elsewhere(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/orders.db"
    happen(url, Ordered("a", 1), sagas=[OrderSaga])
    assert "child   parcel a-0 (1/1): not started yet" in run("show", "a", "--journal", url)
    assert "ShipParcel, to its child parcel a-0: not accepted yet" in run("show", "a", "--journal", url)
    happen(url, ShipParcel("c"), Lost("c"))
    assert "parent" not in run("show", "c", "--journal", url)


def test_history_tells_what_was_started_and_what_was_heard(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/orders.db"
    happen(url, Ordered("a", 2), Lost("a-1"))
    told = run("history", "a", "--journal", url)
    assert "sent ShipParcel, to its child parcel a-0 as 1/1" in told
    assert re.search(r"parcel compensated \(1/2/1@\d+/ended\)", told)
    assert "sent parcel compensated, to its parent order a" in run("history", "a-1", "--journal", url)


async def test_check_names_a_child_whose_saga_this_runner_has_not() -> None:
    journal = InMemoryJournal()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=lambda command: None) as runner:
        await runner.handle(Ordered("a", 1))
        await runner.settle()
    (view,) = await find(journal, "a", "order")
    assert [reason.text for reason in Code([OrderSaga()], lambda command: True).reasons(view)] == [
        "ShipParcel: this runner has no saga parcel"
    ]
    assert not list(Code([OrderSaga(), ParcelSaga()], lambda command: True).reasons(view))


def test_the_diagram_shows_which_children_are_started_and_what_hears_of_them() -> None:
    drawn = mermaid(outline(OrderSaga))
    assert '[["child parcel"]]' in drawn
    assert '|"starts"|' in drawn
    assert '|"ends"|' in drawn
    assert "child parcel" in svg(outline(OrderSaga))
