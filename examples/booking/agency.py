"""The agency, over HTTP. Each call goes with its id, so that one that comes again books nothing twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from sagalog import CommandRefused, SagaRunner


class Agency:
    def __init__(self, url: str) -> None:
        self._url = url

    @asynccontextmanager
    async def opened(self, runner: SagaRunner) -> AsyncIterator[None]:
        """Hold connections to the agency for as long as the runner runs."""
        async with httpx.AsyncClient(base_url=self._url, timeout=10) as self._client:
            yield

    async def book(self, what: str, call_id: str) -> str:
        booked = await self._post(f"/bookings/{what}", call_id)
        return str(booked["number"])

    async def cancel(self, booked_by: str, call_id: str) -> None:
        """Take back what was booked by that call, also where nobody knows whether it arrived."""
        await self._post("/cancellations", call_id, {"booked_by": booked_by})

    async def ask(self, trip_id: str, call_id: str) -> None:
        """Ask the traveller. The answer comes by webhook."""
        await self._post(f"/approvals/{trip_id}", call_id)

    async def _post(self, path: str, call_id: str, body: dict[str, Any] | None = None) -> Any:
        answer = await self._client.post(path, json=body or {}, headers={"idempotency-key": call_id})
        if answer.status_code == httpx.codes.CONFLICT:  # no, and that stays so
            raise CommandRefused(answer.json()["detail"])
        answer.raise_for_status()  # anything else may go away: it is called again, under the same id
        return answer.json()
