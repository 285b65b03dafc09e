from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest

from sagalog import InMemoryJournal, SagaRunner, open_journal
from sagalog.dashboard import Dashboard, dashboard_app
from sagalog.journal import Journal
from sagalog.runner import RetryPolicy, RunnerSettings

from ..orders import Cancelled, Failing, Noted, OrderSaga, Paid, Placed, Refund, World

TOKEN = "a token of the tests"
EVIL = "../a/b::<script>alert(1)</script>\"'&\x00\x1b[2J\u202e😀 ..%2f"
QUICK = RunnerSettings(
    handler_retry=RetryPolicy(attempts=2, base=timedelta(milliseconds=1), cap=timedelta(milliseconds=1))
)


async def fill(journal: Journal) -> None:
    """A running order, a parked one, one that could not be compensated, a finished one, and one with an evil id."""
    OrderSaga.fail_times = 99
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=World(refuse={Refund}), settings=QUICK) as runner:
        await runner.handle(Placed("running", 7), message_id="m1")
        await runner.handle(Paid("running"), message_id="m2")
        await runner.handle(Placed("parked", 8), message_id="m3")
        await runner.handle(Failing("parked"), message_id="m4")
        await runner.handle(Noted("parked", "later"), message_id="m5")
        await runner.handle(Placed("failed"), message_id="m6")
        await runner.handle(Paid("failed"), message_id="m7")
        await runner.settle()
        await runner.handle(Cancelled("failed"), message_id="m8")
        await runner.handle(Placed("finished"), message_id="m9")
        await runner.cancel("order", "finished", compensate=False, note="by hand")
        await runner.handle(Placed(EVIL), message_id="<b>m</b>\x07")
        await runner.handle(Noted(EVIL, "</pre><script>alert(2)</script>\x1b]0;pwned\x07\u202e"), message_id="m11")
        await runner.settle()
    OrderSaga.fail_times = 0


@pytest.fixture
async def journal() -> InMemoryJournal:
    filled = InMemoryJournal()
    await fill(filled)
    return filled


@pytest.fixture(params=["memory", "sqlite", "sqlite?history=0", "postgres", "nats"])
async def any_journal(request: pytest.FixtureRequest) -> AsyncIterator[Journal]:
    kind, _, query = request.param.partition("?")
    url = {"memory": "memory://", "postgres": "postgres_schema", "nats": "nats_stream"}.get(kind, "")
    if kind in ("postgres", "nats"):
        url = request.getfixturevalue(url)
    elif kind == "sqlite":
        url = f"sqlite:///{request.getfixturevalue('tmp_path') / 'counted.db'}?{query}"
    async with open_journal(url) as opened:
        yield opened


@asynccontextmanager
async def browsing(
    app: Dashboard, host: str = "localhost", *, signed_in: bool = False
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app, once its first count is done."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
        async with asyncio.timeout(40):
            await client.get("/login")
            while app._board.overview.counted_at is None:
                await asyncio.sleep(0.01)
        if signed_in:
            answer = await client.post("/login", data={"token": TOKEN})
            assert answer.status_code == 303
        yield client
    await app.stop()


def board_of(journal: Journal | str, **settings: Any) -> Dashboard:
    return dashboard_app(
        journal, **{"token": TOKEN, "open_reading": True, "hosts": ["localhost"], "sagas": [OrderSaga], **settings}
    )


@pytest.fixture
async def client(journal: InMemoryJournal) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody on the same machine who has not signed in."""
    async with browsing(board_of(journal)) as browser:
        yield browser


@pytest.fixture
async def operator(journal: InMemoryJournal) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody who has."""
    async with browsing(board_of(journal), signed_in=True) as browser:
        yield browser


@pytest.fixture(autouse=True)
def no_failures() -> Iterator[None]:
    yield
    OrderSaga.fail_times = 0
