"""What is outside, to try the service with: an agency, and the traveller who is asked. It knows the ids of its calls."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Annotated, Any, Literal

import httpx
from fastapi import Body, FastAPI, Header, HTTPException

from sagalog.web import StandardWebhooks

BOOKING_URL = os.environ.get("BOOKING_URL", "http://localhost:8000")
SECRET = os.environ.get("WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

app = FastAPI(title="Outside")
booked: dict[str, str] = {}  # by the id of the call
cancelled: set[str] = set()
full: set[str] = set()
CallId = Annotated[str, Header(alias="idempotency-key")]


@app.post("/bookings/{what}")
async def book(what: str, call_id: CallId) -> dict[str, str]:
    if what in full or call_id in cancelled:  # a call may arrive after it was taken back
        raise HTTPException(409, f"no {what} is left")
    return {"number": booked.setdefault(call_id, f"{what} {len(booked) + 1}")}


@app.post("/cancellations")
async def cancel(booked_by: Annotated[str, Body(embed=True)], call_id: CallId) -> dict[str, Any]:
    cancelled.add(booked_by)
    booked.pop(booked_by, None)  # it may never have arrived
    return {}


@app.post("/approvals/{trip_id}")
async def ask(trip_id: str, call_id: CallId) -> dict[str, Any]:
    return {}  # a mail to the traveller, with the address below


@app.post("/answers/{trip_id}/{said}")
async def answer(trip_id: str, said: Literal["approved", "rejected"]) -> dict[str, Any]:
    """Tell the service what the traveller said, again and again until it has heard."""
    body = json.dumps({"type": said, "data": {"trip_id": trip_id}}).encode()
    headers = StandardWebhooks(SECRET).headers(f"{said} {trip_id}", body) | {"content-type": "application/json"}
    async with httpx.AsyncClient(base_url=BOOKING_URL) as client:
        while True:
            try:
                told = await client.post("/hooks/answers", content=body, headers=headers)
                told.raise_for_status()
            except httpx.HTTPError:
                await asyncio.sleep(0.2)
            else:
                return dict(told.json()["outcomes"])
