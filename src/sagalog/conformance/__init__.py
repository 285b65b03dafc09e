"""The tests that every journal, saga state store and broker has to pass, for authors of new ones. Needs pytest.

    class TestMyJournal(JournalConformance):
        capabilities = {Capability.REOPEN, Capability.TAGS}

        @classmethod
        def make(cls, place):
            return MyJournal(place / "journal")

Install `sagalog[conformance]`.
"""

from ..errors import MissingExtraError

_PARTS = (
    *("records", "replaying", "writing", "batching", "fencing", "finding", "indexing", "reopening", "breaking"),
    *("store", "killing", "machine", "broker"),
)

try:
    import pytest

    pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in _PARTS))

    from .broker import BrokerConformance
    from .capability import Capability
    from .journal import JournalConformance
    from .store import StoreConformance
except ModuleNotFoundError as _error:
    if (_error.name or "").startswith("sagalog"):
        raise
    raise MissingExtraError(
        f"the conformance tests need the package {_error.name}: pip install 'sagalog[conformance]'"
    ) from _error

__all__ = ["BrokerConformance", "Capability", "JournalConformance", "StoreConformance"]
