"""Webhooks and statuses in FastAPI: what `sagalog.web` has, as routes that OpenAPI shows with the types of their events."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

from ..errors import MissingExtraError

try:
    from fastapi import APIRouter, FastAPI
except ModuleNotFoundError as _error:
    raise MissingExtraError(f"sagalog.web.fastapi needs the package {_error.name}: pip install fastapi") from _error
from starlette.requests import Request
from starlette.responses import Response

from .openapi import RECEIPT_SCHEMA, STATUS_SCHEMA, events_schema, responses
from .problems import problem_of
from .status import StatusEndpoint
from .webhook import Webhook

__all__ = ["add_status", "add_webhook"]


def add_webhook(
    router: FastAPI | APIRouter,
    path: str,
    webhook: Webhook,
    *,
    dependencies: Sequence[Any] = (),
    tags: Sequence[str | Enum] = (),
    name: str | None = None,
) -> None:
    """Let `router` take the events of `webhook` by POST. `dependencies`: e.g. `[Depends(signed_in)]`."""

    async def take_event(request: Request) -> Response:
        try:
            return await webhook.respond(request)
        except Exception as error:
            return problem_of(error).response()

    decoder = webhook.decoder
    schema = (
        events_schema(decoder.types, named=decoder.named, type_at=decoder.type_at, data_at=decoder.data_at)
        if decoder.types
        else {}
    )
    extra: dict[str, Any] = {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
    }
    if isinstance(webhook.message_id, str):
        extra["parameters"] = [
            {
                "name": webhook.message_id,
                "in": "header",
                "required": True,
                "schema": {"type": "string"},
                "description": "the id of the message, the same at every delivery",
            }
        ]
    statuses = (400, 401, 409, 413, 415, 422, 503)
    router.add_api_route(
        path,
        take_event,
        methods=["POST"],
        name=name or _name(path),
        dependencies=list(dependencies),
        tags=list(tags),
        response_model=None,
        response_class=Response,
        responses={
            200: {
                "description": "It is stored, by this request or an earlier one.",
                "content": {"application/json": {"schema": RECEIPT_SCHEMA}},
            },
            **responses(202, *statuses),
        },
        openapi_extra=extra,
    )


def add_status(
    router: FastAPI | APIRouter,
    path: str,
    status: StatusEndpoint[Any],
    *,
    dependencies: Sequence[Any] = (),
    tags: Sequence[str | Enum] = (),
    name: str | None = None,
) -> None:
    """Let `router` answer with the state of an instance, at `/orders/{id}` or `/orders/{id:path}`, for ids with a slash."""

    async def show_status(id: str, request: Request) -> Response:
        try:
            return await status.respond(request)
        except Exception as error:
            return problem_of(error, asked=True).response()

    router.add_api_route(
        path,
        show_status,
        methods=["GET"],
        name=name or _name(path),
        dependencies=list(dependencies),
        tags=list(tags),
        response_model=None,
        response_class=Response,
        responses={
            200: {
                "description": "Its state. As `text/event-stream`: the events `status` and `end`.",
                "content": {"application/json": {"schema": STATUS_SCHEMA}, "text/event-stream": {}},
            },
            **responses(404, 503),
        },
    )


def _name(path: str) -> str:
    return "_".join(part for part in path.replace("{", "").replace("}", "").replace(":path", "").split("/") if part)
