"""Bugs planted in what parents and children tell each other: each is found. Without them, nothing is."""

from __future__ import annotations

import os
from typing import Any

import pytest

from sagalog.decision import advance as advance_phase
from sagalog.decision import children, compensation, ending, finish, gathers
from sagalog.decision.message import Outcome
from sagalog.runner import children as deliveries
from sagalog.runner.children import Children
from sagalog.testing.simulation import World, simulate

from .family_world import Families, Forgotten, Lorries, Taken
from .planting import Mutants

mutant = Mutants(Families, seeds=2000)
SLOW = {
    "a start counts as carried out before the child has it",
    "a parent undoes what it did while its children compensate",
    "a child is started under another id each time",
    "a child that was lost counts as an answer",
    "the end of a child is no leg",
}


@mutant
def a_parent_does_not_wait_for_its_children(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(compensation, "live_children", lambda record: {})


@mutant
def a_parent_undoes_what_it_did_while_its_children_compensate(patch: pytest.MonkeyPatch) -> None:
    real = compensation.compensate

    def compensate(record: Any, next_id: Any, chain: Any = None, trace: str = "") -> None:
        record.outbox = (*record.outbox, *compensation.stops(record, "stop", next_id))
        live, record.children = record.children, {}
        real(record, next_id, chain, trace)
        record.children = live

    patch.setattr("sagalog.decision.draft.compensate", compensate)


@mutant
def only_children_that_complete_say_so(patch: pytest.MonkeyPatch) -> None:
    real = ending.tell_parent

    def tell(record: Any, own: str, next_id: Any) -> None:
        if record.status.value == "completed":
            real(record, own, next_id)

    patch.setattr(ending, "tell_parent", tell)


@mutant
def a_child_that_had_completed_does_not_take_that_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(compensation, "untell_parent", lambda record: None)


@mutant
def a_compensated_child_is_undone_once_more(patch: pytest.MonkeyPatch) -> None:
    real = children.settle_child

    def settle(record: Any, entry: str, outcome: str) -> None:
        undo = record.undo
        real(record, entry, outcome)
        record.undo = undo

    patch.setattr(finish, "settle_child", settle)
    patch.setattr(advance_phase, "settle_child", settle)


@mutant
def the_next_life_hears_of_the_children_of_the_last(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        advance_phase, "is_awaited", lambda record, message_id: message_id not in {one.id for one in record.handled}
    )
    patch.setattr(finish, "settle_child", lambda record, entry, outcome: None)


@mutant
def a_child_is_started_under_another_id_each_time(patch: pytest.MonkeyPatch) -> None:
    real, count = deliveries.start_of, [0]

    def start(own: str, entry: Any) -> str:
        count[0] += 1
        return real(own, entry).replace("/child", f"{count[0]}/child")

    patch.setattr(deliveries, "start_of", start)


@mutant
def a_start_counts_as_carried_out_before_the_child_has_it(patch: pytest.MonkeyPatch) -> None:
    real = Children._submit

    async def submit(self: Any, to: Any, by: Any, entry: Any, message: Any) -> Outcome:
        if entry.family == "start" and to is not by:
            self._engine.spawn(real(self, to, by, entry, message))
            return Outcome.HANDLED
        return await real(self, to, by, entry, message)

    patch.setattr(Children, "_submit", submit)


@mutant.of(Taken)
def a_start_is_handled_by_whoever_has_that_id(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(advance_phase, "parent_in", lambda message_id: None)


@mutant.of(Taken)
def an_id_that_is_taken_is_told_to_nobody(patch: pytest.MonkeyPatch) -> None:
    async def fail(self: Any, parent: Any, entry: Any, why: str) -> None:
        return

    patch.setattr(Children, "_fail", fail)


@mutant.of(Forgotten)
def a_start_does_not_tell_when_the_life_of_its_parent_began(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(children, "_began", lambda record: 0)


@mutant.of(Lorries)
def a_child_that_was_lost_counts_as_an_answer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gathers, "_is_refused", lambda message: message.kind == "refused")


@mutant.of(Lorries)
def the_end_of_a_child_is_no_leg(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gathers, "child_entry", lambda message_id: "")


@pytest.mark.parametrize("name", mutant.names)
def test_the_simulation_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in SLOW and not os.environ.get("SAGALOG_MUTANTS"):
        pytest.skip("it takes some seconds: make mutants runs it")
    mutant.find(name, monkeypatch)


@pytest.mark.parametrize(("world", "seeds"), [(Families, 20), (Taken, 10), (Forgotten, 10), (Lorries, 1)])
def test_nothing_is_found_where_no_bug_is_planted(world: type[World], seeds: int) -> None:
    simulate(list(world.sagas), world, seeds=range(7000, 7000 + seeds))
