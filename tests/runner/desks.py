"""Desks that want seats which only one may hold, for tests: what is stored of them, and a journal that is watched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sagalog import (
    Outcome,
    SagaRunner,
)
from sagalog.decision.entries import FINAL
from sagalog.decision.record import SagaRecord, decode_record
from sagalog.journal import reservations
from sagalog.waiting import Waiting

from ..keyed import Desk, DeskSaga
from .conftest import Bench

HANDLED, DUPLICATE, NO_INSTANCE = Outcome.HANDLED, Outcome.DUPLICATE, Outcome.NO_INSTANCE


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that may be on its way is waited for a twentieth of the time."""
    monkeypatch.setattr(reservations, "_PATIENCE", Waiting(first=0.002, most=0.02, seconds=0.05))


def runner(bench: Bench, source: Any = None, dispatch: Any = None, **more: Any) -> SagaRunner:
    return bench.runner(source, sagas=[DeskSaga], dispatch=dispatch or (lambda command: None), **more)


async def log(one: SagaRunner, name: str) -> list[str]:
    state: Desk = await one.state(DeskSaga, name)
    return state.log


async def record(bench: Bench, name: str) -> SagaRecord:
    assert bench.journal is not None
    found = await bench.journal.latest_message(f"saga::desk::{name}")
    assert found is not None
    return decode_record(found.payload)


async def seats(bench: Bench, *names: str) -> dict[str, tuple[str, ...]]:
    found = {name: (await record(bench, name)) for name in names}
    return {name: one.unique_keys.get("seat", ()) for name, one in found.items() if one.status not in FINAL}


class Watched:
    """A journal in front of another: its writes can be stopped, lost, or followed by something else."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.before: Callable[[str], Any] = lambda persistence_id: None
        self.after: Callable[[str], Any] = lambda persistence_id: None
        self.written: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def write_batch(self, records: Any) -> Any:
        for one in records:
            told = self.before(one.persistence_id)
            if asyncio.iscoroutine(told):
                told = await told
            if told is not None:
                return [told] * len(records)
        answers = await self.inner.write_batch(records)
        self.written += [one.persistence_id for one in records]
        for one in records:
            told = self.after(one.persistence_id)
            if asyncio.iscoroutine(told):
                told = await told
            if told is not None:
                return [told] * len(records)
        return answers


async def never() -> None:
    await asyncio.Event().wait()


STEP, RESERVATION = "saga::desk::A", "key::desk::seat=1"
