"""Keys as an operator sees them: what an instance holds, what a step took or gave up, and in pictures."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sagalog import AddKey, InMemoryJournal, Key, KeyTakenError, SagaRunner, on, open_journal
from sagalog.cli.group import sagalog as command
from sagalog.decision.record import decode_record
from sagalog.diagram import mermaid, outline, svg
from sagalog.operating.readable import otherwise_declared

from ..guests import Came, GuestSaga, RoomSaga, Went
from ..guests import Moved as GuestMoved
from ..keyed import Blocked, Booked, Deliver, Desk, DeskSaga, Find, Leave, Moved, Ordered, ParcelSaga, Scanned
from .conftest import Sagalog


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


class LooseDesks(DeskSaga):
    """The same, before its seats were unique."""

    name = "desk"
    keys = (Key("seat"), Key("floor"), Key("gone"))

    @on(Leave, key="desk")
    def leave(self, desk: Desk, event: Leave) -> Any:
        yield AddKey("gone", 1)


def test_check_tells_which_keys_are_held_otherwise_than_they_are_declared() -> None:
    async def fill(journal: InMemoryJournal, saga: Any) -> None:
        async with SagaRunner(journal, sagas=[saga], dispatch={Find: lambda command: None}) as runner:
            await runner.handle(Booked("A", ["1"]))
            if saga is LooseDesks:
                await runner.handle(Leave("A"))

    journal, strict = InMemoryJournal(), InMemoryJournal()
    asyncio.run(fill(journal, LooseDesks))
    asyncio.run(fill(strict, DeskSaga))

    def told(journal: InMemoryJournal, saga: Any) -> list[str]:
        message = asyncio.run(journal.latest_message("saga::desk::A"))
        assert message is not None
        return otherwise_declared(saga(), decode_record(message.payload))

    assert told(journal, DeskSaga) == [
        "the key seat from before it was unique: an event reaches them by it only once they add it again",
        "the key gone, which is no longer declared: no event reaches them by it",
    ]
    assert told(strict, LooseDesks) == [
        "the key seat from when it was unique: an event reaches them by it only once they add it again"
    ]
    assert told(journal, LooseDesks) == told(strict, DeskSaga) == []


def test_check_prints_them(tmp_path: Path, sagalog: Sagalog) -> None:
    (tmp_path / "desks.py").write_text(
        "from sagalog import SagaRunner\nfrom tests.cli.test_keys import LooseDesks\nfrom tests.keyed import DeskSaga\n"
        "journal = 'sqlite:///desks.db'\n"
        "loose = SagaRunner(journal, sagas=[LooseDesks], dispatch=lambda command: None)\n"
        "runner = SagaRunner(journal, sagas=[DeskSaga], dispatch=lambda command: None)\n"
    )

    async def fill() -> None:
        async with SagaRunner(
            f"sqlite:///{tmp_path}/desks.db", sagas=[LooseDesks], dispatch=lambda command: None
        ) as runner:
            await runner.handle(Booked("A", ["1"]))
            await runner.handle(Booked("B", ["1"]))

    asyncio.run(fill())
    done = sagalog("check", "--journal", "sqlite:///desks.db", "desks:runner")
    assert "warning  desk: 2 hold the key seat from before it was unique" in done.stdout
    assert done.returncode == 0
    told = sagalog("check", "--journal", "sqlite:///desks.db", "desks:runner", "--json").stdout
    assert json.loads(told)["keys"][0]["count"] == 2
    assert "warning" not in sagalog("check", "--journal", "sqlite:///desks.db", "desks:loose").stdout


def test_a_record_that_is_edited_reserves_its_unique_keys_or_is_refused(tmp_path: Path, sagalog: Sagalog) -> None:
    (tmp_path / "desks.py").write_text(
        "from sagalog import SagaRunner\nfrom tests.keyed import DeskSaga\n"
        "runner = SagaRunner('sqlite:///desks.db', sagas=[DeskSaga], dispatch=lambda command: None)\n"
    )
    url = f"sqlite:///{tmp_path}/desks.db"

    def using() -> SagaRunner:
        return SagaRunner(url, sagas=[DeskSaga], dispatch=lambda command: None)

    async def fill() -> None:
        async with using() as runner:
            await runner.handle(Booked("A", ["1"]))
            await runner.handle(Booked("B", ["2"]))

    def edited(seat: str, how: str = "--yes", **changed: Any) -> Any:
        record = json.loads(sagalog("show", "B", "--journal", url, "--json").stdout)["record"]
        record.update(unique_keys={"seat": [seat]}, **changed)
        (tmp_path / "record.json").write_text(json.dumps(record))
        return sagalog("edit", "desks.py:runner", "B", "--journal", url, "--record", how, "--from", "record.json")

    async def reserved() -> list[str]:
        async with open_journal(url) as journal:
            return await journal.ids_by_prefix("key::desk::")

    async def after() -> None:
        async with using() as runner:
            for seat, holder in (("1", "A"), ("3", "B")):
                assert list((await runner.handle(Scanned(seat))).instances["desk"]) == [holder]
            with pytest.raises(KeyTakenError, match="'B' holds it"):
                await runner.handle(Booked("C", ["3"]))
            assert (await runner.handle(Booked("C", ["2"]))).handled

    asyncio.run(fill())
    for how in ("--yes", "--dry-run"):
        refused = edited("1", how)
        assert refused.returncode == 1, how
        assert (
            "saga 'desk', id 'B': its key 'seat' is taken, the instance 'A' holds it. Nothing was stored. Edit the "
            "instance that has it first." in refused.stderr
        )
    assert list(tmp_path.glob("*.record")) == []
    for dry in (edited("2", "--dry-run"), edited("3", "--dry-run"), edited("1", "--dry-run", status="cancelled")):
        assert (dry.returncode, "dry run: nothing was changed" in dry.stdout) == (0, True), dry.stderr
    assert asyncio.run(reserved()) == ["key::desk::seat=1", "key::desk::seat=2"]
    assert "seat: 2" in sagalog("show", "B", "--journal", url).stdout
    assert edited("3").returncode == 0
    asyncio.run(after())


def test_a_dry_import_counts_the_instance_whose_unique_key_is_taken(tmp_path: Path) -> None:
    ours, theirs = f"sqlite:///{tmp_path}/ours.db", f"sqlite:///{tmp_path}/theirs.db"

    async def fill() -> None:
        for url, name in ((ours, "A"), (theirs, "B")):
            async with SagaRunner(url, sagas=[DeskSaga], dispatch=lambda command: None) as runner:
                await runner.handle(Booked(name, ["1"]))

    asyncio.run(fill())
    run("export", f"{tmp_path}/desks.jsonl", "--journal", theirs)
    for dry in (["--dry-run"], []):
        told = CliRunner().invoke(command, ["import", f"{tmp_path}/desks.jsonl", "--journal", ours, *dry])
        assert told.exit_code == 1
        assert "its key 'seat' is taken, the instance 'A' holds it" in told.output
        assert "0 instances, 0 records" in told.output
        assert "; 1 left alone" in told.output


def test_list_finds_by_a_key_as_by_a_field_of_the_index(tmp_path: Path) -> None:
    """Each once: also who is found by a field of the index and holds a key of that name, and who holds a unique key."""
    url = f"sqlite:///{tmp_path}/guests.db"

    async def fill() -> None:
        async with SagaRunner(url, sagas=[GuestSaga, RoomSaga]) as runner:
            await runner.handle(Came("A", room=4, company="x", badge="x"))
            await runner.handle(Came("B", room=5, company="x", floor="2"))
            await runner.handle(Came("C", company="y", badge=None))
            await runner.handle(Came("D", room=6, company="x"))
            await runner.handle(Went("D"))
            await runner.settle()

    asyncio.run(fill())

    def listed(*where: str) -> list[str]:
        options = [word for one in where for word in ("--where", one)]
        output = run("list", "--journal", url, "--json", *options)
        return sorted(f"{line['saga']} {line['id']}" for line in map(json.loads, output.splitlines()))

    assert listed("company=x") == ["guest A", "guest B", "room A", "room B"]
    assert listed("room=4") == ["guest A", "room A"]
    assert listed("room=5", "floor=2") == listed("floor=2") == ["guest B", "room B"]
    assert listed("company=x", "floor=2", "room=5") == ["guest B", "room B"]
    assert listed("room=5", "floor=1") == listed("room=6") == listed("company=x", "room=4", "floor=2") == []
    assert listed("badge=x") == ["guest A", "room A"]  # a field comes before a key of that name
    assert listed("badge=x", "company=x") == ["guest A", "room A"]
    assert listed("badge") == ["guest C", "room C"]
    assert listed("company") == []  # a key is never None
    assert listed("badge", "company=y", "floor=1") == ["guest C", "room C"]
    assert run("list", "--journal", url, "--where", "room=4", "--all", "--json").count("\n") == 2


def test_purge_forgets_reservations_that_nobody_holds_and_says_how_many(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/guests.db"

    async def fill() -> None:
        async with SagaRunner(url, sagas=[RoomSaga]) as runner:
            for number in range(4):
                await runner.handle(Came(f"g{number}", number))
            await runner.handle(GuestMoved("g0", 7))  # 0 is free
            await runner.handle(Went("g1"))
            await runner.settle()

    async def reserved() -> list[str]:
        async with open_journal(url) as journal:
            return [*await journal.ids_by_prefix("key::room::"), *await journal.ids_by_prefix("key::", deleted=True)]

    def purge(*more: str) -> str:
        return run("purge", "--journal", url, "--yes", *more)

    asyncio.run(fill())
    everyone = [f"key::room::room={number}" for number in (0, 1, 2, 3, 7)]
    assert asyncio.run(reserved()) == everyone
    assert purge("--older-than", "1h") == "0 finished instances forgotten\n"
    assert purge("--older-than", "0s", "--saga", "guest") == "0 finished instances forgotten\n"
    assert purge("--older-than", "0s", "--dry-run") == (
        "dry run: 1 finished instance would be forgotten, and 2 reservations of keys that nobody holds; "
        "nothing was changed\n"
    )
    assert asyncio.run(reserved()) == everyone
    assert (
        purge("--older-than", "0s") == "1 finished instance forgotten, and 2 reservations of keys that nobody holds\n"
    )
    assert asyncio.run(reserved()) == [f"key::room::room={number}" for number in (2, 3, 7)]
    assert json.loads(purge("--older-than", "0s", "--json")) == {
        "found": 0,
        "purged": 0,
        "reservations_found": 0,
        "reservations_purged": 0,
    }

    async def take_over() -> None:
        async with SagaRunner(url, sagas=[RoomSaga]) as runner:
            await runner.handle(Came("next", 1))
            with pytest.raises(KeyTakenError):
                await runner.handle(Came("other", 7))

    asyncio.run(take_over())
