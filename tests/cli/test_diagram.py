from __future__ import annotations

import json
import sys
from datetime import time, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from sagalog import (
    Call,
    Compensate,
    Complete,
    ItinerarySaga,
    Saga,
    Send,
    SetTimer,
    activity,
    on,
    on_refused,
    schema,
    starts,
)
from sagalog.cli.group import sagalog as command
from sagalog.diagram import mermaid, outline, svg

from ..asking import AskSaga
from ..gathering import GatherSaga
from ..joining import JoinSaga
from ..numbered import Meters
from ..orders import Charge, Closed, Noted, OrderSaga, OrderState, Overdue, Placed, Refund, Release, Reserve


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["diagram", *arguments])


def test_the_outline_has_all_that_the_handlers_name() -> None:
    found = {reaction.trigger: reaction for reaction in outline(OrderSaga).reactions}
    assert list(found)[0] == "Placed"  # noqa: RUF015
    placed, paid, asked = found["Placed"], found["Paid"], found["Asked"]
    assert (placed.starts, placed.sends, placed.sets) == (True, {"Reserve": "Release"}, {"payment": "Overdue"})
    assert (paid.starts, paid.sends, paid.cancels) == (False, {"Charge": "Refund"}, ["payment"])
    assert (asked.schedules, asked.sets, asked.completes) == (["Survey"], {"payment": "Overdue"}, True)
    assert (found["Overdue"].compensates, found["Closed"].completes) == (True, True)
    assert (found["Charge refused"].refusal, found["Charge refused"].compensates) == (True, True)
    assert found["Reserved"].sends == {}


def release_all(key: str) -> Any:
    return Compensate((Release(key), Refund(key)))


@schema(name='odd "name" <b>')
class Odd(Charge):
    pass


class Winding(Saga[OrderState]):
    name = "winding"
    messages = (Odd,)

    @starts(Placed, key="order_id")
    def placed(self, state: OrderState, event: Placed) -> Any:
        command = Reserve(event.order_id)
        yield Send(command, undo=None)
        yield from self._timer(event)
        yield Send(Odd(event.order_id))

    def _timer(self, event: Placed) -> Any:
        yield SetTimer(name="t", event=Overdue(event.order_id))
        yield from self._timer(event)

    @on(Noted, key="order_id")
    def noted(self, state: OrderState, event: Noted) -> Any:
        return [Send(made) for made in state.log]

    @on(Overdue, key="order_id")
    async def overdue(self, state: OrderState, event: Overdue) -> Any:
        return release_all(event.order_id)

    @on(Closed, key="order_id")
    def closed(self, state: OrderState, event: Closed) -> Any:
        return Complete()

    @on_refused(Charge)
    def refused_charge(self, state: OrderState, refused: Any) -> Any:
        return None


def test_methods_functions_and_variables_are_followed() -> None:
    found = {reaction.trigger: reaction for reaction in outline(Winding).reactions}
    assert found["Placed"].sends == {"Reserve": "", 'odd "name" <b>': ""}
    assert found["Placed"].sets == {"t": "Overdue"}
    assert found["Noted"].sends == {"a command": ""}
    assert (found["Overdue"].compensates, found["Overdue"].chain) == (True, ["Release", "Refund"])


def test_names_are_escaped_in_both_forms() -> None:
    found = outline(Winding)
    assert '"odd #34;name#34; #60;b#62;"' in mermaid(found)
    assert "odd &quot;name&quot; &lt;b&gt;" in svg(found)
    ElementTree.fromstring(svg(found))


def test_a_saga_that_overrides_handle_is_one_reaction() -> None:
    class Own(Saga[OrderState]):
        name = "own"

        def handle(self, state: OrderState, event: Any) -> Any:
            return Send(Reserve("a"))

    (reaction,) = outline(Own).reactions
    assert (reaction.trigger, reaction.sends) == ("any event", {"Reserve": ""})


def test_what_has_no_source_is_said() -> None:
    space: dict[str, Any] = {**globals()}
    code = (
        "class Typed(Saga[OrderState]):\n    name = 'typed'\n"
        "    @starts(Placed, key='order_id')\n    def placed(self, state, event): return Complete()\n"
    )
    exec(code, space)
    assert outline(space["Typed"]).unread == ("placed",)


def test_no_box_of_the_picture_covers_another() -> None:
    for saga in (OrderSaga, Winding):
        root = ElementTree.fromstring(svg(outline(saga)))
        width, height = float(root.attrib["width"]), float(root.attrib["height"])
        boxes = [
            tuple(float(box.attrib[name]) for name in ("x", "y", "width", "height"))
            for box in root.iter("{http://www.w3.org/2000/svg}rect")
        ]
        assert len(boxes) > 8
        for number, (x, y, w, h) in enumerate(boxes):
            assert x >= 0
            assert x + w <= width
            assert y + h <= height
            for x2, y2, w2, h2 in boxes[number + 1 :]:
                assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y


