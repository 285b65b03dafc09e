"""Sagalog: the five-step order of `benchmarks/orders.py`, each event its own durable step."""

from __future__ import annotations

import asyncio
import gc
import sys

from sagalog import SagaRunner

from ..orders import EVENTS, OrderSaga
from .loops import in_tasks


async def main(url: str, callers: int, seconds: float) -> None:
    gc.set_threshold(50_000, 20, 50)  # as `sagalog run` does
    async with SagaRunner(url, sagas=[OrderSaga], dispatch=lambda command: None) as runner:

        async def order(name: str) -> None:
            for index, event in enumerate(EVENTS):
                await runner.handle(event(name), message_id=f"{name}/{index}")

        await in_tasks(order, callers, seconds)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
