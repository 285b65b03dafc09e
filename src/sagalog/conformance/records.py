"""Records to write, ids and payloads that are hard to keep apart, and how to read them back."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

from ..journal.protocol import Journal, PersistentRepr

NOW = datetime(2030, 1, 1, tzinfo=UTC)
IDS = [
    "plain",
    "a/b",
    "a::b",
    "a%2Fb",
    "A",
    "a",
    "ship 🚢",
    "🚢" * 50,
    unicodedata.normalize("NFC", "é"),
    unicodedata.normalize("NFD", "é"),
    " ",
    "a\x00b",
    "a\x00",
    "\U0010ffff",
    "p\U0010ffff\U0010ffff\U0010ffff\U0010ffff\U0010ffff\U0010ffff\U0010ffff\U0010ffff\U0010ffff",
    "x" * 1_024,
    "'; DROP TABLE record; --",
]
PAYLOADS = [b"", b"\x00", b"a\x00b", b"\xff\xfe\x80", b"{}", bytes(range(256)) * 4096]


def record(persistence_id: str, number: int, payload: bytes = b"x", **more: object) -> PersistentRepr:
    return PersistentRepr(persistence_id, number, payload, **more)  # type: ignore[arg-type]


async def write(journal: Journal, persistence_id: str, *numbers: int) -> None:
    for number in numbers:
        await journal.write_messages([record(persistence_id, number, f"{persistence_id}-{number}".encode())])


async def replay(journal: Journal, *arguments: object, **keywords: object) -> list[int]:
    return [m.sequence_nr async for m in journal.replay_messages(*arguments, **keywords)]  # type: ignore[arg-type]
