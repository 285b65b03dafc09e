"""Keys as an operator sees them: what an instance holds, what a step took or gave up, and in pictures."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from click.testing import CliRunner

from sagalog import SagaRunner
from sagalog.cli.group import sagalog as command
from sagalog.diagram import mermaid, outline, svg

from ..keyed import Blocked, Deliver, Moved, Ordered, ParcelSaga


def run(*arguments: str) -> str:
    return CliRunner().invoke(command, [*arguments]).output


def test_show_and_history_tell_the_keys(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/parcels.db"

    async def fill() -> None:
        async with SagaRunner(url, sagas=[ParcelSaga], dispatch={Deliver: lambda command: None}) as runner:
            await runner.handle(Ordered("A", ["c", "d\x1b[2J"]))
            await runner.handle(Moved("A", old="c", new="e"))
            await runner.handle(Blocked("e", "close"))
            await runner.handle(Ordered("B", ["c", "d"]))

    asyncio.run(fill())
    assert "key     customer: c, d" in run("show", "B", "--journal", url)
    assert json.loads(run("show", "B", "--journal", url, "--json"))["record"]["keys"] == {"customer": ["c", "d"]}
    told = run("history", "A", "--journal", url)
    assert "      takes the key customer=c\n" in told
    assert "      takes the key customer=e\n      gives up the key customer=c\n" in told
    assert "\x1b" not in told
    assert told.count("gives up the key customer=e") == 1  # with its end
    steps = [json.loads(line) for line in run("history", "A", "--journal", url, "--json").splitlines()]
    assert steps[0]["keys_added"] == [["customer", "c"], ["customer", "d\x1b[2J"]]
    assert next(step["keys_removed"] for step in steps if "keys_removed" in step) == [["customer", "c"]]


def test_the_pictures_show_which_events_reach_by_which_key() -> None:
    found = {reaction.trigger: reaction for reaction in outline(ParcelSaga).reactions}
    assert (found["Ordered"].adds, found["Moved"].removes, found["Blocked"].by) == (
        ["customer"],
        ["customer"],
        "customer",
    )
    text = mermaid(outline(ParcelSaga))
    assert '[("customer")]:::key' in text
    assert '|"adds"|' in text
    assert '|"reaches who holds it"|' in text
    drawn = svg(outline(ParcelSaga))
    assert "Blocked (by customer)" in drawn
    assert "key customer" in drawn
