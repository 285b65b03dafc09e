"""Keys that are taken, given up and looked for in any order: a real runner against a plain dict."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sagalog import InMemoryJournal

from ..keyed import Blocked, Closed, Moved, Ordered, ParcelSaga
from .conftest import Bench, FourMethodStore

Op = tuple[str, str, str]
OPS = st.tuples(
    st.sampled_from(["begin", "take", "take", "give up", "end", "block", "find", "restart"]),
    st.sampled_from("ABC"),
    st.sampled_from("xyz"),
)


async def follow(source: Any, ops: list[Op]) -> None:
    bench = Bench(source)
    held: dict[str, set[str]] = {}
    blocked: dict[str, int] = {}

    def holders(customer: str) -> list[str]:
        return sorted(order for order, customers in held.items() if customer in customers)

    running = bench.runner(sagas=[ParcelSaga], dispatch=lambda command: None)
    await running.start()
    try:
        for what, order, customer in ops:
            if what == "begin" and order not in held:
                await running.handle(Ordered(order, [customer]))
                held[order], blocked[order] = {customer}, 0
            elif what in ("take", "give up") and order in held:
                took = what == "take"
                await running.handle(Moved(order, None if took else customer, customer if took else None))
                held[order] = held[order] | {customer} if took else held[order] - {customer}
            elif what == "end" and order in held:
                await running.handle(Closed(order))
                del held[order]
            elif what == "block":
                receipt = await running.handle(Blocked(customer))
                assert sorted(receipt.instances["parcel"]) == holders(customer)
                for one in holders(customer):
                    blocked[one] += 1
            elif what == "restart":
                await running.stop()
                running = bench.runner(sagas=[ParcelSaga], dispatch=lambda command: None)
                await running.start()
            else:
                found = [one.correlation_id async for one in running.find(ParcelSaga, customer=customer)]
                assert sorted(found) == holders(customer)
        for order in held:
            assert len((await running.state(ParcelSaga, order)).log) == blocked[order]
    finally:
        await running.stop()


@pytest.mark.parametrize("kind", ["by an index", "by reading all"])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(ops=st.lists(OPS, max_size=20))
@example(ops=[("begin", "A", "x"), ("begin", "B", "x"), ("block", "A", "x"), ("find", "A", "x")])
@example(ops=[("begin", "A", "x"), ("take", "A", "y"), ("give up", "A", "x"), ("find", "A", "x"), ("block", "A", "y")])
@example(ops=[("begin", "A", "x"), ("end", "A", "x"), ("find", "A", "x"), ("begin", "A", "y"), ("block", "A", "x")])
def test_events_and_questions_by_a_key_find_who_holds_it(kind: str, ops: list[Op]) -> None:
    asyncio.run(follow(InMemoryJournal() if kind == "by an index" else FourMethodStore(), ops))
