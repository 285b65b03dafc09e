"""A payment provider to try the shop with. It knows the ids of its charges; a card that ends in 0 is declined."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

charged: dict[str, int] = {}  # cents, by the id of the charge


async def charge(request: Request) -> JSONResponse:
    asked = await request.json()
    if asked["card"].endswith("0"):
        return JSONResponse({}, status_code=402)
    charged.setdefault(request.headers["idempotency-key"], asked["cents"])
    return JSONResponse({})


app = Starlette(routes=[Route("/charges", charge, methods=["POST"])])
