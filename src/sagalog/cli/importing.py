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
from ..journal import Journal, PersistentRepr, open_journal
from ..operating.transfer import Brought, bring, read_export
from .journals import journal_option
from .progress import Counting
from .text import clean, json_line, line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Instance = list[PersistentRepr]  # the records of one
_AT_ONCE = 64
_BYTES_AT_ONCE = 16 * 1024 * 1024


@click.command("import")
@click.argument("file", metavar="FILE")
@journal_option
@click.option("--skip-existing", is_flag=True, help="Skip ids under which something else is stored.")
@click.option("--dry-run", is_flag=True, help="Check the file and the journal, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as one JSON object.")
def import_(file: str, url: str, skip_existing: bool, dry_run: bool, as_json: bool) -> None:
    """Import the instances of an export into a journal. Sequence numbers, command ids and message ids stay the same.

    Every instance is checked against its checksum before it is written, and read back afterwards. Nothing is
    overwritten: if something else is stored under an id, that is an error, unless you pass --skip-existing. If it is
    stopped in the middle, run it again, and it continues. Start the workers when it is done. Exit code 1 if anything
    was not imported.

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
    with _opened(file) as lines:  # before a journal is made for it
        journal = open_journal(url)
        try:
            await journal.open()
            with Counting("instances") as counting:
                try:
                    for group in _groups(read_export(lines)):
                        for instance, brought, taken in await _brought(journal, group, dry_run=dry_run):
                            counts[brought] += 1
                            records += len(instance) if brought is Brought.IMPORTED else 0
                            counting.update(counts.total())
                            if brought is Brought.DIFFERS and not skip_existing:
                                why = line(taken or "something else is stored there")
                                click.echo(f"{line(instance[0].persistence_id)}: {why}", err=True)
                except CodecError as error:
                    broken = str(error)
                except (OSError, EOFError, zlib.error) as error:  # a compressed file that is damaged or cut off
                    broken = f"it cannot be read to the end: {error}"
        finally:
            await journal.close()
    _print(counts, records, dry_run, as_json, broken)
    if broken:
        raise click.ClickException(
            clean(f"{file}: {broken}. What is counted above is {'right' if dry_run else 'imported'}.")
        )
    return 1 if counts[Brought.DIFFERS] and not skip_existing else 0


def _groups(instances: Iterable[Instance]) -> Iterator[list[Instance]]:
    """Yield instances, some at a time: those share commits. What was read before an error comes before that error."""
    group: dict[str, Instance] = {}
    weight = 0
    broken: Exception | None = None
    try:
        for instance in instances:
            name, size = instance[0].persistence_id, sum(len(record.payload) for record in instance)
            if name in group or len(group) == _AT_ONCE or weight + size > _BYTES_AT_ONCE:
                yield list(group.values())
                group, weight = {}, 0
            group[name] = instance
            weight += size
    except (CodecError, OSError, EOFError, zlib.error) as error:
        broken = error
    yield list(group.values())
    if broken is not None:
        raise broken


async def _brought(journal: Journal, group: list[Instance], *, dry_run: bool) -> list[tuple[Instance, Brought, str]]:
    """Bring a group at once; say of each what became of it, and which key is taken. Raises what the journal raises."""
    answers = await asyncio.gather(
        *(bring(journal, instance, dry_run=dry_run) for instance in group), return_exceptions=True
    )
    told: list[tuple[Instance, Brought, str]] = []
    for instance, answer in zip(group, answers, strict=True):
        if isinstance(answer, KeyTakenError):
            told.append((instance, Brought.DIFFERS, str(answer)))
        elif isinstance(answer, BaseException):
            raise answer
        else:
            told.append((instance, answer, ""))
    return told


def _print(counts: Counter[Brought], records: int, dry_run: bool, as_json: bool, broken: str) -> None:
    if as_json:
        fields: dict[str, Any] = {one.name.lower(): counts[one] for one in Brought}
        click.echo(json_line({**fields, "records": records, "dry_run": dry_run, "broken": broken}))
        return
    click.echo(
        f"{'dry run: ' if dry_run else ''}{counts[Brought.IMPORTED]:,} instances, {records:,} records "
        f"{'would be ' if dry_run else ''}imported; {counts[Brought.THERE]:,} there already, unchanged; "
        f"{counts[Brought.DIFFERS]:,} left alone, because something else is stored there"
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