def test_the_command_prints_mermaid_json_or_writes_a_picture(tmp_path: Path) -> None:
    done = run("tests.orders:OrderSaga")
    assert done.stdout.startswith("flowchart LR\n")
    assert '|"sends"|' in done.stdout
    assert json.loads(run("tests.orders:OrderSaga", "--json").stdout)["saga"] == "order"
    assert run("tests.orders:OrderSaga", "--svg", str(tmp_path / "o.svg")).exit_code == 0
    assert (tmp_path / "o.svg").read_text().startswith("<svg ")


@pytest.mark.parametrize(
    ("target", "code", "message"),
    [
        ("tests.orders", 2, "is not MODULE:SAGA, e.g."),
        ("tests.orders:Nothing", 2, "has no 'Nothing'; it has OrderSaga"),
        ("tests.orders:World", 2, "is of type type, not Saga"),
        ("tests.nowhere:OrderSaga", 2, "importing tests.nowhere failed"),
    ],
)
def test_what_cannot_be_drawn_is_told(target: str, code: int, message: str) -> None:
    done = run(target)
    assert (done.exit_code, message in done.stderr.replace("\n", " ")) == (code, True), done.stderr
    assert sys.modules.get("tests.nowhere") is None


BERLIN, GRACE = "Europe/Berlin", timedelta(days=3)


class Billing(Saga[OrderState]):
    name = "billing"
    DAILY = "0 7 * * *"

    @starts(Placed, key="order_id")
    def placed(self, state: OrderState, event: Placed) -> Any:
        yield SetTimer("monthly", Overdue(event.order_id), cron="0 9 1 * *", zone=BERLIN, missed="each")
        yield SetTimer("daily", Overdue(event.order_id), every=timedelta(days=1, hours=2))
        yield SetTimer("morning", Overdue(event.order_id), cron=self.DAILY)
        yield SetTimer("evening", Overdue(event.order_id), at=time(18, 30), zone="Asia/Tokyo")
        yield SetTimer("payment", Overdue(event.order_id), every=GRACE)
        yield SetTimer("theirs", Overdue(event.order_id), at=time(6), zone=event.order_id)

    @on(Overdue, key="order_id")
    def overdue(self, state: OrderState, event: Overdue) -> None: ...


def test_a_timer_is_drawn_with_its_rule_and_its_zone() -> None:
    placed = outline(Billing).reactions[0]
    assert placed.recurs == {
        "monthly": "cron 0 9 1 * *, Europe/Berlin, missed each",
        "daily": "every 1 day, 2 hours",
        "morning": "cron 0 7 * * *",
        "evening": "at 18:30, Asia/Tokyo",
        "payment": "every 3 days",
        "theirs": "at 06:00, in a zone",
    }
    assert "sets, every 1 day, 2 hours" in mermaid(outline(Billing))
    assert "sets, at 18:30, Asia#47;Tokyo" in mermaid(outline(Billing))
    assert "timer monthly, cron 0 9 1 * *, Europe/Berlin" in svg(outline(Billing))


def test_a_numbered_event_is_drawn_with_its_numbers_and_its_gap() -> None:
    drawn = mermaid(outline(Meters))
    assert "Measured (numbered by n of each station, a gap of 0:10:00: lost)" in drawn
    assert "Numbered (numbered by n, a gap of 0:10:00: park)" in drawn
    assert "Measured (numbered by n of each station, a gap of 0:10:00: lost)" in svg(outline(Meters))


class Approval(ItinerarySaga[OrderState]):
    name = "approval"
    starts_with, key = Placed, "order_id"

    def begin(self, state: OrderState, event: Placed) -> None: ...

    @activity(until=Noted, unless=Closed, within=timedelta(days=3), remind=timedelta(hours=12))
    async def boss(self, state: OrderState, call: Call) -> None: ...


def test_an_activity_that_waits_is_drawn_with_what_it_waits_for_and_its_reminder() -> None:
    wanted = "boss (until Noted, unless Closed, within 3 days, reminds every 12:00:00)"
    assert wanted in mermaid(outline(Approval))
    assert wanted in svg(outline(Approval))


def test_a_request_is_drawn_with_what_comes_otherwise() -> None:
    wanted = outline(AskSaga).reactions[0]
    assert wanted.requests == {"Ask": ("2 minutes", "Silence")}
    assert "no answer within 2 minutes" in mermaid(outline(AskSaga))
    assert "no answer to Ask in 2 minutes" in svg(outline(AskSaga))


def test_a_join_is_drawn_behind_its_legs() -> None:
    found = {reaction.trigger: reaction for reaction in outline(JoinSaga).reactions}
    assert found["all of Paid, Reserved"].sends == {"Ship": ""}
    drawn = mermaid(outline(JoinSaga))
    assert drawn.count("one of all") == 4
    assert "all of Paid, Reserved" in svg(outline(JoinSaga))


def test_a_gather_is_drawn_with_its_legs_and_its_ends() -> None:
    found = {reaction.trigger: reaction for reaction in outline(GatherSaga).reactions}
    assert found["Begun"].gathers["parcels"][0] == "AllShipped"
    assert found["legs of parcels"].sends == {"Ship": ""}
    drawn = mermaid(outline(GatherSaga))
    assert "all answered" in drawn
    assert "gather parcels: all answered" in svg(outline(GatherSaga))
