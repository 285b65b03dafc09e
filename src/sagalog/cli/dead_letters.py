"""`sagalog dead-letters`: look at the messages of brokers that nobody could take, mend them, and put them back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click
import msgspec

from ..brokers import DeadLetter, KeepsDeadLetters
from ..brokers.message import without_ours
from ..runner import SagaRunner
from ..runner.inside import subscriptions_of
from .targets import load_runner
from .text import clean, cut, json_line, line, moment

_SHOWN_BYTES = 65_536


@click.command("dead-letters")
@click.argument("target", metavar="MODULE:RUNNER")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--source", "name", help="Which source of the runner, if it has several.")
@click.option("--all", "everything", is_flag=True, help="All of them, instead of IDs.")
@click.option("--put-back", is_flag=True, help="Send them to their source again, under the same ids.")
@click.option("--drop", is_flag=True, help="Delete them for good.")
@click.option("--body", "path", metavar="FILE|-", help="With --put-back and one ID: a file with the corrected body.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="With --put-back: a corrected header.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each, with headers and body.")
def dead_letters_(
    target: str,
    ids: tuple[str, ...],
    name: str | None,
    everything: bool,
    put_back: bool,
    drop: bool,
    path: str | None,
    headers: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show messages that no saga could handle, with the reason, and put them back or drop them.

    Without IDs, they are listed, oldest first; one ID shows that message in full. A message that is put back goes
    behind those that wait in its source. Other readers of the same topic or stream also receive it again, under the
    same id.

    \b
    Examples:
      sagalog dead-letters shop.sagas:runner
      sagalog dead-letters shop.sagas:runner 17 > body.json
      sagalog dead-letters shop.sagas:runner 17 --put-back --body corrected.json
      sagalog dead-letters shop.sagas:runner --all --put-back
    """
    if put_back and drop:
        raise click.UsageError("--put-back or --drop, not both")
    if everything and ids:
        raise click.UsageError("IDs or --all, not both")
    if (put_back or drop) and not (ids or everything):
        raise click.UsageError("which ones? Give IDs, or --all")
    if path is not None and not (put_back and len(ids) == 1):
        raise click.UsageError("--body goes with --put-back and one ID")
    mended = _headers(headers)
    if mended and not put_back:
        raise click.UsageError("--header goes with --put-back")
    source = _source(load_runner(target), name)
    body = None if path is None else sys.stdin.buffer.read() if path == "-" else _read(path)
    if put_back:
        asyncio.run(_each(source, ids, lambda one: _put_back(source, one, body, mended), "put back"))
    elif drop:
        asyncio.run(_each(source, ids, source.drop, "dropped"))
    else:
        asyncio.run(_show(source, ids, as_json=as_json))


def _headers(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for one in given:
        name, separator, value = one.partition("=")
        if not separator or not name:
            raise click.UsageError(f"--header takes NAME=VALUE, not {clean(one)!r}")
        found[name] = value
    return found


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise click.UsageError(f"--body: {clean(path)} cannot be read: {error.strerror}") from error


def _source(runner: SagaRunner, name: str | None) -> Any:
    sources = {one.source.name: one.source for one in subscriptions_of(runner)}
    if not sources:
        raise click.UsageError("this runner reads no source")
    if name is None and len(sources) > 1:
        raise click.UsageError(f"which source? --source takes one of {', '.join(map(clean, sources))}")
    found = next(iter(sources.values())) if name is None else sources.get(name)
    if found is None:
        raise click.UsageError(f"no source {clean(str(name))!r}; the runner has {', '.join(map(clean, sources))}")
    if not isinstance(found, KeepsDeadLetters):
        raise click.UsageError(f"source {clean(found.name)} has no dead letters that can be shown")
    return found


async def _chosen(source: Any, ids: tuple[str, ...]) -> list[DeadLetter]:
    async with aclosing(source.dead_letters()) as letters:
        found = [one async for one in letters if not ids or one.id in ids]
    missing = set(ids) - {one.id for one in found}
    if missing:
        await source.close()
        raise click.ClickException(f"no dead letter {', '.join(sorted(map(clean, missing)))} in {clean(source.name)}")
    return found


async def _each(source: Any, ids: tuple[str, ...], call: Callable[[DeadLetter], Any], done: str) -> None:
    try:
        for one in await _chosen(source, ids):
            await call(one)
            click.echo(f"{clean(one.id)}: {done}")
    finally:
        await source.close()


async def _put_back(source: Any, one: DeadLetter, body: bytes | None, mended: dict[str, str]) -> None:
    await source.put_back(one, body=body, headers={**one.headers, **mended} if mended else None)


async def _show(source: Any, ids: tuple[str, ...], *, as_json: bool) -> None:
    try:
        letters = await _chosen(source, ids)
    finally:
        await source.close()
    for one in letters:
        if as_json:
            click.echo(json_line(_fields(one)))
        elif ids:
            _whole(one)
        else:
            click.echo(f"{clean(one.id)}  {moment(one.at)}  {line(one.position)}: {line(cut(one.reason, 200))}")
    if not letters and not as_json:
        click.echo(f"{clean(source.name)} has no dead letters", err=True)


def _fields(one: DeadLetter) -> dict[str, Any]:
    fields = msgspec.structs.asdict(one)
    fields["body"] = one.body.decode(errors="replace")
    fields["headers"] = {_told(name): _told(value) for name, value in without_ours(one.headers).items()}
    return {name: _told(value) if isinstance(value, str) else value for name, value in fields.items()}


def _told(text: str) -> str:
    r"""Return a text for JSON: what was bytes that are no text stands in it as \udc96."""
    return text.encode(errors="backslashreplace").decode()


def _whole(one: DeadLetter) -> None:
    """Print a letter: what is about it to standard error, its body alone to standard output."""
    click.echo(f"{line(one.position)}\nreason: {line(one.reason)}", err=True)
    for name, value in without_ours(one.headers).items():
        click.echo(f"{line(name)}: {line(value)}", err=True)
    if sys.stdout.isatty():
        click.echo(clean(one.body[:_SHOWN_BYTES].decode(errors="replace")))
    else:
        sys.stdout.buffer.write(one.body)
        sys.stdout.buffer.flush()
