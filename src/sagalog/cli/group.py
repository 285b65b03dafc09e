"""The command group: each command is a file of its own, imported when it is used."""

from __future__ import annotations

from importlib import import_module

import click

from ..errors import SagalogError
from .text import clean

COMMANDS = {
    "check": "Say which sagas of a journal this code could not go on with.",
    "dashboard": "Serve all sagas of a journal in a browser, live, with repairs.",
    "demo": "Watch a few hundred orders survive a kill -9.",
    "history": "Show every kept step of one instance.",
    "list": "List the instances in a journal.",
    "migrate": "Make the tables of a journal in a server, or migrate them.",
    "run": "Feed events from a file through a runner.",
    "show": "Show one instance: state, timers, outbox, held events.",
    "worker": "Run one or more workers for due work, timers and commands.",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"sagalog.cli.{cmd_name}"), f"{cmd_name}_")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except SagalogError as error:
            raise click.ClickException(clean(f"{type(error).__name__}: {error}")) from error


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sagalog")
def sagalog() -> None:
    """Durable sagas: feed them events, and see where each one stands.

    \b
    Exit codes:
      0    done
      1    something failed, or what was asked for is not there; the message says what
      2    the command line is wrong
      130  stopped by Ctrl-C (143: by SIGTERM); what was accepted is stored, run it again to go on
    """
