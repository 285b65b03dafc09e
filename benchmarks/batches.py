"""How many records a journal wrote in each commit: the one place here that looks into a journal's inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sagalog import Journal, SqliteJournal


def count_batches(journal: Journal) -> list[int]:
    """Return a list that grows by the size of each batch from now on; it stays empty where a journal has none (NATS)."""
    sizes: list[int] = []
    if isinstance(journal, SqliteJournal):
        committing: Any = journal._writer._writer
        serve = committing.serve

        def counting(jobs: list[Any], **how: bool) -> bool:
            sizes.append(len(jobs))
            done: bool = serve(jobs, **how)
            return done

        committing.serve = counting
    elif type(journal).__name__ == "PostgresJournal":
        writer: Any = journal._writer  # type: ignore[attr-defined]
        take: Callable[[], Any] = writer._batch

        def counted() -> Any:
            calls = take()
            sizes.append(len(calls))
            return calls

        writer._batch = counted
    return sizes
