"""`sagalog diagram MODULE:SAGA`: draw what a saga reacts to, and what it may do then."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from ..diagram import mermaid, outline, state_diagram, svg
from .files import refuse_database
from .targets import load_saga
from .text import clean, json_line


@click.command("diagram")
@click.argument("target", metavar="MODULE:SAGA")
@click.option("--svg", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write a picture to this file.")
@click.option("--phases", is_flag=True, help="Draw its phases, as a Mermaid state diagram.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found, as one JSON object.")
def diagram_(target: str, file: Path | None, phases: bool, as_json: bool) -> None:
    """Draw a saga, with its events, commands, timers, compensations and ends, as Mermaid text or as a picture.

    It is read from the class and from the source of its handlers; only the import runs. A command that a handler gets
    from elsewhere is shown as "a command".

    \b
    Examples:
      sagalog diagram shop.sagas:OrderSaga
      sagalog diagram shop.sagas:OrderSaga --phases
      sagalog diagram shop/sagas.py:OrderSaga --svg order.svg
    """
    found = outline(load_saga(target))
    if found.unread:
        click.echo(f"no source code was found for {', '.join(found.unread)}: what they do is not shown", err=True)
    if file is not None:
        refuse_database(file)
        try:
            file.write_text(svg(found), encoding="utf-8")
        except OSError as error:
            raise click.ClickException(clean(f"{file} cannot be written: {error.strerror}")) from error
        click.echo(f"{file} written", err=True)
    elif phases:
        if not found.phases:
            raise click.ClickException(clean(f"saga {found.saga} has no phases"))
        click.echo(state_diagram(found))
    elif as_json:
        click.echo(json_line(asdict(found)))
    else:
        click.echo(mermaid(found))
