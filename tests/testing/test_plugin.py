"""The fixture `saga_runner`, as a user's tests get it: from the installed plugin."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sagalog import CommandRefused

from ..orders import Charge, OrderSaga, Paid, Placed, Release, Reserve


async def test_a_real_runner_whose_time_passes_at_once(saga_runner: Any) -> None:
    async with saga_runner([OrderSaga]) as orders:
        assert (await orders.handle(Placed("a"), message_id="1")).handled
        assert (await orders.handle(Placed("a"), message_id="1")).duplicate
        await orders.handle(Placed("b"))
        await orders.handle(Paid("b"))
        await orders.after(timedelta(minutes=16))
        assert orders.sent == [Reserve("a"), Reserve("b"), Charge("b"), Release("a")]


async def test_commands_may_be_answered(saga_runner: Any) -> None:
    def answer(command: Any) -> None:
        if isinstance(command, Charge):
            raise CommandRefused("no money")

    async with saga_runner([OrderSaga], dispatch=answer) as orders:
        await orders.handle(Placed("a"))
        await orders.handle(Paid("a"))
        assert orders.sent == [Reserve("a"), Charge("a"), Release("a")]
