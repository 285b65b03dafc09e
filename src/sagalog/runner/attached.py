"""The sources that a runner reads and the sinks that it sends to: begun after its phases, drained before them.

source ─► intake ─► [attached] ─► receive
deliver ─► [attached] ─► publication ─► sink

A runner without any does not import them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from ..definition.saga import Saga
from ..logs import about, log
from ..waiting import end_within
from .commands import CommandContext, CommandHandlers
from .envelope import Burst
from .gauges import Gauges
from .health import Health
from .receipt import Receipt
from .receive import Receiver
from .telling import Hooks, NoHooks

if TYPE_CHECKING:
    from ..brokers.counts import SourceGauges
    from ..brokers.intake import Intake
    from ..brokers.protocol import Sink, Source
    from ..brokers.publication import Publication
    from ..brokers.reading import MessageReader
    from ..brokers.subscription import Subscription

TROUBLE_SECONDS = 10.0  # of a source, until its worker is not ready
LEAST_SECONDS = 1.0  # of a stop, for command handlers, however long the sources took
CLOSE_SECONDS = 5.0  # at least, for telling the brokers what was accepted, however long the phases took to stop


class _Hooked:
    """Who tells the trace of a command that leaves: shared by all who have the same handlers."""

    def __init__(self) -> None:
        self.by: Hooks = NoHooks()


class Attached:
    """What one runner is connected to. Raises DefinitionError for what is no source or sink."""

    def __init__(
        self,
        sagas: list[Saga[Any]],
        sources: Iterable[Source | Subscription],
        sinks: Mapping[type, Sink | Publication],
    ) -> None:
        self._sagas = sagas
        self.subscriptions: Sequence[Subscription] = ()
        self._publications: Mapping[type, Publication] = {}
        self._readers: list[MessageReader] = []
        self._intakes: list[Intake] = []
        self._hooked = _Hooked()
        self._receiver: Receiver | None = None
        self._draining_since = 0.0
        if sources == () and sinks == {}:
            return
        from ..brokers.publication import publications_of
        from ..brokers.reading import MessageReader, types_of
        from ..brokers.subscription import subscriptions_of

        self.subscriptions = subscriptions_of(sources)
        self._publications = publications_of(sinks)
        self._readers = [MessageReader(types_of(sagas, one.types), one.decode) for one in self.subscriptions]

    def copy(self, *, sources: bool) -> Attached:
        """Return the same for another runner, which has the handlers of this one."""
        other = Attached(self._sagas, self.subscriptions if sources else (), self._publications)
        other._hooked = self._hooked
        return other

    def register(self, handlers: CommandHandlers) -> None:
        """Let the sinks take their commands. Raises DefinitionError for a command that has a handler already."""
        for command, publication in self._publications.items():
            handlers.add_for(command, self._sending(publication))

    def _sending(self, publication: Publication) -> Any:
        async def send(command: Any, context: CommandContext) -> None:
            await publication.sink.send(publication.message(command, context, self._hooked.by.caller()))

        return send

    def start(self, receiver: Receiver, hooks: Hooks) -> None:
        """Begin to read the sources."""
        self._receiver, self._hooked.by = receiver, hooks
        if not self.subscriptions:
            return
        from ..brokers.intake import Intake

        for subscription, reader in zip(self.subscriptions, self._readers, strict=True):
            intake = Intake(subscription, reader, self)
            self._intakes.append(intake)
            intake.start()

    def take(
        self, event: Any, message_id: str, trace: str, at: datetime | None, burst: Burst | None = None
    ) -> Awaitable[Receipt]:
        """Handle an event from a source, as `SagaRunner.handle` does; `at` is for a runner on an EventClock."""
        assert self._receiver is not None
        at = at if self._receiver.dated else None
        handling = self._receiver.handle(event, message_id, at, trace, burst)
        return self._hooked.by.receiving(type(event).__name__, handling)

    def burst(self) -> Burst:
        """Begin a burst: events that stay in order even if the journal fails one of them."""
        return Burst()

    def lane_of(self, event: Any) -> str:
        """Return what events have to have in common to stay in order: the persistence id of their instance."""
        assert self._receiver is not None
        return self._receiver.persistence_id_of(event)

    async def drain(self, seconds: float) -> None:
        """Read no more, and wait until what is under way has ended, for `seconds` at most."""
        self._draining_since = asyncio.get_running_loop().time()
        await asyncio.gather(*(intake.drain(seconds) for intake in self._intakes))

    async def close(self, seconds: float) -> None:
        """Disconnect once the phases have stopped, also from a broker that hangs.

        It ends little more than `seconds` after the drain began, or after CLOSE_SECONDS if that is later.
        """
        seconds = max(CLOSE_SECONDS, seconds - (asyncio.get_running_loop().time() - self._draining_since))
        closing = [intake.close(seconds) for intake in self._intakes]
        sinks = {id(one.sink): one.sink for one in self._publications.values()}.values()
        closing += [end_within(seconds, sink.close()) for sink in sinks]
        failed = await asyncio.gather(*closing, return_exceptions=True)
        for error in failed:
            if isinstance(error, BaseException):
                log.error("stopping: a source or sink did not close: %s", type(error).__name__, extra=about())
        self._intakes = []
        self._receiver, self._hooked.by = None, NoHooks()

    def gauges(self, gauges: Gauges) -> Gauges:
        """Return these with what each source is doing."""
        if not self._intakes:
            return gauges
        return msgspec.structs.replace(gauges, sources=tuple(intake.gauges() for intake in self._intakes))

    def health(self, health: Health) -> Health:
        """Return this with what is wrong with the sources: if anything is, the worker is not ready."""
        reasons = [said for intake in self._intakes if (said := _reason(intake.gauges()))]
        if not reasons:
            return health
        return msgspec.structs.replace(health, ready=False, reasons=(*health.reasons, *reasons))


def _reason(source: SourceGauges) -> str:
    if source.stopped:
        return f"source {source.name} has stopped at {source.stopped}"
    if source.trouble and source.trouble_seconds > TROUBLE_SECONDS:
        return f"source {source.name}: {source.trouble}, for {source.trouble_seconds:.0f} s"
    return ""
