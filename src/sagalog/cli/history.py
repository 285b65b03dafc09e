"""`sagalog history ID`: what happened to one instance, step by step."""

from __future__ import annotations

import asyncio

import click

from ..decision.entries import Handled
from ..decision.ids import id_within, persistence_id, refused_entry
from ..definition.results import result_type
from ..operating.inspect import ABSENT, SagaView
from ..operating.steps import Step, steps
from .journals import journal_option, reading
from .show import the_one
from .text import change_lines, cut, json_line, line, moment


@click.command("history")
@click.argument("correlation_id", metavar="ID")
@journal_option
@click.option("--saga", help="Which saga, if several have this id.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a step.")
def history_(correlation_id: str, url: str, saga: str | None, as_json: bool) -> None:
    """Show every kept step of one instance: when, what it handled, what changed in the state, what it sent, who wrote it.

    A repair is shown with who made it. Long values and long lists of changes are cut; --json has all of them.

    \b
    Examples:
      sagalog history 4711 --journal sqlite:///orders.db
      sagalog history 4711 --json | jq .changes
    """
    asyncio.run(_history(correlation_id, url, saga, as_json))


async def _history(correlation_id: str, url: str, saga: str | None, as_json: bool) -> None:
    async with reading(url) as journal:
        view = await the_one(journal, correlation_id, saga)
        parked, first = "", True
        async for step in steps(journal, view.saga, view.correlation_id):
            if as_json:
                click.echo(json_line(_fields(step)))
            else:
                if first and step.view.version > 1:
                    click.echo(f"      steps 1 to {step.view.version - 1:,} are not kept")
                for text in _lines(step, parked):
                    click.echo(text)
            parked, first = step.view.why, False


def _fields(step: Step) -> dict[str, object]:
    view, record = step.view, step.view.record
    return {
        "step": view.version,
        "at": record.updated_at if record is not None else None,
        "handled": [
            {
                "id": handled.id,
                "type": handled.type,
                **({"late": True} if handled.late else {}),
                **({"how": handled.how} if handled.how else {}),
                **({"by": handled.by} if handled.by else {}),
            }
            for handled in record.handled
        ]
        if record is not None
        else [],
        "held": [{"id": held.id, "type": held.event.type} for held in step.held],
        **({"kept": [{"id": kept.id, "type": kept.event.type} for kept in step.kept]} if step.kept else {}),
        **({"phase": step.phase} if step.phase else {}),
        "accepted": [{"id": one.id, "type": one.title} for one in step.accepted],
        "lease_until": step.lease,
        "begun_alone": step.alone,
        "gathered": step.gathered,
        "joined": step.joined,
        **({"activities": step.activities} if step.activities else {}),
        "passed_over": step.passed_over,
        "compared_with": step.before,
        "sent": [{"id": entry, "type": kind} for entry, kind in view.sent],
        "status": view.status,
        "why": view.why,
        "state": record.state if record is not None else None,
        "result": step.result,
        "index": record.index if record is not None else None,
        **({"keys_added": step.added} if step.added else {}),
        **({"keys_removed": step.removed} if step.removed else {}),
        "changes": [
            {
                "path": change.path,
                **({} if change.before is ABSENT else {"before": change.before}),
                **({} if change.after is ABSENT else {"after": change.after}),
            }
            for change in step.changes
        ],
        "repairs": step.repairs,
        "writer": view.writer,
    }


def _lines(step: Step, parked: str) -> list[str]:
    view, record = step.view, step.view.record
    if record is None:
        return [f"{view.version:>4}  {view.status}: {line(view.unreadable)}"]
    what = ", ".join(_what(step))
    lines = [f"{view.version:>4}  {moment(record.updated_at)}  {view.status}  {what}  {_worker(view.writer)}".rstrip()]
    for repair in step.repairs:
        who = f" by {line(repair.by)}" if repair.by else ""
        lines.append(f"      {line(repair.action)}{who}{': ' if repair.note else ''}{line(repair.note)}")
    if record.parked and record.parked != parked:
        lines.append(f"      parked: {line(record.parked)}")
    lines.extend(f"      activity {line(name)} {line(stage)}" for name, stage in step.activities.items())
    if step.phase:
        lines.append(f"      enters {line(step.phase)}")
    lines.extend(f"      takes the key {line(name)}={line(text)}" for name, text in step.added)
    lines.extend(f"      gives up the key {line(name)}={line(text)}" for name, text in step.removed)
    lines.extend(f"      {line(text)}" for text in change_lines(step.changes, most=20))
    if step.result is not None:
        lines.append(f"      completed with {result_type(step.result)}: {cut(json_line(step.result.data), 200)}")
    lines.extend(f"      accepted {line(one.title)} ({line(one.id)})" for one in step.accepted)
    lines.extend(f"      sent {line(kind)} as {line(entry)}" for entry, kind in view.sent)
    return lines


def _what(step: Step) -> list[str]:
    record = step.view.record
    handled = [] if record is None else [_handled(step.view, one) for one in record.handled]
    held = [f"held {line(one.event.type)} ({line(one.id)}){_sent(one.by)}" for one in step.held]
    missed = [f"skipped what timer {line(name)} missed" for name in step.passed_over]
    kept = [f"keeps {line(one.event.type)} ({line(one.id)}){_sent(one.by)}" for one in step.kept]
    handled += [f"gather {line(name)} came to its end" for name in step.gathered]
    handled += [f"ran {line(name)}, now that all have come" for name in step.joined]
    told = [*handled, *held, *kept, *missed, *(["repair"] if step.repairs else [])]
    if told:
        return told
    if step.accepted:
        return ["recorded what was accepted"]
    if step.lease is not None:
        return [f"prolonged its worker's lease until {moment(step.lease)}"]
    if step.alone:
        return [f"began {line(step.alone)} by itself: workers that had it died"]
    if step.indexed:
        return ["was put into the index"]
    if step.before is None and step.view.version > 1:
        return ["what it did is unknown: the step before is not kept"]
    return [
        "parked" if record is not None and record.parked and step.says_nothing else "changed nothing that is stored"
    ]


def _handled(view: SagaView, handled: Handled) -> str:
    own = persistence_id(view.saga, view.correlation_id)
    if handled.late:
        return f"ignored {line(handled.type)}, which came too late ({line(id_within(own, handled.id))})"
    if handled.how == "gap":
        return f"{line(handled.type)} did not come"
    if handled.how == "ignored":
        return f"ignored {line(handled.type)}, which its phase does not expect ({line(id_within(own, handled.id))})"
    if handled.how == "passed":
        return f"{line(handled.type)}, which counts although no handler takes it ({line(id_within(own, handled.id))})"
    if (entry := refused_entry(own, handled.id)) is not None:
        return f"{line(handled.type)} was refused ({line(entry)})"
    kept = ", which was kept" if handled.how == "kept" else ""
    return f"{line(handled.type)}{kept} ({line(id_within(own, handled.id))}){_sent(handled.by)}"


def _sent(by: str) -> str:
    return f", sent by {line(by)}" if by else ""


def _worker(writer: str) -> str:
    """Return the beginning of a writer's uuid: enough to tell workers apart."""
    return f"[{line(writer.removeprefix('saga-'))[:8]}]" if writer else ""
