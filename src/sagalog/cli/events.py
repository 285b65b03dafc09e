"""From a line to an event: through the runner's own reader, or as {"type", "id", "at", "data"}."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from .. import codec
from ..errors import DefinitionError, InvalidEventError, SagalogError
from ..runner import EventClock, Incoming, SagaRunner
from ..runner.runner import Reader
from ..saga import Saga
from .lines import LineError

Parse = Callable[[int, bytes], Incoming | None]

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class _Line(msgspec.Struct):
    type: str
    data: msgspec.Raw
    id: str | None = None
    at: datetime | None = None


_decode_line = msgspec.json.Decoder(_Line).decode


def reader(runner: SagaRunner, name: str | None) -> Parse:
    """Return what turns a numbered line into an event, or None: skip it. It raises LineError.

    `name` is that of the file, None for a pipe. Raises DefinitionError where two events have one name.
    """
    parse = _default(runner, name) if runner.reader is None else _own(runner.reader)
    timed = isinstance(runner.clock, EventClock)

    def checked(number: int, line: bytes) -> Incoming | None:
        incoming = parse(number, line)
        if incoming is None:
            return None
        if incoming.message_id is None:
            if name is None:
                raise LineError(number, 'it has no "id"; from a pipe each needs one, or a second run would repeat it')
            incoming = Incoming(incoming.event, f"{name}:{number}", incoming.at)
        if timed and incoming.at is None:
            raise LineError(number, 'it has no "at", which tells the time here (--clock system: the machine does)')
        return incoming if timed else Incoming(incoming.event, incoming.message_id)

    return checked


def _own(read: Reader) -> Parse:
    def parse(number: int, line: bytes) -> Incoming | None:
        try:
            document = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise LineError(number, f"it is not a JSON object ({_why(error)})") from None
        try:
            incoming = read(document)
        except InvalidEventError as error:
            raise LineError(number, str(error)) from error
        except Exception as error:
            what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else type(error).__name__
            raise LineError(number, f"the runner's reader does not understand it ({what})") from error
        if incoming is not None and not isinstance(incoming, Incoming):
            raise LineError(number, f"the runner's reader gave a {type(incoming).__name__}, not an Incoming or None")
        return incoming

    return parse


def _default(runner: SagaRunner, name: str | None) -> Parse:
    types = _event_types(runner)
    ids = "" if name else '"id": ..., '

    def parse(number: int, line: bytes) -> Incoming:
        try:
            fields = _decode_line(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            shape = f'{{"type": ..., {ids}"data": {{...}}}}'
            raise LineError(number, f"it is not {shape} as JSON ({_why(error)})") from None
        cls = types.get(fields.type)
        if cls is None:
            raise LineError(number, f"no saga handles {fields.type!r}; known: {', '.join(sorted(types))}")
        try:
            event: object = codec.decode(fields.data, cls)
        except SagalogError as error:
            raise LineError(number, str(error)) from error
        if fields.at is not None and fields.at.tzinfo is None:
            raise LineError(number, 'its "at" has no offset from UTC, such as Z or +01:00')
        return Incoming(event, fields.id, fields.at)

    return parse


def _event_types(runner: SagaRunner) -> dict[str, type]:
    """Return the events by the names they are stored under: what the sagas handle, or may if they decide by override."""
    types: dict[str, type] = {}
    for saga in runner.sagas:
        known = list(type(saga).event_types())
        if type(saga).correlation_id is not Saga.correlation_id:
            registry = type(saga).registry()
            known.extend(cls for name in registry.names() if (cls := registry.get(name)) is not None)
        for cls in known:
            other = types.setdefault(codec.type_name(cls), cls)
            if other is not cls:
                raise DefinitionError(
                    f"two events are named {codec.type_name(cls)!r}: {other.__module__}.{other.__qualname__} and "
                    f"{cls.__module__}.{cls.__qualname__}; rename one with @schema(name=...), or read the lines yourself "
                    "with @runner.reads"
                )
    return types


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error).partition(" - at `$`")[0] if isinstance(error, msgspec.DecodeError) else "not UTF-8"
