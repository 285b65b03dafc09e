"""From a message to an event: CloudEvents by their `type`, or what a decoder of the user's own makes of it."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..definition import codec
from ..definition.saga import Saga, check_taken
from ..definition.schema import schema_of
from ..errors import CodecError, DefinitionError, SagalogError
from . import cloudevents
from .cloudevents import NotCloudEventError
from .message import MESSAGE_ID, UNDECODABLE, SourceMessage, digest_of

MAX_MESSAGE_ID = 1024


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a decoder makes of a message. `id`: the sender's id; empty: the broker's. `trace`: a traceparent.

    `at`: the event's own time, for a runner on an EventClock; None: when the broker got it.
    """

    event: Any
    id: str = ""
    trace: str = ""
    at: datetime | None = None

    def __repr__(self) -> str:  # without the event: it may end in a log
        return f"<Decoded {type(self.event).__name__}, id={self.id!r}, at={self.at}>"


Decoder = Callable[[SourceMessage], Decoded | None]


class UnreadableError(Exception):
    """No event can be made of the message. Its text is kept with the dead letter, and quotes no values."""


class UntakenError(Exception):
    """The message can be read, and no saga takes it."""


class MessageReader:
    """Makes events of messages, under ids that are the same at every delivery.

    `types`: the classes by the `type` of a CloudEvent. `decode`: reads the message instead; None from it means that it
    is for nobody here.
    """

    def __init__(self, types: Mapping[str, type], decode: Decoder | None = None) -> None:
        self._types = types
        self._decode = decode

    def read(self, message: SourceMessage) -> Decoded:
        """Return the event with its id. Raises UnreadableError, UntakenError."""
        if UNDECODABLE in message.headers:
            raise UnreadableError(f"the broker's client cannot read it: {message.headers[UNDECODABLE]}")
        found = self._cloud_event(message) if self._decode is None else self._decoded(message, self._decode)
        given = found.id or message.headers.get(MESSAGE_ID, "") or message.id
        if not given:
            raise UnreadableError(
                "it has no id, and this broker has none that stays the same at every delivery: let the sender set one "
                "(CloudEvents id and source, or message_id), or let decode= derive one from its content"
            )
        return Decoded(
            found.event,
            given if len(given) <= MAX_MESSAGE_ID else digest_of(given),
            found.trace,
            found.at or message.published_at,
        )

    def _decoded(self, message: SourceMessage, decode: Decoder) -> Decoded:
        try:
            found = decode(message)
        except (Exception, CancelledError) as error:  # nobody cancels a function that does not wait
            told = f": {error}" if isinstance(error, SagalogError) else ""  # others may quote what they read
            raise UnreadableError(f"the decoder raised {type(error).__name__}{told}") from error
        if found is None:
            raise UntakenError("the decoder says that it is for no saga here")
        if not isinstance(found, Decoded):
            raise UnreadableError(f"the decoder returned a {type(found).__name__}, not Decoded or None")
        if not isinstance(found.id, str) or not isinstance(found.trace, str):
            raise UnreadableError("the decoder returned a Decoded whose id or trace is not a string")
        if found.at is not None and (not isinstance(found.at, datetime) or found.at.tzinfo is None):
            raise UnreadableError("the decoder returned a Decoded whose at is not a datetime with a time zone")
        return found

    def _cloud_event(self, message: SourceMessage) -> Decoded:
        try:
            event = cloudevents.read(message.body, message.headers)
        except NotCloudEventError as error:
            raise UnreadableError(str(error)) from None
        cls = self._types.get(event.type)
        if cls is None:
            raise UntakenError(f"no saga of this runner handles events of type {event.type[:200]!r}")
        try:
            value: Any
            if event.version == schema_of(cls).version:
                value = codec.decode(event.data, cls)
            else:
                value = codec.decode_version(event.data, cls, event.version)
        except CodecError as error:
            raise UnreadableError(str(error)) from None
        return Decoded(value, event.message_id, event.traceparent, event.time)


def types_of(sagas: Iterable[Saga[Any]], given: Mapping[str, type]) -> dict[str, type]:
    """Return the event classes of these sagas by their stored names, and `given` beside them.

    Raises DefinitionError where two classes have one name, and none of them is given under it, or no saga takes one.
    """
    sagas = list(sagas)
    check_taken(sagas, given, "types= of a Subscription")
    found: dict[str, type] = {}
    for saga in sagas:
        for cls in type(saga).event_types():
            name = schema_of(cls).name
            if name not in given and found.setdefault(name, cls) is not cls:
                raise DefinitionError(
                    f"two event classes are called {name!r}: say which of them a message of that type means: "
                    f"Subscription(..., types={{{name!r}: ...}})"
                )
    return {**found, **given}
