"""The world of the order saga of the tests: payments, refusals, cancellations, an order that comes twice."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from sagalog import CommandRefused
from sagalog.testing.simulation import Finished, World

from ..orders import Cancelled, Charge, Closed, Noted, Paid, Placed, Refund, Release, Reserve, Reserved, Ship


class Shop(World):
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
        if chance.random() < 0.3:
            yield chance.choice([10, 3600])
            yield Placed("o0")  # again: the next life, or more of the same

    def answer(self, command: Any, chance: random.Random) -> Any:
        if isinstance(command, Charge) and chance.random() < 0.3:
            raise CommandRefused("no money")
        return Reserved(command.order_id) if isinstance(command, Reserve) and chance.random() < 0.5 else None

    def check(self, instance: Finished) -> None:
        assert instance.status != "parked"
        since = "".join(f"{entry} " for entry in instance.state.log).rpartition("placed ")[2]
        assert "overdue" not in since.partition("paid ")[2], "overdue, and it had been paid"
        if instance.status == "compensated":
            assert instance.has(Release), "compensated, and the stock is not given back"
            assert not instance.has(Charge) or instance.has(Refund) or instance.has(Ship), "paid, and not refunded"
