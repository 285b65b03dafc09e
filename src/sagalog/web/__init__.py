"""Events in and outcomes out over HTTP, in your own web app: Starlette, FastAPI, Litestar, or plain ASGI.

- `lifespan`, `WithLifespan`: start the runner with the server, and drain it
- `Webhook`, `AwaitOutcome`: take an event, and answer with how it ended, or where that can be asked
- `StatusEndpoint`: how an instance stands, as JSON or as a stream
- `StandardWebhooks`, `StripeSignature`, `HmacSignature`: who has sent it
- `ServedRunner`, `BearerToken`: a whole runner over HTTP, as `sagalog serve` has it
- `SignedWebhook`: commands out, as signed webhooks
- `problem_handlers`: our errors as problem details, for endpoints of your own
- `sagalog.web.fastapi`: the same, shown in OpenAPI
"""

from __future__ import annotations

from ..errors import MissingExtraError

try:
    from .bodies import Posted
    from .lifespans import WithLifespan, lifespan
    from .outgoing import SignedWebhook, WebhookFailedError
    from .problems import problem_handlers
    from .serving import ServedRunner
    from .signatures import HmacSignature, Signature, SignatureError, StandardWebhooks, StripeSignature
    from .status import StatusEndpoint
    from .tokens import BearerToken
    from .webhook import AwaitOutcome, Webhook
except ModuleNotFoundError as _error:
    if (_error.name or "").startswith("sagalog"):
        raise
    raise MissingExtraError(f"sagalog.web needs the package {_error.name}: pip install 'sagalog[web]'") from _error

__all__ = [
    "AwaitOutcome",
    "BearerToken",
    "HmacSignature",
    "Posted",
    "ServedRunner",
    "Signature",
    "SignatureError",
    "SignedWebhook",
    "StandardWebhooks",
    "StatusEndpoint",
    "StripeSignature",
    "Webhook",
    "WebhookFailedError",
    "WithLifespan",
    "lifespan",
    "problem_handlers",
]
