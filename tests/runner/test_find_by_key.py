"""Live instances are found by the keys that they hold, as they are by the fields of their saga's index."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from sagalog import DefinitionError, SagaRunner, SqliteJournal
from sagalog.journal.store import JournalSagaStateStore

from ..guests import Came, GuestSaga, Moved, RoomSaga, Went
from .conftest import Bench


async def found(one: SagaRunner, saga: Any, /, **fields: Any) -> list[str]:
    return sorted([instance.correlation_id async for instance in one.find(saga, **fields)])


async def test_instances_are_found_by_a_key_while_they_hold_it(bench: Bench) -> None:
    async with bench.runner(sagas=[GuestSaga]) as one:
        for name, company, floor in (("A", "x", "1"), ("B", "x", "2"), ("C", "y", "1"), ("D", None, "1")):
            await one.handle(Came(name, company=company, floor=floor))
        assert await found(one, GuestSaga, company="x") == ["A", "B"]
        assert await found(one, GuestSaga, company="x", floor="2") == ["B"]
        assert await found(one, GuestSaga, company="z") == []
        await one.handle(Moved("A"))
        await one.handle(Went("C"))
        assert await found(one, GuestSaga, company="x") == ["B"]
        assert await found(one, GuestSaga, company="y") == []


async def test_a_field_of_the_index_comes_before_a_key_of_the_same_name(bench: Bench) -> None:
    async with bench.runner(sagas=[GuestSaga]) as one:
        await one.handle(Came("A", company="x"))
        assert await found(one, GuestSaga, badge="x") == []
        assert await found(one, GuestSaga, badge="") == ["A"]
        await one.handle(Came("B", company="x", badge="x"))
        assert await found(one, GuestSaga, badge="x") == ["B"]


async def test_the_one_that_holds_a_unique_key_is_found_by_it(shared: Bench) -> None:
    async with shared.runner(sagas=[RoomSaga]) as one:
        await one.handle(Came("A", room=4, company="x"))
        await one.handle(Came("B", room=5, company="x", floor="2"))
        assert await found(one, RoomSaga, room=4) == await found(one, RoomSaga, room="4") == ["A"]
        assert await found(one, RoomSaga, room=5, floor="2", company="x") == ["B"]
        assert await found(one, RoomSaga, room=5, floor="1") == await found(one, RoomSaga, room=6) == []
        await one.handle(Moved("A", room=7))
        assert await found(one, RoomSaga, room=4) == []
        assert await found(one, RoomSaga, room=7) == ["A"]
        await one.handle(Went("A"))
        assert await found(one, RoomSaga, room=7) == []


async def test_a_unique_key_is_one_lookup(shared: Bench) -> None:
    async with shared.runner(sagas=[RoomSaga]) as one:
        for number in range(5):
            await one.handle(Came(f"G{number}", room=number))
        await one.settle()
        assert shared.journal is not None
        read: list[str] = []
        for name in ("latest_by_terms", "latest_by_prefix", "ids_by_prefix"):
            if hasattr(shared.journal, name):
                setattr(shared.journal, name, lambda *arguments, called=name, **more: read.append(called))
        assert await found(one, RoomSaga, room=3) == ["G3"]
        assert read == []


async def test_a_holder_that_this_code_cannot_read_is_found_and_says_so(tmp_path: Any) -> None:
    bench = Bench(SqliteJournal(tmp_path / "guests.db"))
    async with bench.runner(sagas=[RoomSaga]) as one:
        await one.handle(Came("A", room=4))
        await one.settle()
        assert bench.journal is not None
        store = JournalSagaStateStore(bench.journal, "room")
        saved = await store.load("A")
        assert saved is not None
        await store.save("A", saved.payload.replace(b'"format":1', b'"format":9'), expected_version=saved.version)
        (only,) = [instance async for instance in one.find(RoomSaga, room=4)]
        assert "format 9" in only.unreadable
    await bench.journal.close()


async def test_what_cannot_be_a_key_is_an_error_at_once(bench: Bench) -> None:
    async with bench.runner(sagas=[GuestSaga]) as one:
        for wrong, said in (
            ({"company": None}, "by its key 'company' as a str that is not empty, an int or a UUID, not as NoneType"),
            ({"company": ""}, "not as an empty string"),
            ({"company": 1.5}, "not as float"),
            ({"company": True}, "not as bool"),
            ({"company": "\ud800"}, "lone surrogate"),
            ({"compny": "x"}, r"no index on 'compny' and no key of that name.*floor, badge.*company, badge, room"),
        ):
            with pytest.raises(DefinitionError, match=said):
                one.find(GuestSaga, **wrong)
        await one.handle(Came("A", company="x" * 300))
        assert await found(one, GuestSaga, company="x" * 300) == ["A"]
        await one.handle(Came("B", company=str(UUID(int=7))))
        assert await found(one, GuestSaga, company=UUID(int=7)) == ["B"]
