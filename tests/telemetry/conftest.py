from __future__ import annotations

import pytest

from sagalog import InMemoryJournal

from ..orders import OrderSaga
from ..runner.conftest import Bench, _no_hanging, shared

__all__ = ["_no_hanging", "shared"]


@pytest.fixture
def bench() -> Bench:
    """A journal in memory, a clock, a world, and runners over them."""
    OrderSaga.fail_times, OrderSaga.calls = 0, []
    return Bench(InMemoryJournal())
