"""Bugs planted in what carries out activities: the simulation finds each of them within some hundred seeds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sagalog.decision import dropping, finish, itinerary
from sagalog.decision.entries import Stage
from sagalog.runner.activities import ActivityHandler
from sagalog.runner.conclusion import Conclusions
from sagalog.runner.deliveries import Deliveries
from sagalog.testing.simulation import simulate

from .invoice_world import Accounts, Books
from .planting import Mutants
from .trip_world import Agency, Trips

mutant = Mutants(Agency, seeds=500)


@mutant
def an_activity_waits_for_one_of_those_before_it(patch: pytest.MonkeyPatch) -> None:
    def is_ready(self: Any, name: str, step: Any) -> bool:
        stages = self._stages
        ended = [other in stages and stages[other].status in itinerary._ENDED for other in step.after]
        return not ended or any(ended)

    patch.setattr(itinerary._Itinerary, "_is_ready", is_ready)


@mutant
def what_was_done_is_undone_in_the_order_of_its_beginning(patch: pytest.MonkeyPatch) -> None:
    real = itinerary.reordered
    patch.setattr(finish, "reordered", lambda record, change: real(record, msgspec.structs.replace(change, newest=[])))


@mutant
def a_refused_activity_is_undone(patch: pytest.MonkeyPatch) -> None:
    def failed(self: Any, step: Any, stage: Any, reason: str, *, refused: bool) -> None:
        self._over(step)
        self._move(step.name, self._failure(step, stage.entry, reason))
        self._change.newest += (stage.entry,)
        self._change.commits = False

    patch.setattr(itinerary._Itinerary, "_failed", failed)


@mutant
def a_failure_behind_a_pivot_undoes_what_was_before(patch: pytest.MonkeyPatch) -> None:
    def done(self: Any, step: Any, stage: Any) -> None:
        self._over(step)
        self._move(step.name, Stage("done", stage.entry, pivot=step.options.pivot))
        self._change.newest += (stage.entry,)

    patch.setattr(itinerary._Itinerary, "_done", done)
    patch.setattr(Conclusions, "_asks_operator", staticmethod(lambda instance, entry: False))


@mutant
def undo_commands_leave_beside_each_other(patch: pytest.MonkeyPatch) -> None:
    real = ActivityHandler.__init__

    def made(self: Any, saga: Any, step: Any, *, undo: bool) -> None:
        real(self, saga, step, undo=undo)
        self.beside = True

    def next_of(self: Any, outbox: Any) -> Any:
        return next((one for one in outbox if not self._at_work(one.id)), None)

    patch.setattr(ActivityHandler, "__init__", made)
    patch.setattr(Deliveries, "next_of", next_of)


@mutant
def what_an_operator_skips_is_never_gone_on_from(patch: pytest.MonkeyPatch) -> None:
    real = dropping._skip_activity

    def skip(record: Any, entry: str, command: str, life: int) -> None:
        held = record.held
        real(record, entry, command, life)
        record.held = held

    patch.setattr(dropping, "_skip_activity", skip)


@mutant
def what_is_not_needed_is_called(patch: pytest.MonkeyPatch) -> None:
    real = itinerary._Itinerary._begin

    def begin(self: Any, step: Any, stage: Any) -> bool:
        when, step.options = step.options, msgspec.structs.replace(step.options, when=None)
        try:
            return real(self, step, stage)
        finally:
            step.options = when

    patch.setattr(itinerary._Itinerary, "_begin", begin)


@pytest.mark.parametrize("name", mutant.names)
def test_the_simulation_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.find(name, monkeypatch)


def test_without_a_bug_nothing_is_found() -> None:
    report = simulate([Trips], Agency, seeds=range(25))
    assert report.sagas["trip"]["ends completed"] > 5
    assert report.sagas["trip"]["ends compensated"] > 5


def test_activities_inside_a_saga_of_events_hold_whatever_fails() -> None:
    report = simulate([Accounts], Books, seeds=range(25))
    assert report.sagas["account"]["account.invoice.done"] > 20
