"""kill -9 of a web server under load: what was answered is stored, and sent again it changes nothing twice."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import httpx

from sagalog import SagaRunner

from .shop import OrderPlaced, ShopSaga

APP = """
from starlette.applications import Starlette
from starlette.routing import Route
from sagalog import SagaRunner
from sagalog.web import Webhook, lifespan
from tests.web.shop import Charge, OrderPlaced, ShopSaga, charge

runner = SagaRunner("sqlite:///shop.db", sagas=[ShopSaga], dispatch={Charge: charge}, client=True)
app = Starlette(routes=[Route("/orders", Webhook(runner, OrderPlaced, signature=None))], lifespan=lifespan(runner))
"""
EVENTS = 400


async def test_what_was_answered_before_a_kill_is_stored_and_sent_again_is_a_duplicate(tmp_path: Path) -> None:
    (tmp_path / "web_app.py").write_text(APP)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "web_app:app", "--port", "0"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}:{os.environ.get('PYTHONPATH', '')}"},
        stderr=asyncio.subprocess.PIPE,
    )
    answered: set[int] = set()
    try:
        assert process.stderr is not None
        while b"running on" not in (line := await process.stderr.readline()):
            assert line
        address = line.decode().split("running on ")[1].split(" ")[0]
        numbers = iter(range(EVENTS))

        async def send(client: httpx.AsyncClient) -> None:
            for number in numbers:
                try:
                    answer = await client.post(
                        "/orders", json={"order_id": f"o{number}"}, headers={"idempotency-key": f"k{number}"}
                    )
                except httpx.HTTPError:
                    return
                assert answer.status_code == 200
                answered.add(number)
                if len(answered) == EVENTS // 4:
                    process.kill()

        async with httpx.AsyncClient(base_url=address, timeout=20) as client:
            await asyncio.gather(*(send(client) for _ in range(8)))
        await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert EVENTS // 4 <= len(answered) < EVENTS
    async with SagaRunner(f"sqlite:///{tmp_path}/shop.db", sagas=[ShopSaga], dispatch=lambda command: None) as worker:
        for number in answered:
            assert (await worker.handle(OrderPlaced(f"o{number}"), message_id=f"k{number}")).duplicate
        await worker.settle()
        for number in answered:
            assert (await worker.state(ShopSaga, f"o{number}")).amount == 1
