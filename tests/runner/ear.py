"""A hook that writes down what it is told."""

from __future__ import annotations

from typing import Any

from sagalog import Delivery, Handling, Hook, SagaRunner, Save, Scan

from .conftest import Bench


class Ear(Hook):
    """Writes down what it hears, and gives each message and delivery a trace that names what it came from."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.told: list[tuple[str, Any]] = []
        self.where = ""

    def started(self, runner: SagaRunner) -> None:
        self.told.append(("started", runner))

    def stopped(self, runner: SagaRunner) -> None:
        self.told.append(("stopped", runner))

    def caller(self) -> str:
        return self.where

    def handling(self, handling: Handling) -> str:
        self.told.append(("handling", handling))
        return f"{handling.cause}>{self.name}{handling.type}"

    def handled(self, handling: Handling) -> None:
        self.told.append(("handled", handling))

    def answered(self, event: str, seconds: float, error: str) -> None:
        assert seconds > 0
        self.told.append(("answered", (event, error)))

    def saved(self, save: Save) -> None:
        self.told.append(("saved", save))

    def parked(self, saga: str, correlation_id: str, reason: str) -> None:
        self.told.append(("parked", (saga, correlation_id, reason)))

    def delivering(self, delivery: Delivery) -> str:
        self.told.append(("delivering", delivery))
        return f"{delivery.cause}>{self.name}{delivery.command}"

    def delivered(self, delivery: Delivery) -> None:
        self.told.append(("delivered", delivery))

    def scanned(self, scan: Scan) -> None:
        self.told.append(("scanned", scan))

    def of(self, *kinds: str) -> list[Any]:
        return [what for kind, what in self.told if kind in kinds]

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(one.type, one.outcome) for one in self.of("handled")]


def listening(bench: Bench, *hooks: Hook, source: Any = None, **settings: Any) -> SagaRunner:
    return bench.runner(source, **settings).using(hooks=hooks)
