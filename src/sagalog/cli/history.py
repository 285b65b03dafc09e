"""`sagalog history ID`: what happened to one instance, step by step."""

from __future__ import annotations

import asyncio

import click
import msgspec

from ..inspect import SagaView, history
from .journals import journal_option, reading
from .show import the_one
from .text import line, moment


@click.command("history")
@click.argument("correlation_id", metavar="ID")
@journal_option
@click.option("--saga", help="Which saga, where several have this id.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a step.")
def history_(correlation_id: str, url: str, saga: str | None, as_json: bool) -> None:
    """Show every kept step of one instance: when, which messages it handled, what it sent, how it stood.

    \b
    Example:
      sagalog history 4711 --journal sqlite:///orders.db
    """
    asyncio.run(_history(correlation_id, url, saga, as_json))


async def _history(correlation_id: str, url: str, saga: str | None, as_json: bool) -> None:
    async with reading(url) as journal:
        view = await the_one(journal, correlation_id, saga)
        async for step in history(journal, view.saga, view.correlation_id):
            click.echo(msgspec.json.encode(_fields(step)) if as_json else _text(step))


def _sent(step: SagaView) -> list[tuple[str, str]]:
    if step.record is None:
        return []
    return [(c.id, c.command.type) for c in step.record.outbox if c.id.startswith(f"{step.version}/")]


def _fields(step: SagaView) -> dict[str, object]:
    record = step.record
    return {
        "step": step.version,
        "at": record.updated_at if record is not None else None,
        "handled": [{"id": handled.id, "type": handled.type} for handled in record.handled]
        if record is not None
        else [],
        "sent": [{"id": entry, "type": kind} for entry, kind in _sent(step)],
        "status": step.status,
        "state": record.state if record is not None else None,
        "writer": step.writer,
    }


def _text(step: SagaView) -> str:
    record = step.record
    if record is None:
        return f"{step.version:>4}  {step.status}: {line(step.unreadable)}"
    what = ", ".join(f"{line(handled.type)} ({line(handled.id)})" for handled in record.handled)
    sent = "".join(f"\n      sent {line(kind)} as {entry}" for entry, kind in _sent(step))
    return (
        f"{step.version:>4}  {moment(record.updated_at)}  {step.status}  {what or 'recorded what was accepted'}{sent}"
    )
