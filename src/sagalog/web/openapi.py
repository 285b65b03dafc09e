"""Event types as OpenAPI shows them: JSON Schema with every reference written out, so that it can stand anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .problems import PROBLEM

_REF = "#/components/schemas/"
Schema = dict[str, Any]

PROBLEM_SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "error": {"type": "string", "description": "the class of the error"},
    },
    "required": ["type", "title", "status", "detail"],
}
RECEIPT_SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "message_id": {"type": "string"},
        "duplicate": {"type": "boolean", "description": "it was stored before"},
        "outcomes": {"type": "object", "additionalProperties": {"type": "string"}},
        "status_url": {"type": "string"},
        "ended": {
            "type": "object",
            "properties": {
                "status": {"type": "string"},
                "result": {},
                "ended_at": {"type": "string", "format": "date-time"},
            },
        },
    },
    "required": ["message_id", "duplicate", "outcomes"],
}
STATUS_SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "saga": {"type": "string"},
        "id": {"type": "string"},
        "status": {"type": "string"},
        "ended": {"type": "boolean"},
        "parked": {"type": "boolean", "description": "it waits for an operator"},
        "incarnation": {"type": "integer"},
        "version": {"type": "integer"},
        "started_at": {"type": "string", "format": "date-time"},
        "updated_at": {"type": "string", "format": "date-time"},
        "ended_at": {"type": "string", "format": "date-time"},
        "finished": {"type": "boolean", "description": "nothing can change it any more"},
        "result": {},
        "state": {},
    },
    "required": ["saga", "id", "status", "ended", "parked", "incarnation", "version"],
}
_SAID = {
    202: "It is stored, but has not ended yet: ask at the address in Location.",
    400: "The request cannot be read, or has no message id.",
    401: "Its signature is missing, wrong or too old.",
    403: "The token does not allow it.",
    404: "There is no such instance.",
    409: "The saga refuses the event in its present state.",
    413: "It is too large.",
    415: "It is not plain JSON.",
    422: "It is not such an event.",
    429: "Too much at once: send the same again after Retry-After.",
    503: "Send the same again, under the same id, after Retry-After.",
}


def schema_of(kind: type) -> Schema:
    """Return the JSON Schema of a message type: a dataclass, a Struct, attrs, or a pydantic model."""
    dump = getattr(kind, "model_json_schema", None)
    if callable(dump):
        schema: Schema = dump(ref_template=_REF + "{model}")
        parts = schema.pop("$defs", {})
        return _written_out(schema, parts, ())  # type: ignore[no-any-return]

    def foreign(part: type) -> Schema:
        return schema_of(part) if callable(getattr(part, "model_json_schema", None)) else {}

    (schema,), parts = msgspec.json.schema_components([kind], schema_hook=foreign, ref_template=_REF + "{name}")
    return _written_out(schema, parts, ())  # type: ignore[no-any-return]


def _written_out(value: Any, parts: Mapping[str, Any], above: tuple[str, ...]) -> Any:
    """Put in each reference what it stands for; one to a part that it stands in itself says anything."""
    if isinstance(value, list):
        return [_written_out(one, parts, above) for one in value]
    if not isinstance(value, dict):
        return value
    ref = value.get("$ref")
    if isinstance(ref, str) and ref.startswith(_REF):
        name = ref.removeprefix(_REF)
        if name in above or name not in parts:
            return {"title": name}
        return _written_out(parts[name], parts, (*above, name))
    # A discriminator's mapping names references, which are gone.
    left_out = "mapping" if "propertyName" in value else ""
    return {name: _written_out(one, parts, above) for name, one in value.items() if name != left_out}


def events_schema(types: Mapping[str, type], *, named: bool, type_at: str, data_at: str) -> Schema:
    """Return the schema of the body of a webhook."""
    shown = [_placed(schema_of(kind), name if named else "", type_at, data_at) for name, kind in types.items()]
    return shown[0] if len(shown) == 1 else {"oneOf": shown}


def _placed(schema: Schema, name: str, type_at: str, data_at: str) -> Schema:
    if data_at:
        for part in reversed(data_at.split(".")):
            schema = {"type": "object", "properties": {part: schema}, "required": [part]}
    if not name:
        return schema
    *folders, last = type_at.split(".")
    named: Schema = {"type": "object", "properties": {last: {"const": name}}, "required": [last]}
    for part in reversed(folders):
        named = {"type": "object", "properties": {part: named}, "required": [part]}
    return {"title": name, "allOf": [schema, named]}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the responses of these statuses: problems, and a receipt for 202."""
    return {
        status: {
            "description": _SAID[status],
            "content": (
                {"application/json": {"schema": RECEIPT_SCHEMA}}
                if status == 202
                else {PROBLEM: {"schema": PROBLEM_SCHEMA}}
            ),
        }
        for status in statuses
    }
