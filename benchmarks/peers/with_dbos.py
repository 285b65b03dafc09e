"""DBOS Transact: an order is a workflow under an id of its own, each of its five steps a checkpointed `@DBOS.step`.

Durable: DBOS writes a row when a workflow starts, one when each step has ended, and one when the workflow has ended, each
in its own committed transaction. So an order is seven commits here and five in Sagalog, whose record also holds a timer
and an outbox; only the five steps are counted.

Plain functions on threads: the asyncio form of the same workflow was slower with 1 and with 64 callers. A pool of one
connection was fastest on SQLite, one of 20 (the default) to 64 on PostgreSQL. The SQLite file is put into WAL mode first,
which DBOS does not do by itself and which makes it faster; `synchronous` stays FULL, as DBOS leaves it.
"""

from __future__ import annotations

import sqlite3
import sys

from dbos import DBOS, DBOSConfig, SetWorkflowID

from .loops import in_threads


@DBOS.step()
def place(order: str, total: int) -> dict[str, object]:
    return {"order": order, "total": total}


@DBOS.step()
def pay(order: str) -> dict[str, object]:
    return {"order": order, "paid": True}


@DBOS.step()
def pack(order: str) -> dict[str, object]:
    return {"order": order, "packed": True}


@DBOS.step()
def ship(order: str) -> dict[str, object]:
    return {"order": order, "shipped": True}


@DBOS.step()
def deliver(order: str) -> dict[str, object]:
    return {"order": order, "delivered": True}


@DBOS.workflow()
def process(order: str) -> str:
    place(order, 5)
    pay(order)
    pack(order)
    ship(order)
    deliver(order)
    return order


def handle(order: str) -> None:
    with SetWorkflowID(order):
        process(order)


def main(url: str, callers: int, seconds: float) -> None:
    if url.startswith("sqlite:///"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    config: DBOSConfig = {"name": "peer", "system_database_url": url, "run_admin_server": False, "log_level": "ERROR"}
    config["sys_db_pool_size"] = 1 if url.startswith("sqlite") else max(20, min(callers, 64))
    DBOS(config=config)
    DBOS.launch()
    in_threads(handle, callers, seconds)
    DBOS.destroy()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
