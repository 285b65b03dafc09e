"""Events in and outcomes out over HTTP, in your own web app: Starlette, FastAPI, Litestar, or plain ASGI.

- `lifespan`, `WithLifespan`: start the runner with the server, and drain it
- `Webhook`, `AwaitOutcome`: take an event, and answer with how it ended, or where that can be asked
- `StatusEndpoint`: how an instance stands, as JSON or as a stream
- `StandardWebhooks`, `StripeSignature`, `HmacSignature`: who has sent it
- `problem_handlers`: our errors as problem details, for endpoints of your own
- `sagalog.web.fastapi`: the same, shown in OpenAPI
"""

from __future__ import annotations

from ..errors import MissingExtraError

try:
    from .bodies import Posted
    from .lifespans import WithLifespan, lifespan
    from .problems import problem_handlers
    from .signatures import HmacSignature, Signature, SignatureError, StandardWebhooks, StripeSignature
    from .status import StatusEndpoint
    from .webhook import AwaitOutcome, Webhook
except ModuleNotFoundError as error:
    if (error.name or "").startswith("sagalog"):
        raise
    raise MissingExtraError(f"sagalog.web needs the package {error.name}: pip install 'sagalog[web]'") from error

__all__ = [
    "AwaitOutcome",
    "HmacSignature",
    "Posted",
    "Signature",
    "SignatureError",
    "StandardWebhooks",
    "StatusEndpoint",
    "StripeSignature",
    "Webhook",
    "WithLifespan",
    "lifespan",
    "problem_handlers",
]
