"""Bugs planted in keys: who is reached by them, and who may hold a unique one. Each is found."""

from __future__ import annotations

from typing import Any

import pytest

from sagalog.decision import ending as ending_phase
from sagalog.decision import finish as finish_phase
from sagalog.decision.draft import Draft
from sagalog.decision.record import SagaRecord
from sagalog.decision.reservation import Standing
from sagalog.journal import reservations
from sagalog.journal.reservations import Reservations
from sagalog.runner import by_key, commit

from .desks import Customers, Desks
from .planting import Mutants

mutant = Mutants(Desks, seeds=2000)


@mutant
def a_unique_key_is_not_reserved(patch: pytest.MonkeyPatch) -> None:
    async def reserve(self: Any, *arguments: Any) -> None: ...

    patch.setattr(Reservations, "reserve", reserve)


@mutant
def a_step_that_may_be_on_its_way_is_not_fenced(patch: pytest.MonkeyPatch) -> None:
    real = reservations.standing

    def standing(*arguments: Any) -> Standing:
        found = real(*arguments)
        return Standing.FREE if found is Standing.PENDING else found

    patch.setattr(reservations, "standing", standing)


@mutant
def a_reservation_is_taken_over_whoever_holds_the_key(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reservations, "standing", lambda *arguments: Standing.FREE)


@mutant
def a_reservation_is_written_without_looking_for_a_race(patch: pytest.MonkeyPatch) -> None:
    real = Reservations._written

    async def written(self: Any, key: Any, wanted: Any, found: Any) -> bool:
        await real(self, key, wanted, found)
        return True

    patch.setattr(Reservations, "_written", written)


@mutant
def keys_are_reserved_for_the_step_before(patch: pytest.MonkeyPatch) -> None:
    real = Reservations.reserve

    async def reserve(self: Any, holder: str, version: int, epoch: int, keys: Any) -> None:
        await real(self, holder, max(1, version - 1), epoch, keys)

    patch.setattr(Reservations, "reserve", reserve)


@mutant
def a_sweep_forgets_reservations_that_are_held(patch: pytest.MonkeyPatch) -> None:
    async def worth(self: Any, *arguments: Any) -> Standing:
        return Standing.FREE

    patch.setattr(Reservations, "worth", worth)


@mutant
def a_key_is_reserved_once_whatever_becomes_of_its_step(patch: pytest.MonkeyPatch) -> None:
    real = finish_phase.claimed
    reserved: set[Any] = set()

    def claimed(before: Any, after: Any) -> list[Any]:
        wanted = [key for key in real(before, after) if key not in reserved]
        reserved.update(wanted)
        return wanted

    patch.setattr(finish_phase, "claimed", claimed)


@mutant
def an_event_reaches_who_has_given_the_key_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SagaRecord, "holds", lambda self, by: True)


@mutant.of(Customers)
def an_event_by_a_key_reaches_the_first_only(patch: pytest.MonkeyPatch) -> None:
    real = by_key.holders

    async def holders(*arguments: Any) -> Any:
        async for page in real(*arguments):
            yield page[:1]
            return

    patch.setattr(by_key, "holders", holders)


@mutant.of(Customers)
def an_event_is_accepted_though_one_could_not_store_it(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(by_key, "_raised", lambda *told, **more: by_key.NoInstanceError("parcel", "", "", "planted"))
    real = by_key.KeyedDelivery._once

    async def once(self: Any, *arguments: Any, **keywords: Any) -> Any:
        try:
            return await real(self, *arguments, **keywords)
        except by_key.NoInstanceError:
            return {"planted": by_key.Outcome.HANDLED}

    patch.setattr(by_key.KeyedDelivery, "_once", once)


@mutant.of(Customers)
def keys_are_not_put_into_the_index_with_the_step(patch: pytest.MonkeyPatch) -> None:
    real = commit._terms

    def terms(instance: Any, record: Any) -> Any:
        return real(instance, record) if instance.cached.record is None else None

    patch.setattr(commit, "_terms", terms)


@mutant
def keys_outlive_the_life(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ending_phase, "FINAL", frozenset())
    real = Draft.start

    def start(self: Any, *arguments: Any) -> Any:
        old = self.record
        record, state = real(self, *arguments)
        if old is not None:
            record.unique_keys = dict(old.unique_keys)
        return record, state

    patch.setattr(Draft, "start", start)


@pytest.mark.parametrize("name", mutant.names)
def test_the_simulation_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.find(name, monkeypatch)
