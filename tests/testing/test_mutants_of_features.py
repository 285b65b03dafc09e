"""Bugs planted in timers that come again, answers, deadlines, joins, gathers, outcomes and the index: each is found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from sagalog.decision import advance as advance_phase
from sagalog.decision import draft as draft_phase
from sagalog.decision import dropped_legs, dropping, gather_ends, gathers, joins, requests, timers
from sagalog.decision.draft import Draft
from sagalog.decision.entries import Joined
from sagalog.decision.gathering import Gathering
from sagalog.journal.memory import InMemoryJournal
from sagalog.runner import commit
from sagalog.runner.answers import Answers
from sagalog.runner.awaited import Waiter
from sagalog.runner.deliveries import Deliveries
from sagalog.runner.follower import Follower
from sagalog.testing.simulation import World

from ..orders import Closed, Placed
from .clockwork import Clockwork
from .crates import Crates, Dropped, TwoRefused
from .legs import Legs
from .parcels import Parcels, let_answers_wait
from .planting import Mutants
from .questions import Questions
from .shop_world import Shop
from .waybill_world import Waybills

mutant = Mutants(Shop, seeds=2000)


class Quick(World):
    """One life after the other, each begun before anybody can have looked how the last one ended."""

    def events(self, chance: random.Random) -> Iterator[Any]:
        for _ in range(8):
            yield Placed("o")
            yield chance.random()
            yield Closed("o")
            yield chance.choice([0, 0, chance.random(), 30])


class Fronts(Shop):
    clients = 2


@mutant.of(Fronts)
def the_commands_of_a_client_are_due_at_no_time(patch: pytest.MonkeyPatch) -> None:
    real = commit._lease_end
    patch.setattr(
        commit, "_lease_end", lambda of, record, now: None if of.runtime.engine.client else real(of, record, now)
    )


@mutant.of(Clockwork)
def a_recurring_timer_counts_from_when_it_fired(patch: pytest.MonkeyPatch) -> None:
    real = timers.following
    patch.setattr(timers, "following", lambda rule, due_at, now: (now + rule.every, real(rule, due_at, now)[1]))


@mutant.of(Clockwork)
def a_recurring_timer_keeps_its_id(patch: pytest.MonkeyPatch) -> None:
    def fired(self: Any, record: Any, message: Any) -> None:
        if message.following is not None:
            self.set_timer(record, message.name, message.following)
        elif not message.replayed:
            self.drop_timer(record, message.name)

    patch.setattr(Draft, "fired_timer", fired)


@mutant.of(Clockwork)
def a_recurring_timer_ends_with_the_one_that_is_parked(patch: pytest.MonkeyPatch) -> None:
    real = Draft.hold

    def hold(self: Any, message: Any) -> None:
        message.following = None
        real(self, message)

    patch.setattr(Draft, "hold", hold)


@mutant.of(Clockwork)
def a_replayed_timer_takes_its_successor_along(patch: pytest.MonkeyPatch) -> None:
    real = Draft.fired_timer

    def fired(self: Any, record: Any, message: Any) -> None:
        real(self, record, message)
        if message.replayed:
            self.drop_timer(record, message.name)

    patch.setattr(Draft, "fired_timer", fired)


@mutant.of(Clockwork)
def what_was_missed_comes_once_whatever_the_rule_says(patch: pytest.MonkeyPatch) -> None:
    real = timers.following

    def following(rule: Any, due_at: Any, now: Any) -> Any:
        return real(msgspec.structs.replace(rule, missed="once"), due_at, now)

    patch.setattr(timers, "following", following)


@mutant.of(Parcels)
def an_answered_command_is_accepted_before_its_answer_is_stored(patch: pytest.MonkeyPatch) -> None:
    let_answers_wait(patch)
    real = Answers.set_aside

    def set_aside(self: Any, instance: Any, entry: Any, answer: Any) -> bool:
        aside = real(self, instance, entry, answer)
        if aside:
            instance.deliveries.accept(entry.id)
        return aside

    patch.setattr(Answers, "set_aside", set_aside)


@mutant.of(Parcels)
def an_undo_overtakes_the_answers_before_it(patch: pytest.MonkeyPatch) -> None:
    let_answers_wait(patch)
    real = Deliveries.next_of

    def next_of(self: Any, outbox: Any) -> Any:
        found = real(self, outbox)
        if found is None and self.answered:
            left = [c for c in outbox if c.id not in self.accepted and c.id not in self.answered]
            return left[0] if left else None
        return found

    patch.setattr(Deliveries, "next_of", next_of)


@mutant.of(Questions)
def an_answer_does_not_end_the_wait(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(requests, "request_answered_by", lambda record, persistence_id, message: None)


@mutant.of(Questions)
def a_deadline_stays_behind_its_request(patch: pytest.MonkeyPatch) -> None:
    real = requests.settled

    def settled(record: Any, entry: str) -> str:
        real(record, entry)
        return ""

    patch.setattr(requests, "settled", settled)


@mutant.of(Questions)
def a_late_answer_is_taken_for_one_in_time(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(advance_phase, "_came_late", lambda draft, record, message: None)


@mutant
def who_waits_is_not_told_of_what_another_worker_ended(patch: pytest.MonkeyPatch) -> None:
    async def follow(self: Any, journal: Any) -> None:
        return None

    patch.setattr(Follower, "_follow", follow)
    patch.setattr(Follower, "_in_turn", lambda self, most: [])


@mutant.of(Quick)
def who_waits_is_told_of_the_life_that_is_seen_last(patch: pytest.MonkeyPatch) -> None:
    def outcome(self: Any, record: Any, *, certain: bool) -> Any:
        return self._reader.outcome(self.correlation_id, record)

    patch.setattr(Waiter, "_outcome", outcome)


@mutant
def a_result_that_was_taken_back_is_told_all_the_same(patch: pytest.MonkeyPatch) -> None:
    real = draft_phase.compensate

    def compensate(record: Any, *arguments: Any) -> None:
        result = record.result
        real(record, *arguments)
        record.result = result

    patch.setattr(draft_phase, "compensate", compensate)


@mutant.of(Legs)
def a_join_forgets_that_it_has_run(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(joins, "Joined", lambda came=(), waits=(), done=False: Joined(came, waits))


@mutant.of(Legs)
def a_join_counts_no_leg_of_an_earlier_step(patch: pytest.MonkeyPatch) -> None:
    real = joins.came

    def came(known: Any, record: Any, message: Any) -> Any:
        bare = record.__copy__()
        bare.joins = {name: joined for name, joined in record.joins.items() if joined.done}
        return real(known, bare, message)

    patch.setattr(joins, "came", came)


@mutant.of(Legs)
def a_join_runs_with_its_first_leg(patch: pytest.MonkeyPatch) -> None:
    real = joins.came

    def came(known: Any, record: Any, message: Any) -> Any:
        progress = real(known, record, message)
        every = {join.name: join.legs for join in known}
        return {n: one if one.done else Joined(every[n]) for n, one in progress.items()}

    patch.setattr(joins, "came", came)


@mutant.of(Crates)
def a_leg_counts_for_the_one_beside_it(patch: pytest.MonkeyPatch) -> None:
    real = Gathering.leg_of

    def leg_of(self: Any, entry: str) -> Any:
        leg = real(self, entry)
        return 0 if leg == 1 else leg

    patch.setattr(Gathering, "leg_of", leg_of)


@mutant.of(Crates)
def the_legs_of_an_answered_run_are_not_followed_by_more(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gathers, "more_legs", lambda name, gathering, saga, state: [])


@mutant.of(Crates)
def a_refused_leg_counts_as_answered(patch: pytest.MonkeyPatch) -> None:
    real = Gathering.with_leg
    patch.setattr(Gathering, "with_leg", lambda self, leg, refused: real(self, leg, refused=False))


@mutant.of(TwoRefused)
def a_failed_gather_forgets_the_legs_under_way(patch: pytest.MonkeyPatch) -> None:
    real = gathers.GatherStep

    def step(name: str, one: Any, *others: Any, **named: Any) -> Any:
        return real(name, None if one and one.over else one, *others, **named)

    patch.setattr(gathers, "GatherStep", step)


@mutant.of(Dropped)
def a_dropped_leg_leads_nowhere_until_something_else_comes(patch: pytest.MonkeyPatch) -> None:
    def refuse_leg(record: Any, entry: str) -> str:
        held, name = record.held, real(record, entry)
        record.held = held
        return name

    real = dropped_legs.refuse_leg
    patch.setattr(dropped_legs, "refuse_leg", refuse_leg)
    patch.setattr(dropping, "refuse_leg", refuse_leg)


@mutant.of(Waybills)
def an_answer_that_its_phase_ignores_completes_no_leg(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(advance_phase, "passed_over", lambda draft, record, message, outcome: outcome)


@mutant.of(Waybills)
def an_end_that_is_kept_forgets_how_its_gather_went(patch: pytest.MonkeyPatch) -> None:
    real = gather_ends.Held

    def held(*args: Any, gather: Any, **keywords: Any) -> Any:
        return real(*args, gather=msgspec.structs.replace(gather, answered=b"", refused=b""), **keywords)

    patch.setattr(gather_ends, "Held", held)


@mutant
def the_index_is_not_updated_on_a_change(patch: pytest.MonkeyPatch) -> None:
    real = commit._terms
    patch.setattr(
        commit, "_terms", lambda instance, record: real(instance, record) if not instance.cached.version else None
    )


@mutant
def the_next_life_is_not_in_the_index(patch: pytest.MonkeyPatch) -> None:
    real = commit._terms

    def terms(instance: Any, record: Any) -> Any:
        before = instance.cached.record
        return None if before is not None and before.index == record.index else real(instance, record)

    patch.setattr(commit, "_terms", terms)


@mutant
def who_has_ended_stays_in_the_index(patch: pytest.MonkeyPatch) -> None:
    real = InMemoryJournal._index
    patch.setattr(InMemoryJournal, "_index", lambda self, key, terms: real(self, key, terms) if terms else None)


@pytest.mark.parametrize("name", mutant.names)
def test_the_simulation_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.find(name, monkeypatch)
