"""Odd values for every parameter of what users call: our own errors; nothing else gets out, and nothing is stored."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sagalog import (
    DefinitionError,
    EventClock,
    InMemoryJournal,
    InMemorySagaStateStore,
    InvalidEventError,
    ManualClock,
    SagalogError,
    SagaRunner,
    SqliteJournal,
)
from sagalog.journal.nats import NatsJournal
from sagalog.journal.postgres import PostgresJournal

from ..orders import OrderSaga, Placed
from .test_odd_values import ODD

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "correlation_id": "a",
    "persistence_id": "saga::order::a",
    "payload": b"{}",
    "version": 1,
    "expected_version": 1,
    "tombstone": b"{}",
    "purge_at": NOW,
    "from_sequence_nr": 1,
    "to_sequence_nr": 2,
    "moment": NOW,
    "by": timedelta(0),
    "saga": "order",
    "event": Placed("a"),
    "events": [],
    "command": Placed,
    "entry": "1/0",
    "hooks": (),
    "messages": [],
    "records": [],
    "persistence_ids": [],
    "tag": "saga::order",
    "prefix": "saga::",
    "offset": 0,
    "before": NOW,
    "until": NOW,
    "moves": [],
    "tombstones": [],
}
JOURNAL = (
    *("write_messages", "write_batch", "replay_messages", "highest_sequence_nr", "delete_messages_to", "events_by_tag"),
    *(
        "latest_message",
        "latest_messages",
        "ids_by_prefix",
        "latest_by_prefix",
        "records_after",
        "due_ids",
        "claim_due",
    ),
    *("move_due", "purge"),
)
METHODS = {
    InMemorySagaStateStore: (
        "load",
        "save",
        "create",
        "delete",
        "load_with_tombstone",
        "delete_until",
        "purge",
        "history",
    ),
    InMemoryJournal: JOURNAL,
    SqliteJournal: JOURNAL,
    ManualClock: ("sleep_until", "advance", "advance_to"),
    EventClock: ("sleep_until", "advance_to"),
    SagaRunner: ("handle", "handle_many", "retry", "skip", "cancel", "drop", "using", "command"),
}


def cases() -> list[Any]:
    found = []
    for kind, names in METHODS.items():
        for name in names:
            for parameter in list(inspect.signature(getattr(kind, name)).parameters.values())[1:]:
                if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                    found += [
                        pytest.param(
                            kind, name, parameter.name, odd, id=f"{kind.__name__}.{name}-{parameter.name}-{how}"
                        )
                        for how, odd in ODD.items()
                    ]
    return found


async def of(kind: type, folder: Path) -> Any:
    if kind is SagaRunner:
        return SagaRunner("memory://", sagas=[OrderSaga], dispatch=lambda command: None)
    return kind(folder / "journal.db") if kind is SqliteJournal else kind()


async def call(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    done = function(**arguments)
    if hasattr(done, "__anext__"):
        async for _ in done:
            break
    elif inspect.isawaitable(done):
        await done


@pytest.mark.parametrize(("kind", "name", "odd", "value"), cases())
async def test_an_odd_value_is_refused_by_an_error_of_ours(
    kind: type, name: str, odd: str, value: Any, tmp_path: Path
) -> None:
    one = await of(kind, tmp_path)
    method = getattr(one, name)
    needed = [p.name for p in inspect.signature(method).parameters.values() if p.default is p.empty]
    arguments = {name: GOOD[name] for name in needed if name != odd} | {odd: value}
    if kind is SagaRunner:
        async with one:
            try:
                await call(method, arguments)
            except SagalogError:
                assert one.counters.saves == 0, "an error, and something is stored"
            return
    try:
        await call(method, arguments)
    except SagalogError:
        pass
    finally:
        if kind is SqliteJournal:
            await one.close()


@pytest.mark.parametrize("path", ["\ud800", "", b"x", 1, None])
def test_a_path_that_is_none_is_refused(path: Any) -> None:
    with pytest.raises(DefinitionError, match="path|needs a file"):
        SqliteJournal(path)


@pytest.mark.parametrize("correlation_id", ["", 5, None, b"x", "\ud800"])
async def test_a_store_refuses_what_is_no_id_and_stores_nothing(correlation_id: Any) -> None:
    store = InMemorySagaStateStore()
    for work in (
        lambda: store.save(correlation_id, b"{}"),
        lambda: store.load(correlation_id),
        lambda: store.delete(correlation_id),
    ):
        with pytest.raises(SagalogError, match="id"):
            await work()
    assert [key async for key in store.keys()] == []


@pytest.mark.parametrize("version", [-1, True, 1.5, "1", b"1"])
async def test_a_version_is_a_whole_number(version: Any) -> None:
    store = InMemorySagaStateStore()
    for work in (
        lambda: store.save("a", b"{}", expected_version=version),
        lambda: store.delete("a", expected_version=version),
    ):
        with pytest.raises(InvalidEventError, match="expected_version"):
            await work()
    assert await store.load("a") is None


@pytest.mark.parametrize("kind", [InMemoryJournal, SqliteJournal, PostgresJournal, NatsJournal])
def test_every_journal_looks_at_what_its_methods_are_called_with(kind: type) -> None:
    for name in JOURNAL:
        method = getattr(kind, name, None)  # NATS has no records in the order of their writing
        assert method is None or hasattr(method, "__wrapped__"), f"{kind.__name__}.{name} takes anything"
