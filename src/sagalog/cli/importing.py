"""`sagalog import`: bring exported instances into a journal."""

from __future__ import annotations

import asyncio
import gzip
import sys
import zlib
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from ..errors import CodecError, KeyTakenError
from ..journal import open_journal
from ..operating.transfer import Brought, bring, read_export
from .journals import journal_option
from .progress import Counting
from .text import clean, json_line, line

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.command("import")
@click.argument("file", metavar="FILE")
@journal_option
@click.option("--skip-existing", is_flag=True, help="Pass over ids under which something else is stored.")
@click.option("--dry-run", is_flag=True, help="Check the file and the journal, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="The counts as one JSON object.")
def import_(file: str, url: str, skip_existing: bool, dry_run: bool, as_json: bool) -> None:
    """Bring the instances of an export into a journal: sequence numbers, command ids and message ids stay as they are.

    Every instance is checked against its checksum before, and read back after it is written. Nothing is overwritten: where
    something else is stored under an id, that is an error, unless --skip-existing. Stopped in the middle, it goes on where
    it was when it is run again. Start workers when it is done. Exit code 1 if anything was not imported.

    \b
    Examples:
      sagalog import orders.jsonl.gz --journal 'postgresql://shop@db/shop'
      sagalog import orders.jsonl.gz --journal sqlite:///new.db --dry-run
    """
    sys.exit(asyncio.run(_import(file, url, skip_existing, dry_run, as_json)))


async def _import(file: str, url: str, skip_existing: bool, dry_run: bool, as_json: bool) -> int:
    if dry_run and url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///").partition("?")[0]).exists():
        url = "memory://"  # opening the file would make it
    counts: Counter[Brought] = Counter()
    records = 0
    broken = ""
    journal = open_journal(url)
    try:
        await journal.open()
        with Counting("instances") as counting, _opened(file) as lines:
            try:
                for instance in read_export(lines):
                    taken = ""
                    try:
                        brought = await bring(journal, instance, dry_run=dry_run)
                    except KeyTakenError as error:
                        brought, taken = Brought.DIFFERS, str(error)
                    counts[brought] += 1
                    records += len(instance) if brought is Brought.IMPORTED else 0
                    counting.update(counts.total())
                    if brought is Brought.DIFFERS and not skip_existing:
                        click.echo(
                            f"{line(instance[0].persistence_id)}: {line(taken or 'something else is stored there')}",
                            err=True,
                        )
            except CodecError as error:
                broken = str(error)
            except (OSError, EOFError, zlib.error) as error:  # a compressed file that is damaged or cut off
                broken = f"it cannot be read to its end: {error}"
    finally:
        await journal.close()
    _print(counts, records, dry_run, as_json, broken)
    if broken:
        raise click.ClickException(
            clean(f"{file}: {broken}. What is counted above is {'right' if dry_run else 'imported'}.")
        )
    return 1 if counts[Brought.DIFFERS] and not skip_existing else 0


def _print(counts: Counter[Brought], records: int, dry_run: bool, as_json: bool, broken: str) -> None:
    if as_json:
        fields: dict[str, Any] = {one.name.lower(): counts[one] for one in Brought}
        click.echo(json_line({**fields, "records": records, "dry_run": dry_run, "broken": broken}))
        return
    click.echo(
        f"{'dry run: ' if dry_run else ''}{counts[Brought.IMPORTED]:,} instances, {records:,} records "
        f"{'would be ' if dry_run else ''}imported; {counts[Brought.THERE]:,} there already, the same; "
        f"{counts[Brought.DIFFERS]:,} not touched, where something else is stored"
    )


@contextmanager
def _opened(file: str) -> Iterator[IO[bytes]]:
    if file == "-":
        yield sys.stdin.buffer
        return
    with ExitStack() as stack:
        try:
            plain = stack.enter_context(Path(file).open("rb"))
        except OSError as error:
            raise click.ClickException(clean(f"{file} cannot be read: {error.strerror}")) from error
        lines: Any = gzip.GzipFile(fileobj=plain) if file.endswith(".gz") else plain
        yield lines
