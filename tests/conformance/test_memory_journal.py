from __future__ import annotations

import pytest

from sagalog import InMemoryJournal

from .journal_contract import JournalContract


class TestInMemoryJournal(JournalContract):
    @pytest.fixture
    def journal(self) -> InMemoryJournal:
        return InMemoryJournal()
