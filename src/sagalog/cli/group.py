"""The command group: each command is a file of its own, imported when it is used."""

from __future__ import annotations

from importlib import import_module

import click

from .. import __version__
from ..errors import SagalogError
from .text import clean, without_secrets

COMMANDS = {
    "cancel": "End instances; undo their work, or leave it as it stands.",
    "check": "List the instances that this code could not continue.",
    "dashboard": "Show and repair all sagas of a journal in a browser, live.",
    "dead-letters": "Show messages that no saga could take; correct them and put them back.",
    "demo": "Watch a few hundred orders survive a kill -9.",
    "diagram": "Draw a saga: its events, commands, timers, compensations and ends.",
    "doctor": "Check a journal: is it reachable, durable and on time, and is nothing left undone?",
    "drop": "Remove one hanging command from an outbox.",
    "edit": "Change the state of one instance in an editor, checked by its saga.",
    "export": "Write a journal's instances to a file of JSON lines.",
    "health": "Check a worker or a journal: for the probes of containers.",
    "history": "Show every kept step of one instance.",
    "import": "Import exported instances into a journal, with checks.",
    "list": "List the instances in a journal.",
    "migrate": "Create or migrate the tables or the stream of a journal.",
    "pause": "Stop the delivery of commands of a type, on all workers.",
    "purge": "Remove finished instances that are old enough.",
    "reindex": "Index instances that were stored before their saga had an index.",
    "resend": "Send an earlier command again, under the same id.",
    "resume": "Resume the delivery of commands of a paused type.",
    "retry": "Let parked instances try again.",
    "run": "Feed events from a file to a runner.",
    "send": "Send one event.",
    "serve": "Serve a runner over HTTP: take events, report the state and end of instances.",
    "show": "Show one instance: state, timers, outbox, held events.",
    "simulate": "Test a saga with crashes, races and lost answers, in virtual time.",
    "skip": "Drop what parked an instance, and continue.",
    "stats": "Count live, parked, overdue and undelivered work for each saga.",
    "worker": "Run one or more workers for due work, timers and commands.",
}
_MODULES = {"import": "importing", "dead-letters": "dead_letters"}  # which no module can be named


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = _MODULES.get(cmd_name, cmd_name)
        command: click.Command = getattr(import_module(f"sagalog.cli.{module}"), f"{cmd_name.replace('-', '_')}_")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            click.echo("stopped; everything done so far is stored", err=True)
            raise click.exceptions.Exit(130) from stopped
        except SagalogError as error:
            raise click.ClickException(clean(f"{type(error).__name__}: {error}")) from error
        except click.ClickException as error:
            vars(error)["message"] = without_secrets(error.message)  # a copy would be of another class, and exit code
            raise


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="sagalog")
def sagalog() -> None:
    """Durable sagas: feed them events, and see where each one stands.

    \b
    Exit codes:
      0    done
      1    something failed or does not exist; the message says what
      2    the command line is wrong
      130  stopped by Ctrl-C (143: by SIGTERM); what was accepted is stored, run it again to go on
    """
