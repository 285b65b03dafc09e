"""The world of the order saga, whose operator pauses commands, and whose receivers have circuits and rates."""

from __future__ import annotations

from datetime import timedelta

from sagalog import Circuit, CommandPolicy

from ..orders import Charge, Note, Release, Reserve, Ship
from .shop_world import Shop

_AWAY = Circuit(failures=2, open_seconds=2, most_seconds=10)


class PausedShop(Shop):
    pauses = (Reserve, Charge, Ship, Release)
    policies = {
        Reserve: CommandPolicy(circuit=_AWAY),
        Charge: CommandPolicy(circuit=_AWAY, rate=2, timeout=timedelta(seconds=15)),
        Note: CommandPolicy(rate=1),
        Ship: CommandPolicy(shared_rate=2),
    }
