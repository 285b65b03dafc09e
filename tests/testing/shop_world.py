"""The world of the order saga of the tests: payments, refusals, cancellations, an order that comes twice."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from sagalog import CommandRefused
from sagalog.testing.simulation import Finished, World

from ..orders import Cancelled, Charge, Closed, Noted, OrderSaga, Paid, Placed, Refund, Release, Reserve, Reserved, Ship


class Shop(World):
    sagas = (OrderSaga,)
    repairs = ("retry", "retry", "retry", "skip", "cancel")

    def events(self, chance: random.Random) -> Iterator[Any]:
        for n in range(3):
            yield Placed(f"o{n}")
        for n in range(3):
            if chance.random() < 0.7:
                yield Paid(f"o{n}")
            if chance.random() < 0.5:
                yield Noted(f"o{n}", "x")
            yield chance.random() * 3
            if chance.random() < 0.3:
                yield Cancelled(f"o{n}")
            elif chance.random() < 0.5:
                yield Closed(f"o{n}")
        if chance.random() < 0.5:
            yield chance.choice([10, 5000])
            yield Placed("o0")  # again: the next life, or more of the same
            yield chance.random() * 3
            yield Noted("o0", "again")
            if chance.random() < 0.5:
                yield Paid("o0")
            yield Closed("o0")

    def answer(self, command: Any, chance: random.Random) -> Any:
        if isinstance(command, (Charge, Release)) and chance.random() < 0.3:
            raise CommandRefused("no")
        return Reserved(command.order_id) if isinstance(command, Reserve) and chance.random() < 0.5 else None

    def check(self, instance: Finished) -> None:
        log = " ".join(instance.state.log)
        since = log.rpartition("placed")[2]
        assert "overdue" not in since.partition("paid")[2], "overdue, and it had been paid"
        if instance.status == "compensated" and instance.has(Reserve) and set(instance.repairs) <= {"retry"}:
            assert instance.has(Release), "compensated, and the stock is not given back"
            assert not instance.has(Charge) or instance.has(Refund) or instance.has(Ship), "paid, and not refunded"
