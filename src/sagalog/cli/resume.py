"""`sagalog resume`: let commands of a type leave again that were paused."""

from __future__ import annotations

import asyncio

import click

from ..decision.controls import resuming
from ..journal.controls import change_controls
from .journals import journal_option, reading
from .text import json_line, line


@click.command("resume")
@click.argument("command", metavar="TYPE")
@journal_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def resume_(command: str, url: str, as_json: bool) -> None:
    """Resume the delivery of commands of a TYPE after `sagalog pause`.

    Waiting commands leave within a second or so, under their ids; those of a worker that has died, within a minute.

    \b
    Example:
      sagalog resume ShipOrder
    """
    asyncio.run(_resumed(url, command, as_json))


async def _resumed(url: str, command: str, as_json: bool) -> None:
    async with reading(url) as journal:
        before, after = await change_controls(journal, resuming(command))
    changed = before != after
    if as_json:
        click.echo(json_line({"command": command, "paused": False, "changed": changed}))
    elif changed:
        click.echo(line(f"commands {command} leave again"))
    else:
        known = f"; paused are {', '.join(sorted(after.paused))}" if after.paused else ""
        click.echo(line(f"commands {command} were not paused{known}; nothing was changed"))
