"""`sagalog export`: write what a journal holds to a file of JSON lines."""

from __future__ import annotations

import asyncio
import gzip
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import click

from ..journal.protocol import server_now
from ..operating.transfer import Totals, export_lines
from .files import refuse_database
from .journals import journal_option, reading
from .progress import Counting
from .selection import not_empty
from .text import clean, json_line


@click.command("export")
@click.argument("file", metavar="FILE")
@journal_option
@click.option("--saga", callback=not_empty, help="Only this saga.")
@click.option("--latest", is_flag=True, help="Only the newest record of each instance, no history.")
@click.option("--force", is_flag=True, help="Overwrite an existing file, but no database.")
@click.option("--json", "as_json", is_flag=True, help="Print the totals as one JSON object.")
def export_(file: str, url: str, saga: str | None, latest: bool, force: bool, as_json: bool) -> None:
    """Write all instances, including finished ones, with their history, to FILE (.gz: compressed, -: standard
    output).

    One JSON object a line, with checksums; `sagalog import` reads it into any journal. It contains the payloads:
    keep it as safe as the journal. Stop the workers first: an instance that changes meanwhile is exported as it is at
    that moment.

    \b
    Examples:
      sagalog export orders.jsonl.gz --journal sqlite:///orders.db
      sagalog export - --saga order --latest | jq .
    """
    asyncio.run(_export(file, url, saga, latest, force, as_json))


async def _export(file: str, url: str, saga: str | None, latest: bool, force: bool, as_json: bool) -> None:
    totals = Totals()
    path = Path(file)
    if file != "-":
        refuse_database(path)
        if path.exists() and not force:
            raise click.ClickException(clean(f"{file} exists already; --force overwrites it"))
    # A device or a pipe is written to. Replacing it, as a file is replaced, would take it away from the whole machine.
    part = None if file == "-" or (path.exists() and not path.is_file()) else _beside(path)
    try:
        async with reading(url) as journal:
            at = await server_now(journal)
            with Counting("instances exported") as counting, _opened(file, part) as out:
                async for text in export_lines(journal, saga, latest=latest, at=at, totals=totals):
                    out.write(text + b"\n")
                    counting.update(totals.instances)
    except BaseException:
        if part is not None:
            part.unlink(missing_ok=True)  # payloads are in it, and it is not whole
        raise
    if part is not None:
        part.replace(path.resolve())
    if as_json:
        click.echo(json_line(totals), err=file == "-")
    else:
        click.echo(f"{totals.instances:,} instances, {totals.records:,} records exported", err=file == "-")


def _beside(path: Path) -> Path:
    """Return where to write first, so that a file of that name is always whole. A link stays one: its target is meant."""
    target = path.resolve()
    return target.with_name(f"{target.name}.part")


def _private(part: Path) -> int:
    """Return a new file that only its owner may read: payloads are in it."""
    part.unlink(missing_ok=True)  # one that was left keeps its rights, and may be a link
    return os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


@contextmanager
def _opened(file: str, part: Path | None) -> Iterator[IO[bytes]]:
    if file == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()  # what cannot be written is told before the totals are
        return
    try:
        with ExitStack() as stack:
            opened = os.open(file, os.O_WRONLY) if part is None else _private(part)
            plain = stack.enter_context(os.fdopen(opened, "wb"))
            out: Any = stack.enter_context(gzip.GzipFile(fileobj=plain, mode="wb")) if file.endswith(".gz") else plain
            yield out
            if out is not plain:
                out.close()
            plain.flush()
            if part is not None:
                os.fsync(plain.fileno())  # after an export, the journal may be deleted
    except OSError as error:
        raise click.ClickException(clean(f"{file} cannot be written: {error.strerror}")) from error
