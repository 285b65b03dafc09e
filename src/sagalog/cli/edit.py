"""`sagalog edit`: change the state of one instance by hand, checked by the saga's own code."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click
import msgspec

from ..decision.repair import edit
from ..definition.saga import Saga
from ..errors import CodecError, ConflictError
from ..operating.apply import Applied, apply
from ..operating.inspect import SagaView, state_changes
from .journals import reading
from .repairing import Wish, repair_options
from .show import the_one
from .targets import load_runner
from .text import change_lines, clean, json_line, line


@click.command("edit")
@click.argument("target", metavar="MODULE:RUNNER")
@click.argument("correlation_id", metavar="ID")
@click.option("--saga", help="Which saga, where several have this id.")
@click.option("--from", "file", type=click.File("rb"), help="Take the new state from a file (- for stdin), no editor.")
@repair_options
def edit_(target: str, correlation_id: str, saga: str | None, file: Any, url: str, wish: Wish) -> None:
    """Open the state of one instance as JSON in $EDITOR, and save it if the saga's code can read it.

    It is saved against the version that was shown: if the instance moves on meanwhile, nothing is overwritten. A parked
    instance stays parked: retry it when its state is right.

    \b
    Examples:
      sagalog edit shop.sagas:runner 4711 --note "total was negative"
      sagalog show 4711 --json | jq .record.state > state.json
      sagalog edit shop.sagas:runner 4711 --from state.json --yes
    """
    sagas = {one.name: one for one in load_runner(target).sagas}
    given = file.read() if file is not None else None
    if given is None and not sys.stdin.isatty():
        raise click.UsageError("there is no terminal for an editor: give the new state with --from FILE --yes")
    asyncio.run(_edit(sagas, correlation_id, saga, given, url, wish))


async def _edit(
    sagas: dict[str, Saga[Any]], correlation_id: str, name: str | None, given: bytes | None, url: str, wish: Wish
) -> None:
    async with reading(url) as journal:
        view = await the_one(journal, correlation_id, name)
        saga, before = _editable(sagas, view)
        state = _checked(saga, given) if given is not None else _edited(saga, before)
        if state is None:
            click.echo("unchanged; nothing was saved")
            return
        repair = edit(state, state_version=saga.state_version(), note=wish.note, by=wish.by)
        try:
            applied = await apply(
                journal, view.saga, view.correlation_id, repair, expected_version=view.version, dry_run=True
            )
            _show(applied, wish)
            if not applied.changes or wish.dry_run:
                return
            if not wish.yes:
                _confirm(view)
            await apply(journal, view.saga, view.correlation_id, repair, expected_version=view.version)
        except ConflictError:
            raise click.ClickException(_moved_on(view, state, given)) from None
    if not wish.as_json:
        click.echo(f"saved as version {applied.version}")


def _editable(sagas: dict[str, Saga[Any]], view: SagaView) -> tuple[Saga[Any], bytes]:
    """Return the saga, and the state as this code would read it: upcast, where an older version is stored."""
    saga = sagas.get(view.saga)
    if saga is None:
        raise click.ClickException(f"this runner has no saga {line(view.saga)}; it has {', '.join(sorted(sagas))}")
    if view.record is None:
        raise click.ClickException(f"the record cannot be read: {clean(view.unreadable or 'it is empty')}")
    if view.finished:
        raise click.ClickException("it has ended: its state is not used any more")
    if view.record.state_is_base64:
        raise click.ClickException("its saga does not keep its state as JSON: it cannot be edited here")
    state = view.record.state_bytes()
    if view.record.state_version == saga.state_version():
        return saga, state
    try:
        return saga, saga.upcast_state(state, view.record.state_version)
    except CodecError as error:
        raise click.ClickException(f"this code cannot read the state: {clean(str(error))}") from error


def _checked(saga: Saga[Any], text: bytes) -> bytes:
    state, problem = _read(saga, text)
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


def _read(saga: Saga[Any], text: bytes) -> tuple[bytes | None, str]:
    """Return the state as the saga encodes it, or None and what is wrong with it."""
    try:
        plain = msgspec.json.format(text, indent=-1)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
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
        raise click.UsageError("there is no terminal to ask on: add --yes to save, or --dry-run to look")
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
