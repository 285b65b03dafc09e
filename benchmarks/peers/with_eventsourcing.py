"""The eventsourcing library: an order is an aggregate, each of its five steps one event, saved by the application.

Durable: every `save` inserts the new events, with the aggregate's version as part of the key, and commits. On SQLite the
library uses WAL and leaves `synchronous` at FULL.

The application reads the aggregate from the repository for each step, as its documentation shows. Its aggregate cache is
on, so that this costs no query. Callers are threads: the library has no asyncio form.
"""

from __future__ import annotations

import sys
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from .loops import in_threads


class Order(Aggregate):
    @event("Placed")
    def __init__(self, order: str, total: int) -> None:
        self.order = order
        self.total = total
        self.paid = False
        self.steps = 1

    @staticmethod
    def create_id(order: str, total: int) -> UUID:
        return uuid5(NAMESPACE_URL, f"/orders/{order}")

    @event("Paid")
    def pay(self) -> None:
        self.paid = True
        self.steps += 1

    @event("Packed")
    def pack(self) -> None:
        self.steps += 1

    @event("Shipped")
    def ship(self) -> None:
        self.steps += 1

    @event("Delivered")
    def deliver(self) -> None:
        self.steps += 1


class Orders(Application[UUID]):
    def place(self, order: str, total: int) -> UUID:
        placed = Order(order, total)
        self.save(placed)
        return placed.id

    def pay(self, order_id: UUID) -> None:
        order: Order = self.repository.get(order_id)
        order.pay()
        self.save(order)

    def pack(self, order_id: UUID) -> None:
        order: Order = self.repository.get(order_id)
        order.pack()
        self.save(order)

    def ship(self, order_id: UUID) -> None:
        order: Order = self.repository.get(order_id)
        order.ship()
        self.save(order)

    def deliver(self, order_id: UUID) -> None:
        order: Order = self.repository.get(order_id)
        order.deliver()
        self.save(order)


def settings(url: str, callers: int) -> dict[str, str]:
    """Return the library's settings for a database's URL."""
    cached = {"AGGREGATE_CACHE_MAXSIZE": str(max(1000, 2 * callers))}
    if url.startswith("sqlite:///"):
        file = url.removeprefix("sqlite:///")
        return {
            **cached,
            "PERSISTENCE_MODULE": "eventsourcing.sqlite",
            "SQLITE_DBNAME": file,
            "SQLITE_LOCK_TIMEOUT": "60",
        }
    parts = urlsplit(url)
    return {
        **cached,
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": parts.path.lstrip("/"),
        "POSTGRES_HOST": parts.hostname or "127.0.0.1",
        "POSTGRES_PORT": str(parts.port or 5432),
        "POSTGRES_USER": parts.username or "",
        "POSTGRES_PASSWORD": parts.password or "none",  # the library insists on one
        "POSTGRES_POOL_SIZE": str(max(5, min(callers, 20))),
        "POSTGRES_MAX_OVERFLOW": "0",
        "POSTGRES_MAX_WAITING": str(callers),
    }


def main(url: str, callers: int, seconds: float) -> None:
    application = Orders(env=settings(url, callers))

    def handle(order: str) -> None:
        order_id = application.place(order, 5)
        application.pay(order_id)
        application.pack(order_id)
        application.ship(order_id)
        application.deliver(order_id)

    in_threads(handle, callers, seconds)
    application.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
