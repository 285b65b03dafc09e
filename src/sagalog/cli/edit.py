"""`sagalog edit`: change the state of one instance by hand, checked by the saga's own code."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import Any

import click
import msgspec

from ..decision.repair import edit
from ..decision.state import decode_state
from ..definition.codec import NOT_JSON
from ..definition.saga import Saga
from ..errors import CodecError, ConflictError
from ..operating.apply import Applied, apply
from ..operating.inspect import SagaView, state_changes
from ..operating.readable import Code
from ..runner.inside import has_handler
from .edit_record import edit_record
from .journals import reading
from .keeping import keep
from .repairing import Wish, repair_options
from .show import the_one
from .targets import load_runner
from .text import change_lines, clean, json_line, line


@click.command("edit")
@click.argument("target", metavar="MODULE:RUNNER")
@click.argument("correlation_id", metavar="ID")
@click.option("--saga", help="Which saga, if several have this id.")
@click.option(
    "--from", "file", type=click.File("rb"), help="Take the new state from a file (- for stdin) instead of an editor."
)
@click.option("--phase", metavar="NAME", help="Set the phase and leave the state as it is; no handler runs.")
@click.option(
    "--record", "whole", is_flag=True, help="Edit the whole record, even a damaged one, instead of the state."
)
@repair_options
def edit_(
    target: str,
    correlation_id: str,
    saga: str | None,
    file: Any,
    phase: str | None,
    whole: bool,
    url: str,
    wish: Wish,
) -> None:
    """Open the state of one instance as JSON in $EDITOR, and save it if the saga's code can read it.

    It is saved against the version that was shown: if the instance changes meanwhile, nothing is overwritten. A
    parked instance stays parked: retry it once its state is right. With --record, the old record is saved to a file
    in this folder.

    \b
    Examples:
      sagalog edit shop.sagas:runner 4711 --note "total was negative"
      sagalog show 4711 --json | jq .record.state > state.json
      sagalog edit shop.sagas:runner 4711 --from state.json --yes
      sagalog edit shop.sagas:runner 4711 --phase PAID --yes
      sagalog edit shop.sagas:runner 4711 --record
    """
    runner = load_runner(target)
    sagas = {one.name: one for one in runner.sagas}
    if phase is not None and (file is not None or whole):
        raise click.UsageError("--phase sets only the phase: change the state, or the record, in another edit")
    if phase is not None:
        asyncio.run(_edit_phase(sagas, correlation_id, saga, phase, url, wish))
        return
    given = file.read() if file is not None else None
    if given is None and not sys.stdin.isatty():
        raise click.UsageError("there is no terminal for an editor: pass the new state with --from FILE --yes")
    if whole:
        asyncio.run(
            _edit_record(Code(runner.sagas, partial(has_handler, runner)), correlation_id, saga, given, url, wish)
        )
    else:
        asyncio.run(_edit(sagas, correlation_id, saga, given, url, wish))


async def _edit_record(
    code: Code, correlation_id: str, name: str | None, given: bytes | None, url: str, wish: Wish
) -> None:
    async with reading(url) as journal:
        await edit_record(journal, code, await the_one(journal, correlation_id, name), given, wish)


async def _edit(
    sagas: dict[str, Saga[Any]], correlation_id: str, name: str | None, given: bytes | None, url: str, wish: Wish
) -> None:
    async with reading(url) as journal:
        view = await the_one(journal, correlation_id, name)
        saga, before, legible = _editable(sagas, view, edits=given is None)
        state = _checked(saga, view, given) if given is not None else _edited(saga, before)
        if state is None:
            click.echo("unchanged; nothing was saved")
            return
        index = partial(type(saga).index_table().texts, saga.decode_state(state)) if saga.index else None
        repair = edit(state, state_version=saga.state_version(), index=index, note=wish.note, by=wish.by)
        try:
            applied = await apply(
                journal, view.saga, view.correlation_id, repair, expected_version=view.version, dry_run=True
            )
            _show(applied, wish)
            if not applied.changes or wish.dry_run:
                return
            if not wish.yes:
                _confirm(view)
            if not legible and view.record is not None:
                kept = keep(bytes(view.record.state), view.saga, view.version)
                click.echo(f"the old state is kept in {kept}", err=True)
            await apply(journal, view.saga, view.correlation_id, repair, expected_version=view.version)
        except ConflictError:
            raise click.ClickException(_moved_on(view, state, given)) from None
    if not wish.as_json:
        click.echo(f"saved as version {applied.version}")


async def _edit_phase(
    sagas: dict[str, Saga[Any]], correlation_id: str, name: str | None, phase: str, url: str, wish: Wish
) -> None:
    async with reading(url) as journal:
        view = await the_one(journal, correlation_id, name)
        saga = sagas.get(view.saga)
        if saga is None:
            raise click.ClickException(f"this runner has no saga {line(view.saga)}; it has {', '.join(sorted(sagas))}")
        known = () if saga.phases is None else tuple(member.name for member in saga.phases)
        if phase not in known:
            told = f"its phases are {', '.join(known)}" if known else "it has no phases"
            raise click.ClickException(f"saga {view.saga} knows no phase {line(phase)}: {told}")
        repair = edit(None, phase=phase, note=wish.note, by=wish.by)
        try:
            applied = await apply(
                journal, view.saga, view.correlation_id, repair, expected_version=view.version, dry_run=True
            )
            _show(applied, wish)
            if applied.after is applied.before or wish.dry_run:
                return
            if not wish.yes:
                _confirm(view)
            await apply(journal, view.saga, view.correlation_id, repair, expected_version=view.version)
        except ConflictError:
            raise click.ClickException(
                f"{line(view.saga)} {line(view.correlation_id)} has moved on since version {view.version} was shown; "
                "nothing was saved"
            ) from None
    if not wish.as_json:
        click.echo(f"saved as version {applied.version}")


def _editable(sagas: dict[str, Saga[Any]], view: SagaView, *, edits: bool) -> tuple[Saga[Any], bytes, bool]:
    """Return the saga, the state to begin with, and whether this code can read what is stored.

    It is the state as this code would read it: upcast, where an older version is stored; else as it is stored.
    """
    saga = sagas.get(view.saga)
    if saga is None:
        raise click.ClickException(f"this runner has no saga {line(view.saga)}; it has {', '.join(sorted(sagas))}")
    if view.record is None:
        why = clean(view.unreadable or "it is empty")
        raise click.ClickException(f"the record cannot be read: {why}; --record edits all of it")
    if view.finished:
        raise click.ClickException("it has ended: its state is no longer used")
    if view.record.state_is_base64 and edits:
        raise click.ClickException("its saga does not store its state as JSON: pass the new one with --from FILE")
    state = bytes(view.record.state)
    try:
        state = view.record.state_bytes()
        if view.record.state_version != saga.state_version():
            state = saga.upcast_state(state, view.record.state_version)
        decode_state(saga, view.record)
    except CodecError as error:
        if view.record.state_version > saga.state_version():
            raise click.ClickException(f"this code cannot read the state: {clean(str(error))}") from error
        click.echo(f"this code cannot read the stored state: {clean(str(error))}", err=True)
        return saga, state, False
    return saga, state, True


def _checked(saga: Saga[Any], view: SagaView, text: bytes) -> bytes:
    own = view.record is not None and view.record.state_is_base64  # the saga's own format
    state, problem = _read(saga, text, as_json=not own)
    if state is None:
        raise click.ClickException(f"{problem}; nothing was saved")
    return state


def _edited(saga: Saga[Any], before: bytes) -> bytes | None:
    """Let the state be edited until the saga can read it, or the operator gives up. None: it is as it was."""
    shown = text = msgspec.json.format(before, indent=2).decode()
    while True:
        changed = click.edit(text, extension=".json")
        if changed is None or changed.strip() == shown.strip():
            return None
        state, problem = _read(saga, changed.encode())
        if state is not None:
            return state
        click.echo(f"{clean(problem)}; nothing was saved", err=True)
        click.confirm("Edit again?", default=True, abort=True, err=True)
        text = changed


def _read(saga: Saga[Any], text: bytes, *, as_json: bool = True) -> tuple[bytes | None, str]:
    """Return the state as the saga encodes it, or None and what is wrong with it."""
    try:
        plain = msgspec.json.format(text, indent=-1) if as_json else text
    except NOT_JSON as error:
        return None, f"it is not JSON: {error}"
    try:
        return saga.encode_state(saga.decode_state(plain)), ""
    except Exception as error:  # the saga's own decoder may raise anything
        return None, f"saga {saga.name} cannot read it: {error}"


def _show(applied: Applied, wish: Wish) -> None:
    changes = state_changes(applied.before, applied.after)
    if wish.as_json:
        fields = {
            "saga": applied.saga,
            "id": applied.correlation_id,
            "changes": [change.path for change in changes],
            "version": applied.version,
            "effects": applied.effects,
        }
        click.echo(json_line(fields))
        return
    click.echo(f"{line(applied.saga)} {line(applied.correlation_id)}")
    for text in (*applied.effects, *change_lines(changes, most=50)):
        click.echo(f"  {line(text)}")


def _confirm(view: SagaView) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask for confirmation: add --yes to save, or --dry-run to look")
    click.confirm(f"Save it over version {view.version}?", abort=True, err=True)


def _moved_on(view: SagaView, state: bytes, given: bytes | None) -> str:
    kept = ""
    if given is None:
        import tempfile

        with tempfile.NamedTemporaryFile("wb", prefix="sagalog-edit-", suffix=".json", delete=False) as file:
            file.write(msgspec.json.format(state, indent=2))
        kept = f" Your text is kept in {file.name}."
    return (
        f"{line(view.saga)} {line(view.correlation_id)} has moved on since version {view.version} was shown; nothing was "
        f"saved.{kept} Run the command again to edit what is there now."
    )
