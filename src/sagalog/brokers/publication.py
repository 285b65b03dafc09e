"""How commands leave through a sink: each as one message under the command's id, by default as a CloudEvent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

import msgspec

from ..definition import codec
from ..definition.schema import schema_of
from ..errors import DefinitionError
from ..text import given
from . import cloudevents
from .cloudevents import CloudEvent
from .message import SinkMessage
from .protocol import Sink


class Sent(Protocol):
    """What is known of a command that is sent: a CommandContext."""

    @property
    def id(self) -> str:
        """The command id, the same at every attempt."""

    @property
    def saga(self) -> str:
        """The name of the saga."""

    @property
    def correlation_id(self) -> str:
        """Which instance sends it."""


Encoder = Callable[[Any, Any], SinkMessage]


@dataclass(frozen=True, slots=True)
class Publication:
    """A sink, and how commands are written for it: `sinks={ShipOrder: Publication(sink, mode="structured")}`.

    By default a command is a CloudEvent in binary mode: `id` is the command id, `type` the stored name of its class,
    `source` is `/sagalog/<saga>`, `subject` the correlation id, `dataschema` ends with the schema version, and the key is
    the correlation id, so that the commands of one instance stay in order. `type` gives another name than the stored one.
    `encode` takes the command and its CommandContext and writes the message instead.
    """

    sink: Sink
    mode: str = "binary"
    type: str = ""
    encode: Encoder | None = None

    def __post_init__(self) -> None:
        if isinstance(self.sink, type) or not isinstance(self.sink, Sink):
            shown = self.sink.__name__ if isinstance(self.sink, type) else f"a {type(self.sink).__name__}"
            raise DefinitionError(
                f"a sink needs the methods of sagalog.brokers.Sink (send, close), which {shown} lacks"
            )
        if self.mode not in ("binary", "structured"):
            raise DefinitionError(f"mode= of a publication must be binary or structured, not {self.mode!r}")
        if not isinstance(self.type, str):
            raise DefinitionError(f"type= of a publication must be a name, not {given(self.type)}")
        if self.encode is not None and not callable(self.encode):
            raise DefinitionError(f"encode= takes a function, not {type(self.encode).__name__}")

    def message(self, command: Any, sent: Sent, trace: str) -> SinkMessage:
        """Return the message of a command. Raises CodecError, DefinitionError, and what `encode` raises."""
        if self.encode is not None:
            made = self.encode(command, sent)
            if not isinstance(made, SinkMessage):
                raise DefinitionError(f"encode= returned a {type(made).__name__}, not a SinkMessage")
            if trace and "traceparent" not in made.headers:
                made = msgspec.structs.replace(made, headers={**made.headers, "traceparent": trace})
            return made
        known = schema_of(type(command))
        name = self.type or known.name
        event = CloudEvent(
            id=sent.id,
            source=f"/sagalog/{quote(sent.saga, safe='')}",
            type=name,
            data=msgspec.Raw(codec.encode(command)),
            subject=sent.correlation_id,
            dataschema=f"urn:sagalog:{quote(name, safe='')}:{known.version}",
            traceparent=trace,
        )
        body, headers = cloudevents.binary(event) if self.mode == "binary" else cloudevents.structured(event)
        return SinkMessage(body, sent.id, headers, sent.correlation_id)


def publications_of(sinks: object) -> dict[type, Publication]:
    """Return what `sinks=` of a runner names. Raises DefinitionError."""
    if not isinstance(sinks, Mapping):
        raise DefinitionError(f"sinks= takes a mapping from command types to sinks, not {type(sinks).__name__}")
    return {
        command: one
        if isinstance(one, Publication)
        else Publication(one)  # command types are checked where handlers are
        for command, one in sinks.items()
    }
