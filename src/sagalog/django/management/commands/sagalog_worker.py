"""`manage.py sagalog_worker`: `sagalog worker` for the runner that the settings name, with Django set up."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

from django.core.management.base import CommandError, CommandParser

from ....cli.tied import end_with_supervisor
from ....cli.worker import supervise, work
from ....errors import DefinitionError, SagalogError
from ....telemetry.http import Address
from ...settings import runner

if TYPE_CHECKING:  # Django has no types of its own
    _Base = object
else:
    from django.core.management.base import BaseCommand as _Base


class WorkerCommand(_Base):
    """Fires timers, delivers commands, takes over what dead workers left."""

    help = "Run a worker for the sagas: fire timers, deliver commands, take over what dead workers left."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the options of `sagalog worker`."""
        parser.add_argument(
            "--processes", type=int, default=1, help="How many worker processes to run on this machine (default: 1)."
        )
        parser.add_argument("--http", metavar="HOST:PORT", help="Answer /live, /ready and /metrics at this address.")

    def handle(self, *_: Any, **options: Any) -> None:
        """Run until SIGTERM or Ctrl-C."""
        end_with_supervisor()
        try:
            where = None if options["http"] is None else Address.parse(options["http"])
            used = runner().using(sources=True, client=False)
        except DefinitionError as error:
            raise CommandError(str(error)) from error
        processes = options["processes"]
        if processes < 1:
            raise CommandError("--processes must be 1 or more")
        if used.in_memory:
            raise CommandError("a journal in memory belongs to one process: there is nothing for a worker to do")
        try:
            if processes == 1:
                code = asyncio.run(work(used, where))
            else:
                command = [sys.executable, "-m", "django", "sagalog_worker"]
                code = asyncio.run(supervise(command, dict(os.environ), processes, where, used.settings))
        except SagalogError as error:
            raise CommandError(f"{type(error).__name__}: {error}") from error
        if code:
            sys.exit(code)


Command = WorkerCommand  # the name that Django looks for
