"""A process that writes to a journal until it is killed, and what it had acknowledged by then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from ..journal import Journal, PersistentRepr

KEYS = [f"k{n}" for n in range(8)]


async def acknowledged_before_kill(make: Callable[[Any], Journal], place: Any, *, after: int) -> dict[str, int]:
    """Start a writer, kill it -9 after so many acknowledged records; return the last acknowledged number of each id."""
    return await asyncio.to_thread(_run_and_kill, make, place, after)


def _run_and_kill(make: Callable[[Any], Journal], place: Any, after: int) -> dict[str, int]:
    context = get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_write_for_ever, args=(make, place, sending), daemon=True)
    process.start()
    sending.close()
    acknowledged: dict[str, int] = {}
    try:
        for _ in range(after):
            key, number = receiving.recv()
            acknowledged[key] = number
        process.kill()
        while True:
            key, number = receiving.recv()
            acknowledged[key] = number
    except (EOFError, OSError):
        assert sum(acknowledged.values()) >= after, "the writer ended by itself: its error is on stderr"
        return acknowledged
    finally:
        process.kill()
        process.join()
        receiving.close()


def _write_for_ever(make: Callable[[Any], Journal], place: Any, sending: Connection) -> None:
    async def write(journal: Journal, key: str) -> None:
        number = await journal.highest_sequence_nr(key)
        while True:
            number += 1
            await journal.write_messages([PersistentRepr(key, number, f"{key}-{number}".encode())])
            sending.send((key, number))

    async def main() -> None:
        async with make(place) as journal:
            await asyncio.gather(*(write(journal, key) for key in KEYS))

    asyncio.run(main())
