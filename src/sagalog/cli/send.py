"""`sagalog send`: one event, as a client of the workers on its journal."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from typing import Any

import click
import msgspec

from ..decision.message import Outcome
from ..definition.codec import TypeRegistry, decode_given
from ..errors import CodecError, OutcomeTimeoutError
from ..runner import Receipt, SagaOutcome, SagaRunner
from ..runner.given import event_registry
from .durations import Seconds
from .targets import load_runner
from .text import clean

_PASSED_OVER = (Outcome.NO_INSTANCE, Outcome.IGNORED, Outcome.UNEXPECTED)


@click.command("send")
@click.argument("target", metavar="MODULE:RUNNER")
@click.argument("event", metavar="EVENT")
@click.option(
    "--json", "data", required=True, metavar="JSON|-", help="The event's fields as JSON; - reads standard input."
)
@click.option("--id", "message_id", help="The message id; sending the event again under it changes nothing.")
@click.option(
    "--journal",
    "url",
    envvar="SAGALOG_JOURNAL",
    help="Use this journal instead of the runner's, e.g. postgresql://host/orders.",
)
@click.option(
    "--wait", "seconds", type=Seconds(0.001), metavar="SECONDS", help="Wait until its sagas have ended, up to a day."
)
def send_(target: str, event: str, data: str, message_id: str | None, url: str | None, seconds: float | None) -> None:
    """Send one event, and print what became of it as one line of JSON.

    It is handled here and stored. Workers do the rest: `sagalog worker` carries out the commands. Exit code 1: the
    event was refused, no instance took it, or its saga did not end in time.

    \b
    Examples:
      sagalog send shop.sagas:runner OrderPlaced --json '{"order_id": "A-1"}' --id order-A-1
      sagalog send shop.sagas:runner OrderPlaced --json - --wait 10 < order.json
    """
    runner = load_runner(target)
    if url is None and runner.in_memory:
        raise click.UsageError("a journal in memory belongs to one process: choose another with --journal")
    runner = runner.using(journal=url, client=True)
    text = sys.stdin.buffer.read() if data == "-" else data.encode("utf-8", "surrogateescape")
    made = _event(event_registry(runner.sagas), event, text)
    sys.exit(asyncio.run(_send(runner, made, message_id, seconds)))


def _event(registry: TypeRegistry, name: str, data: bytes) -> Any:
    kind = registry.get(name)
    if kind is None:
        raise click.BadParameter(clean(f"no saga handles {name!r}; known: {', '.join(registry.names())}"))
    try:
        return decode_given(data, kind)
    except CodecError as error:
        raise click.BadParameter(clean(str(error)), param_hint="--json") from error


async def _send(runner: SagaRunner, event: Any, message_id: str | None, seconds: float | None) -> int:
    async with runner:
        receipt = await runner.handle(event, message_id=message_id)
        told: dict[str, Any] = {
            "message_id": receipt.message_id,
            "outcomes": {saga: outcome.value for saga, outcome in receipt.outcomes.items()},
        }
        late = False
        if seconds is not None:
            told["ended"] = {}
            for saga in runner.sagas:
                correlation_id = saga.correlation_id(event) if saga.name in receipt.outcomes else None
                if correlation_id is None or receipt.outcomes[saga.name] in _PASSED_OVER:
                    continue
                try:
                    outcome = await runner.outcome(saga, correlation_id, timeout=timedelta(seconds=seconds))
                except OutcomeTimeoutError as error:
                    click.echo(clean(str(error)), err=True)
                    late = True
                else:
                    told["ended"][saga.name] = _shown(outcome)
    click.echo(msgspec.json.encode(told))
    return 1 if late or _nobody_took(receipt) else 0


def _shown(outcome: SagaOutcome[Any]) -> dict[str, str]:
    return {"id": outcome.correlation_id, "status": outcome.status.value, "ended_at": outcome.ended_at.isoformat()}


def _nobody_took(receipt: Receipt) -> bool:
    return all(outcome in _PASSED_OVER for outcome in receipt.outcomes.values())
