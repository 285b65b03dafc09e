"""Several CloudEvents in one request, `application/cloudevents-batch+json`: each is stored by itself.

What cannot be read or is not allowed refuses all of it, before anything is stored. Of what can be stored or not as things
stand, each event is answered for, and the status is that of what went wrong: if another attempt helps, the whole batch is
to be sent again, in which what was stored is a duplicate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.responses import Response

from ..definition.codec import NOT_JSON
from .problems import Problem, refuse
from .status import json_response

BATCH = "application/cloudevents-batch+json"
Told = dict[str, Any] | Problem

_parts = msgspec.json.Decoder(list[msgspec.Raw])


def is_batch(headers: Headers) -> bool:
    """Say whether the body holds several events."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == BATCH


def parts_of(body: bytes, most: int) -> list[bytes]:
    """Return the events of a batch in structured mode, not read yet. Raises ProblemError for what is none."""
    try:
        body.decode()
        found = _parts.decode(body)
    except NOT_JSON:
        raise refuse(400, "the body is not a list of CloudEvents in JSON; nothing was stored") from None
    if len(found) > most:
        raise refuse(413, f"a batch may have up to {most:,} events here; nothing was stored")
    return [bytes(one) for one in found]


def answered(told: Sequence[Told]) -> Response:
    """Return the answer to a batch: what became of each event, in the order in which they came."""
    wrong = [one for one in told if isinstance(one, Problem)]
    shown = [one.shown() if isinstance(one, Problem) else one for one in told]
    if not wrong:
        return json_response({"events": shown})
    again = [one for one in wrong if one.retry_seconds is not None]
    count = f"{len(wrong):,} of {len(told):,} events {'was' if len(wrong) == 1 else 'were'} not stored"
    if again:
        detail = f"{count}: send all of them again under the same ids, those that were stored are then duplicates"
        return Problem(
            again[0].status, detail, retry_seconds=max(one.retry_seconds or 0 for one in again), events=shown
        ).response()
    return Problem(wrong[0].status, f"{count}, and another attempt would not help", events=shown).response()
