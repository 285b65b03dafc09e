"""Bugs planted in what commands pass before they leave: each is found. Without them, nothing is."""

from __future__ import annotations

from typing import Any

import pytest

from sagalog.runner.beside import Beside
from sagalog.runner.gates import Gates
from sagalog.testing.simulation import simulate

from .paused_world import PausedAgency, PausedShop
from .planting import Mutants

mutant = Mutants(PausedShop, seeds=2000)


@mutant.of(PausedShop, first=5)
def a_pause_is_not_heard_of_before_the_next_start(patch: pytest.MonkeyPatch) -> None:
    real = Gates.controlled

    def controlled(self: Any, controls: Any) -> None:
        if self._engine.loop.time() == 0 or not self.all():
            real(self, controls)

    patch.setattr(Gates, "controlled", controlled)


@mutant.of(PausedShop, first=70)
def what_was_let_through_leaves_although_its_type_is_paused_since(patch: pytest.MonkeyPatch) -> None:
    real = Gates.passes

    def passes(self: Any, instance: Any, entry: Any, *, beside: bool = False) -> bool:
        return entry.id in instance.deliveries.let_through or real(self, instance, entry, beside=beside)

    patch.setattr(Gates, "passes", passes)


@mutant.of(PausedShop, first=20)
def what_waits_at_an_open_circuit_counts_as_an_attempt(patch: pytest.MonkeyPatch) -> None:
    real = Gates._stand

    def stand(self: Any, gate: Any, instance: Any, entry: Any, *, beside: bool) -> None:
        instance.deliveries.failed(entry.id)
        real(self, gate, instance, entry, beside=beside)

    patch.setattr(Gates, "_stand", stand)


@mutant.of(PausedAgency)
def an_activity_is_called_although_it_is_paused(patch: pytest.MonkeyPatch) -> None:
    real = Gates.passes

    def passes(self: Any, instance: Any, entry: Any, *, beside: bool = False) -> bool:
        return beside or real(self, instance, entry, beside=beside)

    patch.setattr(Gates, "passes", passes)


@mutant.of(PausedAgency, first=2120)
def an_activity_that_may_leave_again_is_left_in_its_line(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Beside, "_again", lambda self, instance, entry: None)


@pytest.mark.parametrize("name", mutant.names)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.find(name, monkeypatch)


def test_paused_commands_circuits_and_rates_keep_every_guarantee() -> None:
    simulate(list(PausedShop.sagas), PausedShop, seeds=range(12))


def test_paused_activities_their_circuits_and_rates_keep_every_guarantee() -> None:
    simulate(list(PausedAgency.sagas), PausedAgency, seeds=range(12))
