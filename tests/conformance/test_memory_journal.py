from __future__ import annotations

from pathlib import Path

from sagalog import InMemoryJournal
from sagalog.conformance import Capability, JournalConformance


class TestInMemoryJournal(JournalConformance):
    capabilities = frozenset(
        {Capability.ATOMIC, Capability.ORDERED, Capability.TAGS, Capability.TERMS, Capability.HISTORY}
    )

    @classmethod
    def make(cls, place: Path) -> InMemoryJournal:
        return InMemoryJournal()
