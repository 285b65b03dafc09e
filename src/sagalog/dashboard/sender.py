"""Events that a dashboard may send: of the types that a runner's sagas take, as a client of the workers."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from ..definition.codec import TypeRegistry, decode_given
from ..errors import CodecError, DefinitionError, OutcomeUnknownError
from ..journal import Journal
from ..runner import Receipt, SagaRunner
from ..runner.given import event_registry
from ..runner.inside import handle_by_hand

SEND_SECONDS = 30.0  # until one is told that nobody knows whether it is stored


class EventSender:
    """Sends events to the sagas of a runner, each as a client of the workers on the journal that is shown."""

    def __init__(self, runner: SagaRunner, journal: Journal | str) -> None:
        if not isinstance(runner, SagaRunner):
            raise DefinitionError(f"runner= of a dashboard takes a SagaRunner, not {type(runner).__name__}")
        runner.using(journal=journal, client=True)  # refuses now what could not be a client
        self.runner = runner
        self.registry: TypeRegistry = event_registry(runner.sagas)

    def types(self) -> list[tuple[str, list[str]]]:
        """Return the name of each type, and its fields in words."""
        return [(name, _fields(self.registry.get(name))) for name in self.registry.names()]

    def event(self, name: str, fields: str) -> Any:
        """Return the event that was typed in. Raises CodecError, which says what is wrong with it."""
        kind = self.registry.get(name)
        if kind is None:
            raise CodecError(f"no saga takes {name!r}")
        return decode_given(fields.encode("utf-8", "surrogatepass"), kind)

    async def send(self, journal: Journal, event: Any, message_id: str, by: str) -> Receipt:
        """Handle an event durably, with the name of who sends it in the record. Raises what `SagaRunner.handle` raises."""
        async with self.runner.using(journal=journal, client=True) as client:
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    return await handle_by_hand(client, event, message_id, by)
            except TimeoutError:
                raise OutcomeUnknownError("the journal has not answered for a while") from None

    def reached(self, event: Any, receipt: Receipt) -> list[tuple[str, str, str]]:
        """Return what became of it: saga, id (or an empty string), and the outcome in words."""
        found = []
        for saga in self.runner.sagas:
            if saga.name not in receipt.outcomes:
                continue
            instances = receipt.instances.get(saga.name)
            if instances is None:
                instances = {saga.correlation_id(event) or "": receipt.outcomes[saga.name]}
            found += [(saga.name, id, outcome.value.replace("_", " ")) for id, outcome in instances.items()]
        return found


def _fields(kind: type | None) -> list[str]:
    assert kind is not None
    try:
        given = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):  # made in a way of its own
        return []
    shown = []
    for one in given:
        known = one.annotation if isinstance(one.annotation, str) else inspect.formatannotation(one.annotation)
        optional = "" if one.default is inspect.Parameter.empty else " (may be left out)"
        shown.append(f"{one.name}: {known}{optional}")
    return shown
