from __future__ import annotations

import pytest

from sagalog import open_journal
from sagalog.conformance import Capability, JournalConformance
from sagalog.journal import Journal


class TestNatsJournal(JournalConformance):
    """On a stream of three replicas in a cluster of three servers."""

    capabilities = frozenset(Capability) - {
        *(Capability.ATOMIC, Capability.TRANSACTIONS, Capability.ORDERED, Capability.TERMS),
        Capability.BREAKABLE,  # tests/conformance/test_nats_server.py cuts connections, of one server of three
    }

    @pytest.fixture
    def place(self, nats_stream: str) -> str:
        return nats_stream

    @classmethod
    def make(cls, place: str) -> Journal:
        return open_journal(place)
