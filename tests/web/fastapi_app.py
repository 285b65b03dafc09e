"""A FastAPI app with a webhook of one type, one of several, a status, and an endpoint of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel

from sagalog import Saga, SagaRunner, starts
from sagalog.web import StatusEndpoint, Webhook, lifespan, problem_handlers
from sagalog.web.fastapi import add_status, add_webhook

from .shop import Charge, OrderPlaced, PaymentReceived, ShopSaga, charge


@dataclass
class Line:
    sku: str
    parts: list[Line] | None = None


class Address(BaseModel):
    street: str


@dataclass
class Rich:
    order_id: str
    lines: list[Line]
    address: Address


@dataclass
class Riches:
    pass


class RichSaga(Saga[Riches]):
    name = "rich"

    @starts(Rich, key="order_id")
    def rich(self, state: Riches, event: Rich) -> None: ...


def signed_in(x_user: Annotated[str, Header()] = "") -> None:
    if x_user != "ann":
        raise HTTPException(401)


runner = SagaRunner("memory://", sagas=[ShopSaga, RichSaga], dispatch={Charge: charge})
app = FastAPI(lifespan=lifespan(runner), exception_handlers=problem_handlers())
add_webhook(
    app,
    "/orders",
    Webhook(runner, OrderPlaced, signature=None),
    tags=["orders"],
    dependencies=[Depends(signed_in)],
)
add_webhook(
    app,
    "/hooks/payments",
    Webhook(runner, {"paid": PaymentReceived, "rich": Rich}, data_at="data", signature=None, message_id=None),
)
add_status(app, "/orders/{id:path}", StatusEndpoint(runner, ShopSaga))


@app.post("/own")
async def own(event: OrderPlaced, idempotency_key: Annotated[str, Header()]) -> str:
    receipt = await runner.handle(event, message_id=idempotency_key)
    return receipt.message_id
