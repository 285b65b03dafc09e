"""What a posted body means: which type of event it is, and the event itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec

from ..definition import codec
from ..errors import CodecError, DefinitionError
from .bodies import Posted
from .functions import event_of
from .problems import refuse

Decode = Callable[[Posted], Any | Awaitable[Any]]
Events = type | Mapping[str, type] | Decode

UNKNOWN = object()  # an event of no type that is taken here


class EventDecoder:
    """Turns a posted body into an event: of one type, of the type that it names, or by a function."""

    def __init__(
        self,
        events: Events,
        *,
        type_at: str = "type",
        data_at: str = "",
        unknown: Literal["refuse", "ignore"] = "refuse",
    ) -> None:
        if unknown not in ("refuse", "ignore"):
            raise DefinitionError(f"unknown= must be 'refuse' or 'ignore', not {unknown!r}")
        self.types: dict[str, type] = {}
        self._decode: Decode | None = None
        self._named = isinstance(events, Mapping)
        if isinstance(events, type):
            self.types = {events.__name__: events}
        elif isinstance(events, Mapping):
            self.types = dict(events)
            if not self.types or not all(isinstance(one, type) for one in self.types.values()):
                raise DefinitionError("events= as a mapping takes names to event classes: {'payment.succeeded': Paid}")
        elif callable(events):
            self._decode = events
        else:
            raise DefinitionError(
                f"events= takes an event class, a mapping from names to classes, or a function, not a "
                f"{type(events).__name__}"
            )
        self.type_at = type_at
        self.data_at = data_at
        self._ignores = unknown == "ignore"

    @property
    def named(self) -> bool:
        """The body names the type of its event."""
        return self._named

    async def event(self, posted: Posted) -> Any:
        """Return the event, or UNKNOWN where it is to be ignored. Raises ProblemError for what is none."""
        if self._decode is not None:
            made = await event_of(self._decode, posted)
            return UNKNOWN if made is None else made
        kind = next(iter(self.types.values()))
        if self._named:
            name = at(posted.json, self.type_at)
            found = self.types.get(name) if isinstance(name, str) else None
            if found is None:
                if self._ignores:
                    return UNKNOWN
                raise refuse(422, f"the field {self.type_at} names no event that is accepted here; nothing was stored")
            kind = found
        if not self.data_at:
            return decoded(posted.body, kind)
        data = at(posted.json, self.data_at)
        if data is None:
            raise refuse(422, f"the field {self.data_at} is missing; nothing was stored")
        return decoded(msgspec.json.encode(data), kind)


def at(value: Any, path: str) -> Any:
    """Return what is in a JSON value at `a.b.c`, None where there is nothing."""
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def decoded(data: bytes, kind: type) -> Any:
    """Return the event of this type. Raises ProblemError, which names the field and shows no value."""
    try:
        data.decode()
        msgspec.json.decode(data, type=msgspec.Raw)  # is it JSON at all?
        return codec.decode(data, kind)
    except CodecError as error:
        text = str(error).replace("stored JSON is not a valid", "the body is not a valid")
        raise refuse(422, f"{text}; nothing was stored") from None
    except codec.NOT_JSON:
        raise refuse(400, "the body is not JSON in UTF-8; nothing was stored") from None
