"""Restate with its Python SDK: an order is one invocation of a service, each of its five steps a `ctx.run`.

Durable: the server writes each step's result to its replicated log and syncs that log to disk (`rocksdb-disable-wal-fsync`
is false, its default) before the handler goes on. The request carries an idempotency key, as an order would.

Written as Restate's pages on sagas show: one handler with a `run_typed` for each step. A virtual object with one call a
step, and the workflow form, were not faster. The service runs under Hypercorn with the settings that Restate's pages give
for production, with a worker for each core; the caller here speaks plain HTTP/1.1 over kept connections, which costs
little.
"""

from __future__ import annotations

import asyncio
import sys
from urllib.parse import urlsplit

import restate

from .loops import in_tasks

orders = restate.Service("Orders")


def _place(order: str, total: int) -> dict[str, object]:
    return {"order": order, "total": total}


def _pay(order: str) -> dict[str, object]:
    return {"order": order, "paid": True}


def _pack(order: str) -> dict[str, object]:
    return {"order": order, "packed": True}


def _ship(order: str) -> dict[str, object]:
    return {"order": order, "shipped": True}


def _deliver(order: str) -> dict[str, object]:
    return {"order": order, "delivered": True}


@orders.handler()
async def process(ctx: restate.Context, order: str) -> str:
    await ctx.run_typed("place", _place, order=order, total=5)
    await ctx.run_typed("pay", _pay, order=order)
    await ctx.run_typed("pack", _pack, order=order)
    await ctx.run_typed("ship", _ship, order=order)
    await ctx.run_typed("deliver", _deliver, order=order)
    return order


app = restate.app(services=[orders])


class Caller:
    """One kept connection to the ingress."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def process(self, order: str) -> None:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        body = f'"{order}"'
        writer.write(
            f"POST /Orders/process HTTP/1.1\r\nhost: restate\r\ncontent-type: application/json\r\n"
            f"idempotency-key: {order}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:"))
        answer = await reader.readexactly(length)
        if " 200 " not in head.partition("\r\n")[0]:
            raise RuntimeError(f"restate answered {head.partition(chr(13))[0]}: {answer[:200]!r}")


async def main(url: str, callers: int, seconds: float) -> None:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    free = [Caller(parts.hostname, parts.port) for _ in range(callers)]

    async def order(name: str) -> None:
        caller = free.pop()
        await caller.process(name)
        free.append(caller)

    await in_tasks(order, callers, seconds)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
