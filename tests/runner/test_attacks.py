"""Inputs that an enemy of the runner found."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pytest

from sagalog import DefinitionError, InMemoryJournal, Saga, SagaRunner, SetTimer, on, starts


@dataclass
class Begun:
    id: str


@dataclass
class Named:
    id: str


@dataclass
class NothingState:
    n: int = 0


class NamingSaga(Saga[NothingState]):
    name = "naming"

    @starts(Begun, key="id")
    def begun(self, state: NothingState, event: Begun) -> None:
        return None

    @on(Named, key="id")
    def named(self, state: NothingState, event: Named) -> SetTimer:
        # An escaped surrogate is valid in Python and cannot be written as UTF-8.
        return SetTimer("\ud800", Begun(event.id), after=timedelta(hours=1))


async def test_a_timer_name_that_cannot_be_written_is_refused_with_our_error() -> None:
    async with SagaRunner(InMemoryJournal(), sagas=[NamingSaga], dispatch=print) as runner:
        await runner.handle(Begun("a"))
        with pytest.raises(DefinitionError, match="a timer's name"):
            await runner.handle(Named("a"))
