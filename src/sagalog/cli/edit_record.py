"""`sagalog edit --record`: write the whole record of one instance by hand, also where it cannot be read any more."""

from __future__ import annotations

import os
import sys

import click
import msgspec

from ..decision.entries import Status
from ..decision.record import FORMAT, SagaRecord, decode_record, encode_record
from ..definition.codec import NOT_JSON
from ..errors import CodecError, ConflictError, KeyTakenError
from ..journal import Journal
from ..journal.protocol import server_now
from ..operating.inspect import SagaView
from ..operating.mend import Replaced, StoredRecord, audited, check_keys, newest_readable, replace, stored
from ..operating.readable import Code
from .keeping import keep
from .repairing import Wish
from .text import clean, json_line, line


async def edit_record(journal: Journal, code: Code, view: SagaView, given: bytes | None, wish: Wish) -> None:
    """Let the whole record be edited, check that this code can go on with it, and store it; keep the old one in a file."""
    old = await stored(journal, view.saga, view.correlation_id)
    if given is not None:
        record, problem = _read(code, old, given)
        if record is None:
            raise click.ClickException(f"{clean(problem)}; nothing was saved")
    else:
        record = _edited(code, old, await _proposed(journal, old))
    if record is None:
        click.echo("unchanged; nothing was saved")
        return
    new = await audited(journal, record, note=wish.note, by=wish.by)
    await confirm_and_replace(journal, old, new, wish, f"Save it over version {old.view.version}?")


async def confirm_and_replace(journal: Journal, old: StoredRecord, new: Replaced, wish: Wish, question: str) -> None:
    """Show what a new record means, ask, keep the old one in a file, and store the new one."""
    if not wish.as_json:
        click.echo(f"{line(old.view.saga)} {line(old.view.correlation_id)}")
        for effect in new.effects:
            click.echo(f"  {line(effect)}")
    try:
        await check_keys(journal, old, new)
    except KeyTakenError as error:
        raise _taken(error) from None
    if not wish.dry_run and not wish.yes:
        if not sys.stdin.isatty():
            raise click.UsageError(
                "there is no terminal to ask for confirmation: add --yes to save, or --dry-run to look"
            )
        click.confirm(question, abort=True, err=True)
    version, kept = old.view.version + 1, ""
    if not wish.dry_run:
        kept = keep(old.payload, old.view.saga, old.view.version)
        try:
            version = await replace(journal, old, new, retention=wish.retention)
        except ConflictError:
            os.unlink(kept)
            raise click.ClickException(
                f"{line(old.view.saga)} {line(old.view.correlation_id)} has moved on since version {old.view.version} "
                "was shown; nothing was saved"
            ) from None
        except KeyTakenError as error:
            os.unlink(kept)
            raise _taken(error) from None
    if wish.as_json:
        fields = {
            "saga": old.view.saga,
            "id": old.view.correlation_id,
            "version": version,
            "effects": new.effects,
            "kept_in": kept or None,
        }
        click.echo(json_line(fields))
    elif wish.dry_run:
        click.echo("dry run: nothing was changed")
    else:
        click.echo(f"saved as version {version}; the old record is kept in {kept}")


def _taken(error: KeyTakenError) -> click.ClickException:
    return click.ClickException(f"{clean(str(error))} Edit the instance that has it first.")


async def _proposed(journal: Journal, old: StoredRecord) -> bytes:
    """Return what to begin with: the record itself if it is JSON, else the newest step that can be read, else a new one."""
    if old.view.lost and old.view.record is not None:
        click.echo(f"{old.view.lost:,} of its messages are lost: the others are shown", err=True)
        return msgspec.json.format(encode_record(old.view.record), indent=2)
    try:
        return msgspec.json.format(old.payload, indent=2)
    except NOT_JSON:
        kept = await newest_readable(journal, old.view)
    if kept is not None and kept.record is not None:
        click.echo(f"the record is not JSON: step {kept.version} is shown, the newest that can be read", err=True)
        return msgspec.json.format(encode_record(kept.record), indent=2)
    click.echo("the record is not JSON, and no step of it can be read: an empty one is shown", err=True)
    now = await server_now(journal)
    return msgspec.json.format(
        encode_record(SagaRecord(FORMAT, Status.RUNNING, msgspec.Raw(b"{}"), started_at=now, updated_at=now)), indent=2
    )


def _edited(code: Code, old: StoredRecord, shown: bytes) -> SagaRecord | None:
    """Let the text be edited until this code can go on with it, or the operator gives up. None: it is as it was."""
    text = shown.decode()
    while True:
        changed = click.edit(text, extension=".json")
        if changed is None:
            return None
        record, problem = _read(code, old, changed.encode())
        if record is not None:
            before = None if old.view.lost else old.view.record
            return None if before is not None and encode_record(record) == encode_record(before) else record
        click.echo(f"{clean(problem)}; nothing was saved", err=True)
        click.confirm("Edit again?", default=True, abort=True, err=True)
        text = changed


def _read(code: Code, old: StoredRecord, text: bytes) -> tuple[SagaRecord | None, str]:
    """Return the record, or None and why this code could not go on with it."""
    try:
        record = decode_record(msgspec.json.format(text, indent=-1))
    except NOT_JSON as error:
        return None, f"it is not JSON: {error}"
    except CodecError as error:
        return None, str(error)
    if record.in_pages:
        return None, "`held_in` and `kept_in` name other steps: give the messages themselves, in `held` and `kept`"
    view = msgspec.structs.replace(old.view, record=record, unreadable="", finished=False, lost=0)
    problems = [f"{one.text} ({one.entry})" if one.entry else one.text for one in code.reasons(view)]
    return (None, "; ".join(problems[:3])) if problems else (record, "")
