"""The world of the order saga with phases: labels and shipments that come early or too late, and handlers that fail."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from sagalog.testing.simulation import Finished, World

from ..phased import (
    Cancelled,
    Charge,
    Closed,
    Labelled,
    Orders,
    Paid,
    Placed,
    Refund,
    Restarted,
    Reviewed,
    Shipped,
    Told,
)


class Depot(World):
    sagas = (Orders,)
    repairs = ("retry", "retry", "skip", "skip", "cancel")
    may_park = True  # a label may fail more often than its operator tries

    def events(self, chance: random.Random) -> Iterator[Any]:
        Orders.flaky = {f"{n}{text}": chance.choice([0, 0, 0, 1, 6]) for n in range(2) for text in "abc"}
        Orders.failing = set()
        for n in range(2):
            order = f"o{n}"
            yield Placed(order)
            for text in "abc":
                if chance.random() < 0.6:
                    yield Labelled(order, f"{n}{text}")
                    yield chance.random()
            if chance.random() < 0.5:
                yield Shipped(order)
            if chance.random() < 0.9:
                yield Paid(order)
            yield chance.choice([0.0, 1.0, 4000.0])
            if chance.random() < 0.5:
                yield Shipped(order)
            if chance.random() < 0.4:
                yield Reviewed(order)
            if chance.random() < 0.3:
                yield Restarted(order)
            if chance.random() < 0.4:
                yield chance.choice([Closed(order), Cancelled(order)])

    def check(self, instance: Finished) -> None:
        log = instance.state.log
        assert log.count("in") <= 2, "a phase was entered, and acted twice"
        assert log.count("out") <= 1, "a phase was left, and acted twice"
        told = [one.text for one in instance.commands if isinstance(one, Told)]
        assert told.count("out") <= 1, "a phase was left, and told so twice"
        labels = [one for one in log if one.startswith("labelled")]
        assert len(labels) == len(set(labels)), "a label was handled twice"
        if "shipped" in log and not instance.repairs:
            assert "paid" in log[: log.index("shipped")], "shipped, and it had not been paid"
        if instance.status == "compensated" and instance.has(Charge) and set(instance.repairs) <= {"retry"}:
            assert instance.has(Refund), "compensated, and the charge is not refunded"
