"""The tests that every journal and every saga state store has to pass, for authors of new ones. Needs pytest.

    class TestMyJournal(JournalConformance):
        capabilities = {Capability.REOPEN, Capability.TAGS}

        @classmethod
        def make(cls, place):
            return MyJournal(place / "journal")

Install `sagalog[conformance]`.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{part}"
        for part in (
            *("records", "replaying", "writing", "batching", "fencing", "finding", "reopening", "breaking"),
            *("store", "killing", "machine"),
        )
    )
)

from .capability import Capability  # noqa: E402
from .journal import JournalConformance  # noqa: E402
from .store import StoreConformance  # noqa: E402

__all__ = ["Capability", "JournalConformance", "StoreConformance"]
