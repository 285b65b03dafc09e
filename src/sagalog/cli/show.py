"""`sagalog show ID`: everything about one instance."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

import click
import msgspec

from ..decision.inbox import count_of
from ..decision.record import SagaRecord
from ..definition.results import result_type
from ..journal import Journal
from ..journal.protocol import server_now
from ..operating.family import Family, Relative, family
from ..operating.inspect import SagaView, find
from ..operating.outbox import Pending, pending
from ..text import plural
from .durations import spoken
from .journals import journal_option, reading
from .list import summary
from .targets import code_option, seen_by
from .text import clean, json_line, line, moment

_MAX_STATE = 4_000
_MAX_SHOWN = 20
_MEND = (
    "newer code may be able to read it; `sagalog edit --record` corrects it, `sagalog drop` ends it; both save "
    "the old record in a file"
)
_MEND_STATE = (
    "newer code may be able to read it; `sagalog edit` corrects it, `sagalog drop` removes a command or a timer"
)


@click.command("show")
@click.argument("correlation_id", metavar="ID")
@journal_option
@click.option("--saga", help="Which saga, if several have this id.")
@code_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show_(correlation_id: str, url: str, saga: str | None, code: str | None, as_json: bool) -> None:
    """Show one instance: state, timers, outbox, undo stack, held events, repairs.

    \b
    Examples:
      sagalog show 4711 --journal sqlite:///orders.db
      sagalog show 4711 --saga order --json | jq .record.state
    """
    asyncio.run(_show(correlation_id, url, saga, seen_by(code), as_json))


async def the_one(journal: Journal, correlation_id: str, saga: str | None) -> SagaView:
    """Return the instance that is meant. Raises ClickException where there is none, or one in each of several sagas."""
    found = await find(journal, correlation_id, saga)
    if not found:
        where = f"of saga {saga!r}" if saga else "of any saga"
        raise click.ClickException(
            clean(f"no instance {where} has the id {correlation_id!r}: `sagalog list --all` shows those that are there")
        )
    if len(found) > 1:
        names = ", ".join(view.saga for view in found)
        raise click.ClickException(
            clean(f"several sagas have the id {correlation_id!r}: choose one with --saga ({names})")
        )
    return found[0]


async def _show(
    correlation_id: str, url: str, saga: str | None, seen: Callable[[SagaView], SagaView], as_json: bool
) -> None:
    async with reading(url) as journal:
        view = seen(await the_one(journal, correlation_id, saga))
        now = await server_now(journal)
        waiting = await pending(journal, view)
        relatives = await family(journal, view)
    if as_json:
        told = [{"id": one.command.id, "since": one.since, "held_until": one.held_until} for one in waiting]
        click.echo(
            json_line(
                {
                    **summary(view, waiting[0] if waiting else None),
                    "pending": told,
                    **_family_fields(relatives),
                    "record": view.record,
                }
            )
        )
        return
    click.echo(f"saga    {line(view.saga)}\nid      {line(view.correlation_id)}\nstatus  {view.status}")
    if view.unreadable:
        click.echo(f"why     {line(view.unreadable)}")
        if view.version:  # of a row that the journal cannot give back, no command can read or replace anything
            click.echo(f"        {_MEND if view.record is None else _MEND_STATE}")
    if view.record is None:
        if not view.unreadable:
            click.echo("why     only its message ids are remembered")
        return
    for text in _lines(view, view.record, waiting, relatives, now):
        click.echo(text)


def _lines(view: SagaView, record: SagaRecord, waiting: list[Pending], relatives: Family, now: datetime) -> list[str]:
    out = []
    if record.parked:
        out.append("why     " + clean(record.parked).replace("\n", "\n        "))
    out.append(f"steps   {view.version}, since {moment(record.started_at)}, last {moment(record.updated_at)} UTC")
    if record.incarnation > 1:
        out.append(f"life    {record.incarnation}: it was finished before and started again")
    if record.phase:
        out.append(f"phase   {line(record.phase)}")
    state = "(not JSON)" if record.state_is_base64 else msgspec.json.format(bytes(record.state)).decode()
    out.append("state   " + clean(state[:_MAX_STATE]).replace("\n", "\n        "))
    if len(state) > _MAX_STATE:
        out.append(f"        ... cut at {_MAX_STATE:,} of {len(state):,} characters: --json shows all")
    if record.index:
        found = (field if text is None else f"{field}={text}" for field, text in record.index.items())
        out.append(f"index   {', '.join(map(line, found))}")
    for name, values in record.keys.items():
        out.append(f"key     {line(name)}: {line(', '.join(values))}")
    for name, values in record.unique_keys.items():
        out.append(f"key     {line(name)}: {line(', '.join(values))} (unique)")
    if record.result is not None:
        result = msgspec.json.format(bytes(record.result.data)).decode()
        text = f"{result_type(record.result)}: {result[:_MAX_STATE]}"
        out.append("result  " + clean(text).replace("\n", "\n        "))
        if len(result) > _MAX_STATE:
            out.append(f"        ... cut at {_MAX_STATE:,} of {len(result):,} characters: --json shows all")
    for name, timer in sorted(record.timers.items(), key=lambda item: item[1].due_at)[:_MAX_SHOWN]:
        left = timer.due_at - now
        when = "overdue" if left.total_seconds() < 0 else f"in {str(left).split('.')[0]}"
        again = f", {line(str(timer.rule))}" if timer.rule is not None else ""
        told = f"{line(timer.event.type)} at {moment(timer.due_at)} UTC ({when}), {line(timer.id)}{again}"
        out.append(f"timer   {line(record.timer_title(name))}: {told}")
    out.extend(_more("timer", len(record.timers)))
    for name, stage in record.activities.items():
        why = f": {line(stage.why)}" if stage.why else ""
        called = f" ({line(stage.entry)})" if stage.entry else ""
        out.append(f"does    {line(name)} {stage.status}{called}{why}")
    for name, one in [(name, one) for name, one in record.gathers.items() if not one.over][:_MAX_SHOWN]:
        refused = f", {len(one.told().refused):,} of them refused" if one.refused else ""
        out.append(f"gather  {line(name)}: {one.come:,} of {one.total:,} have come{refused}; {one.open:,} under way")
    for name, joined in list(record.joins.items())[:_MAX_SHOWN]:
        waits = f"waits for {line(', '.join(joined.waits))}" if joined.waits else "has all"
        out.append(f"join    {line(name)}: {'has run' if joined.done else waits}")
    out.extend(_family_lines(relatives))
    out.extend(_pending(record, one, now) for one in waiting[:_MAX_SHOWN])
    out.extend(_more("outbox", len(waiting)))
    late = [request for request in record.requests if request.overdue]
    out.extend(
        f"late    {line(one.command)} ({line(one.id)}) was not answered in time: {one.late} a late answer"
        for one in late[:_MAX_SHOWN]
    )
    out.extend(_more("late", len(late)))
    newest = record.undo[: -_MAX_SHOWN - 1 : -1]
    out.extend(f"undo    {line(undo.command.type)}, of command {line(undo.of)}" for undo in newest)
    out.extend(_more("undo", len(record.undo)))
    out.extend(f"held    {line(held.event.type)}, message {line(held.id)}" for held in record.held[:_MAX_SHOWN])
    out.extend(_more("held", len(record.held)))
    out.extend(f"kept    {line(kept.event.type)}, message {line(kept.id)}" for kept in record.kept[:_MAX_SHOWN])
    out.extend(_more("kept", len(record.kept)))
    numbers = sorted(record.sequences.items())
    out.extend(f"number  {line(key)}: {number:,} comes next" for key, number in numbers[:_MAX_SHOWN])
    out.extend(_more("number", len(numbers)))
    if record.owes_waking:
        out.append("        a running worker handles soon what is kept and now expected")
    if record.owes_replay:
        out.append("        a running worker replays soon what is held")
    consumed = count_of(record.inbox)
    out.append(f"inbox   {plural(consumed, 'message')} consumed")
    for audit in record.audit:
        who = f" by {line(audit.by)}" if audit.by else ""
        note = f": {line(audit.note)}" if audit.note else ""
        out.append(f"repair  {moment(audit.at)} {line(audit.action)}{who}{note}")
    return out


def _family_lines(relatives: Family) -> list[str]:
    out = [f"parent  {_relative(relatives.parent)}"] if relatives.parent is not None else []
    out.extend(f"child   {_relative(one)}" for one in relatives.children)
    out.extend([f"family  {relatives.summary}"] if relatives.summary else [])
    return out


def _relative(one: Relative) -> str:
    return f"{line(one.saga)} {line(one.id)} ({line(one.entry)}): {one.status}{f', {line(one.why)}' if one.why else ''}"


def _family_fields(relatives: Family) -> dict[str, object]:
    if relatives == Family():
        return {}
    return {"family": relatives}


def _more(what: str, count: int) -> list[str]:
    return [f"{what:<7} ... {count - _MAX_SHOWN:,} more: --json shows all"] if count > _MAX_SHOWN else []


def _pending(record: SagaRecord, one: Pending, now: datetime) -> str:
    undo = ", an undo" if one.command.undo else ""
    stuck = ", stuck" if one.command.id == record.stuck else ""
    held = f", a worker holds it until {moment(one.held_until)} UTC" if one.held_until and one.held_until > now else ""
    least = "" if one.exact else "at least "
    age = f"{least}{spoken(now - one.since)}"
    name = f"{line(one.command.id)} {line(one.command.title)}"
    return f"outbox  {name}: not accepted yet, {age} old{undo}{stuck}{held}"
