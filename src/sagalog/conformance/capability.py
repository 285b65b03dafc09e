"""What a journal or store may have beyond what it must."""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import pytest

F = TypeVar("F", bound=Callable[..., Any])


class Capability(Enum):
    """Name those that yours has; the tests of the others are skipped, and say so."""

    REOPEN = "what was acknowledged is there when the place is opened again, even after a kill -9 of its process"
    SHARED = "several journals may be open at the same place at once, in one process or in several"
    ATOMIC = "several ids can be written atomically"
    ORDERED = "ids are listed in the order of their code points"
    TAGS = "records can be found by tag, in the order they were written"
    TERMS = "live ids can be found by terms, which are written with their records"
    HISTORY = "every record of a live id is kept, and it says so by its attribute `page_bytes`"
    TRANSACTIONS = "a record can be written within the caller's own transaction"
    DELIVERIES = "a broker counts how often it has delivered a message"
    GIVES_BACK = "a broker hands to another source what one has given back, after the delay asked for"
    ONCE = "a broker stores what is sent twice under one id once"
    STAYING_IDS = "a broker has an id for each message, the same at every delivery, even if the sender sets none"
    BREAKABLE = "the tests can break its connection to the store: `breakable` says how"


def may(capability: Capability) -> Callable[[F], F]:
    """Mark a test as one that only journals or stores with that capability have to pass."""

    def mark(function: F) -> F:
        function.__dict__["sagalog_capability"] = capability
        return function

    return mark


class Capable:
    """A suite that skips the `may` tests whose capability is not named, and says so; each test has a `place` of its own."""

    capabilities: Collection[Capability]

    @pytest.fixture(autouse=True)
    def _capable(self, request: pytest.FixtureRequest) -> None:
        needed = getattr(request.function, "sagalog_capability", None)
        if needed is not None and needed not in self.capabilities:
            pytest.skip(f"the capability {needed.name} is not named: {needed.value}")

    @pytest.fixture
    def place(self, tmp_path: Path) -> Any:
        return tmp_path
