"""What every journal promises, put together: one file for each part of the contract.

What is not marked `may` is a must. Every test stands for one sentence of the contract: its name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

import pytest
import pytest_asyncio

from ..journal.protocol import Journal
from .batching import Batching
from .breaking import Breaking
from .capability import Capability, Capable
from .fencing import Fencing
from .finding import FindingIds
from .indexing import Indexing
from .records import write
from .reopening import Reopening
from .replaying import Replaying
from .writing import Writing


@pytest.mark.asyncio
class JournalConformance(Replaying, Writing, Batching, Fencing, FindingIds, Indexing, Reopening, Breaking, Capable):
    """Subclass it with `make`, and name the capabilities that the journal has (all, unless said otherwise).

    `place` says where the journal under test is kept: a new, empty folder for each test. Override that fixture where
    it is something else, such as a URL; it must be picklable if the journal has the capability REOPEN.
    """

    capabilities: Collection[Capability] = frozenset(Capability)
    sequences = 30  # of calls, compared with a dict

    @classmethod
    def make(cls, place: Any) -> Journal:
        """Return a journal on what is kept at `place`. Called again for the same place to reopen it."""
        raise NotImplementedError(f"{cls.__name__}.make(place) must return the journal to be tested")

    @pytest_asyncio.fixture
    async def journal(self, place: Any) -> AsyncIterator[Journal]:
        async with self.make(place) as journal:
            yield journal

    @pytest_asyncio.fixture
    async def five(self, journal: Journal) -> Journal:
        await write(journal, "p", 1, 2, 3, 4, 5)
        await write(journal, "other", 1)
        return journal

    async def test_any_sequence_of_calls_does_what_a_dict_would_do(self, place: Any) -> None:
        machine = pytest.importorskip("sagalog.conformance.machine", reason="needs hypothesis", exc_type=ImportError)
        have = self.capabilities
        await asyncio.to_thread(
            machine.check,
            lambda: self.make(place),
            atomic=Capability.ATOMIC in have,
            ordered=Capability.ORDERED in have,
            reopens=Capability.REOPEN in have,
            examples=self.sequences,
        )
