"""The saga that the tests of brokers run: it notes each event, and sends one command for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import msgspec

from sagalog import BrokerUnavailableError, Saga, Send, schema, starts, upcast
from sagalog.brokers import Sink, SinkMessage
from sagalog.brokers.cloudevents import CloudEvent, binary, read, structured


@schema(version=2)
@dataclass
class Added:
    order: str
    number: int


@upcast(Added, from_version=1)
def _number(old: dict[str, object]) -> dict[str, object]:
    return {"order": old["order"], "number": old["n"]}


@dataclass
class Ship:
    order: str
    number: int


@dataclass
class State:
    log: list[int] = field(default_factory=list)


class Counted(Saga[State]):
    name = "counted"

    @starts(Added, key="order", again="handle")
    def added(self, state: State, event: Added):
        state.log.append(event.number)
        yield Send(Ship(event.order, event.number))


def event(
    order: str, number: int, *, data: bytes | None = None, mode: str = "binary", **attributes: str
) -> SinkMessage:
    """Return a message with one Added."""
    made = CloudEvent(
        **{
            "id": f"{order}/{number}",
            "source": "/shop",
            "type": "Added",
            "dataschema": "https://example.com/added/2",
            "data": msgspec.Raw(data if data is not None else msgspec.json.encode({"order": order, "number": number})),
            **attributes,
        }
    )
    body, headers = binary(made) if mode == "binary" else structured(made)
    return SinkMessage(body, f"{order}/{number}", headers, order)


async def send(sink: Sink, orders: int, numbers: int, first: int = 0) -> None:
    """Send so many events of each order, mixed."""
    for number in range(first, first + numbers):
        for order in range(orders):
            await send_one(sink, event(f"o-{order}", number))


async def send_one(sink: Sink, message: SinkMessage) -> None:
    """Send a message as a careful sender does: again until the broker has it, under the same id."""
    while True:
        try:
            return await sink.send(message)
        except BrokerUnavailableError:
            await asyncio.sleep(0.02)


def shipped(body: bytes, headers: dict[str, str]) -> tuple[str, str, int]:
    """Return command id, order and number of a command that arrived."""
    found = read(body, headers)
    ship = msgspec.json.decode(found.data, type=Ship)
    return found.id, ship.order, ship.number
