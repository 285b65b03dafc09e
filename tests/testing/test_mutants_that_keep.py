"""Bugs planted in what keeps messages for their moment: the simulation finds each of them within some hundred seeds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sagalog import Outcome, SagaRecord
from sagalog.decision import advance, finish, kept, lookup, pages, phases, repair, sequences
from sagalog.decision.draft import Draft
from sagalog.runner import commit, load, settle, wake

from .heap_world import Heaps
from .numbered_world import Stations
from .phased_world import Depot
from .planting import Mutants

mutant = Mutants(Depot, seeds=500)


@mutant
def what_is_kept_is_forgotten_when_its_phase_comes(patch: pytest.MonkeyPatch) -> None:
    real = wake.next_kept

    def next_kept(draft: Any) -> Any:
        found = real(draft)
        if found is not None:
            draft.record.kept = tuple(one for one in draft.record.kept if one is not found)
        return None

    patch.setattr(wake, "next_kept", next_kept)


@mutant
def what_is_kept_is_handled_newest_first(patch: pytest.MonkeyPatch) -> None:
    real = wake.next_kept

    def next_kept(draft: Any) -> Any:
        if real(draft) is None:
            return None
        phase = kept.phase_of(draft.saga, draft.record)
        ready = [one for one in draft.record.kept if kept._expected(draft, draft.record, one, phase)]
        return ready[-1] if ready else real(draft)

    patch.setattr(wake, "next_kept", next_kept)


@mutant.of(Depot, first=790)
def a_kept_message_is_not_known(patch: pytest.MonkeyPatch) -> None:
    real = Draft.knows

    def knows(self: Any, message_id: str, kind: str = "event") -> bool:
        if self.record is None:
            return real(self, message_id, kind)
        kept, self.record.kept = self.record.kept, ()
        try:
            return real(self, message_id, kind)
        finally:
            self.record.kept = kept

    patch.setattr(Draft, "knows", knows)


@mutant
def a_phase_that_is_entered_acts_twice(patch: pytest.MonkeyPatch) -> None:
    real = phases._acts

    def acts(saga: Any, phase: Any, state: Any, context: Any, *, entering: bool) -> Any:
        actions = real(saga, phase, state, context, entering=entering)
        return actions + real(saga, phase, state, context, entering=entering) if entering else actions

    patch.setattr(phases, "_acts", acts)


@mutant
def a_kept_message_that_failed_is_left_lying(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SagaRecord, "owes_waking", property(lambda self: False))


@mutant
def a_kept_message_that_fails_parks_without_the_others(patch: pytest.MonkeyPatch) -> None:
    real = kept.all_kept
    patch.setattr(kept, "all_kept", lambda record, first: real(record, first)[:1])


@mutant
def what_an_ended_saga_keeps_is_dropped(patch: pytest.MonkeyPatch) -> None:
    def let_go(draft: Any, message: Any) -> Any:
        draft.kept_by(draft.touch()).take(message.id, message.kind)
        return Outcome.NO_INSTANCE

    patch.setattr(advance, "let_go", let_go)


@mutant.of(Stations)
def an_early_number_is_handled_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kept, "_early", lambda saga, record, message: False)


@mutant.of(Stations)
def numbers_that_came_early_are_released_in_the_order_in_which_they_came(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lookup, "heappush", lambda heap, one: heap.append(one))
    patch.setattr(lookup, "heappop", lambda heap: heap.pop(0))


@mutant.of(Stations)
def the_deadline_of_a_gap_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kept, "_wait_for_missing", lambda draft, record, sequences: None)


@mutant.of(Stations)
def a_gap_that_is_skipped_forgets_what_waits_behind_it(patch: pytest.MonkeyPatch) -> None:
    real = sequences.skip_missing

    def skip_missing(record: Any, key: str) -> None:
        real(record, key)
        record.kept = tuple(one for one in record.kept if one.sequence != key)

    for module in (kept, finish, repair):
        patch.setattr(module, "skip_missing", skip_missing)


@mutant.of(Heaps)
def a_page_is_the_record_before_the_one_that_is_meant(patch: pytest.MonkeyPatch) -> None:
    real = settle.StoredMessages

    def stored_messages(version: int, *how: Any) -> Any:
        return real(version - 1, *how)

    patch.setattr(settle, "StoredMessages", stored_messages)
    patch.setattr(commit, "_stored_messages", lambda instance: instance.cached.stored_messages)


@mutant.of(Heaps, first=8)
def what_is_in_pages_is_taken_for_unchanged_after_a_repair(patch: pytest.MonkeyPatch) -> None:
    real = pages._pages

    def as_if_only_added_to(messages: Any, before: Any, *more: Any) -> Any:
        return real(before.messages, before, *more)

    patch.setattr(pages, "_pages", as_if_only_added_to)


@mutant.of(Heaps)
def what_a_record_holds_itself_is_lost_when_its_pages_are_read(patch: pytest.MonkeyPatch) -> None:
    real = load.whole

    def whole(record: Any, named: Any) -> Any:
        return real(msgspec.structs.replace(record, held=()), named)

    patch.setattr(load, "whole", whole)


@mutant.of(Stations)
def what_a_record_keeps_itself_is_lost_when_its_pages_are_read(patch: pytest.MonkeyPatch) -> None:
    real = load.whole

    def whole(record: Any, named: Any) -> Any:
        return real(msgspec.structs.replace(record, kept=()), named)

    patch.setattr(load, "whole", whole)


@mutant.of(Heaps, first=9)
def messages_that_were_added_are_looked_up_in_what_was_held_before(patch: pytest.MonkeyPatch) -> None:
    def has(self: Any, messages: Any, message_id: str, kind: str) -> bool:
        if not self._count:
            self._look_at(messages)
        return (kind, message_id) in self._ids

    patch.setattr(lookup.HeldLookup, "has", has)


@pytest.mark.parametrize("name", mutant.names)
def test_the_simulation_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.find(name, monkeypatch)
