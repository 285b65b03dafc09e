"""How many records a journal wrote in each commit: the one place here that looks into a journal's inside."""

from __future__ import annotations

from typing import Any

from sagalog import Journal, SqliteJournal


class _Counted:
    """Counts as the journal's own counts do, and notes the size of each batch."""

    def __init__(self, counts: Any, sizes: list[int]) -> None:
        self._counts = counts
        self._sizes = sizes

    def add(self, records: int, seconds: float) -> None:
        self._sizes.append(records)
        self._counts.add(records, seconds)


def count_batches(journal: Journal) -> list[int]:
    """Return a list that grows by the size of each batch from now on; it stays empty where a journal has none (NATS)."""
    sizes: list[int] = []
    writer: Any = None
    if isinstance(journal, SqliteJournal):
        writer = journal._writer._writer
    elif type(journal).__name__ == "PostgresJournal":
        writer = journal._writer  # type: ignore[attr-defined]
    if writer is not None:
        writer.counts = _Counted(writer.counts, sizes)
    return sizes
