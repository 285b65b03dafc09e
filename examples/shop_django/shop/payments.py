"""The payment provider, over HTTP. Each charge goes with an id, so that one that comes again charges nothing twice."""

import os

import httpx

from sagalog import CommandRefused

URL = os.environ.get("PROVIDER_URL", "http://localhost:9000")


def charge(card: str, cents: int, charge_id: str) -> None:
    body = {"card": card, "cents": cents}
    answer = httpx.post(f"{URL}/charges", json=body, headers={"idempotency-key": charge_id}, timeout=10)
    if answer.status_code == httpx.codes.PAYMENT_REQUIRED:  # no, and that stays so
        raise CommandRefused("the card is declined")
    answer.raise_for_status()  # anything else may go away: it is tried again, under the same id
