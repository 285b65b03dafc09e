"""The web process: it takes requests and webhooks, and says how a trip stands. Workers make the calls."""

from __future__ import annotations

import os
from datetime import timedelta

from fastapi import FastAPI

from sagalog.web import AwaitOutcome, StandardWebhooks, StatusEndpoint, Webhook, lifespan, problem_handlers
from sagalog.web.fastapi import add_status, add_webhook

from .trips import Approved, Rejected, TripRequested, TripSaga, runner

SECRET = os.environ.get("WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")  # keep yours out of the code

web = runner.using(client=True)
app = FastAPI(title="Booking", lifespan=lifespan(web), exception_handlers=problem_handlers())

requested = Webhook(
    web,
    TripRequested,
    signature=None,  # what is in front of it says who may
    outcome=AwaitOutcome(TripSaga, wait=timedelta(0), status="/trips/{id}"),
)
answered = Webhook(
    web,
    {"approved": Approved, "rejected": Rejected},
    data_at="data",
    signature=StandardWebhooks(SECRET),
)
add_webhook(app, "/trips", requested)
add_webhook(app, "/hooks/answers", answered)
add_status(app, "/trips/{id:path}", StatusEndpoint(web, TripSaga, state=lambda trip: trip))
