"""`sagalog pause`: let no command of a type leave any more, on any worker of a journal."""

from __future__ import annotations

import asyncio

import click

from ..decision.controls import Change, CommandPause, pausing, since
from ..journal.controls import change_controls, read_controls
from ..journal.protocol import server_now
from .journals import journal_option, reading
from .repairing import login
from .text import json_line, line


@click.command("pause")
@click.argument("command", metavar="[TYPE]", required=False)
@journal_option
@click.option("--note", default="", help="Why, for anyone who asks.")
@click.option("--by", default=login, show_default="your login name", help="Who pauses it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each type.")
def pause_(command: str | None, url: str, note: str, by: str, as_json: bool) -> None:
    """Stop the delivery of commands of a TYPE, on all workers of a journal, until `sagalog resume TYPE`.

    Workers stop within a second or so, and stay stopped after a restart. An attempt that has begun is not cut off.
    Sagas continue: their commands wait in the outbox, count no attempt, and can be dropped. Without TYPE: show what
    is paused.

    \b
    Examples:
      sagalog pause ShipOrder --note "the warehouse is closed"
      sagalog pause
    """
    asyncio.run(_listed(url, as_json) if command is None else _paused(url, command, note, by, as_json))


async def _listed(url: str, as_json: bool) -> None:
    async with reading(url) as journal:
        controls, _ = await read_controls(journal)
    for name, pause in sorted(controls.paused.items()):
        _tell(name, pause, as_json)
    if not (controls.paused or as_json):
        click.echo("nothing is paused")


async def _paused(url: str, command: str, note: str, by: str, as_json: bool) -> None:
    if "://" in command:  # it would be stored, with its password, and shown by `doctor`
        raise click.UsageError("a URL is no type of command; a journal's goes behind --journal")
    async with reading(url) as journal:
        now = await server_now(journal)
        change: Change = pausing(command, at=now, by=by, note=note)
        before, after = await change_controls(journal, change)
    if before == after and not as_json:
        click.echo("it was paused already; nothing was changed")
    _tell(command, after.paused[command], as_json)


def _tell(name: str, pause: CommandPause, as_json: bool) -> None:
    if as_json:
        click.echo(json_line({"command": name, "paused": True, "at": pause.at, "by": pause.by, "note": pause.note}))
    else:
        click.echo(line(f"commands {name} are paused {since(pause)}"))
