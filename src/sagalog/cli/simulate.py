"""`sagalog simulate`: does a saga survive whatever goes wrong? Thousands of seeds, on all cores."""

from __future__ import annotations

import os
import random
import sys
import time
from typing import Any

import click
import msgspec

from ..testing.simulation import Report, SimulationError, World
from ..testing.simulation.run import SimulatedRun
from ..testing.simulation.shrink import shrunk
from .progress import LiveLine
from .simulate_processes import Processes
from .simulate_target import load_world
from .text import clean

_UNTRIED = 3


@click.command("simulate")
@click.argument("target", metavar="MODULE:SAGA")
@click.option("--world", "name", help="Which World of the module to use, if it has several.")
@click.option("--seeds", type=click.IntRange(1), default=1000, show_default=True, help="How many seeds to run.")
@click.option(
    "--first-seed", default="0", show_default=True, help="The first seed: a number, or `random`; it is printed."
)
@click.option("--seed", type=int, help="Run only this seed, and print what happened.")
@click.option("--processes", type=click.IntRange(1), help="How many processes; by default, one for each core.")
@click.option("--untried-ok", is_flag=True, help="Exit with 0 even if some fault was never tried.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object: counts, what was never tried, what went wrong."
)
def simulate_(
    target: str,
    name: str | None,
    seeds: int,
    first_seed: str,
    seed: int | None,
    processes: int | None,
    untried_ok: bool,
    as_json: bool,
) -> None:
    """Run sagas in a simulated world, in which everything can go wrong, once for each seed.

    MODULE:SAGA names a saga in a module with a World, or a World with its `sagas`. See "Testing your saga".

    \b
    Exit codes:
      0    nothing went wrong, and everything was tried: each kind of fault, takeovers,
           repairs, every handler and timer of the sagas
      1    a seed went wrong; its story is printed, and the command that runs it again
      3    nothing went wrong, but something was never tried: take more seeds, let more
           happen in the world, or pass --untried-ok
      130  stopped by Ctrl-C; the results so far are printed

    \b
    Examples:
      sagalog simulate shop.worlds:Shop --seeds 10000
      sagalog simulate shop/sagas.py:OrderSaga --first-seed random
      sagalog simulate shop.worlds:Shop --seed 4711
    """
    sagas, world = load_world(target, name)
    if seed is not None:
        sys.exit(_one(sagas, world, seed))
    if first_seed == "random":
        first = random.randrange(10**9)  # noqa: S311
    elif first_seed.isdecimal():
        first = int(first_seed)
    else:
        raise click.BadParameter(f"--first-seed must be a number or `random`, not {first_seed!r}")
    again = f"sagalog simulate {target}{f' --world {name}' if name else ''} --seed "
    sys.exit(_Simulation(again, as_json, untried_ok).run(Processes(target, name, processes or _cores()), first, seeds))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one(sagas: list[Any], world: type[World], seed: int) -> int:
    made = [saga() if isinstance(saga, type) else saga for saga in sagas]
    run = SimulatedRun(made, world(), seed)
    wrong = run.execute()
    if wrong is not None:
        click.echo(clean(str(shrunk(made, world, seed, run, wrong))))
        return 1
    click.echo("     seconds  what happened")
    click.echo(clean("\n".join(run.story)))
    click.echo(f"\nseed {seed}: nothing went wrong")
    return 0


class _Simulation:
    def __init__(self, again: str, as_json: bool, untried_ok: bool) -> None:
        self._again = again
        self._as_json = as_json
        self._untried_ok = untried_ok
        self._report = Report()
        self._wrong: SimulationError | None = None

    def run(self, processes: Processes, first: int, seeds: int) -> int:
        code, started = 0, time.monotonic()
        try:
            with LiveLine() as shown:

                def counted(report: Report) -> None:
                    self._report.add(report)
                    done = self._report
                    shown.show(lambda seconds: f"{done.seeds:,} of {seeds:,} seeds, {done.days / seconds:,.0f} days/s")

                self._wrong = processes.run(range(first, first + seeds), counted)
        except KeyboardInterrupt:
            code = 130
        except RuntimeError as error:
            raise click.ClickException(clean(str(error))) from error
        finally:
            processes.end()
        self._report.seconds = time.monotonic() - started
        if self._wrong is not None:
            code = 1
        elif code == 0 and self._report.never and not self._untried_ok:
            code = _UNTRIED
        (self._print_json if self._as_json else self._print)(first, code)
        return code

    def _print(self, first: int, code: int) -> None:
        report = self._report
        if self._wrong is not None:
            click.echo(clean(str(self._wrong)))
            click.echo(f"\nto run it again: {self._again}{self._wrong.seed}")
            return
        self._table("faults", report.faults)
        self._table("the runner", report.runner)
        for saga, counts in report.sagas.items():
            self._table(f"saga {saga}", counts)
        days = f"{report.days:,.0f} virtual days in {report.seconds:,.0f} s"
        rate = f"{report.days / report.seconds:,.1f} a second" if report.seconds else "-"
        click.echo(f"{report.seeds:,} seeds from {first}, {days} ({rate}): nothing went wrong")
        if report.never:
            click.echo(f"never tried: {clean(', '.join(report.never))}")
        if code == 130:
            click.echo("stopped before the end")

    def _table(self, title: str, counts: dict[str, int]) -> None:
        click.echo(title)
        for name, count in counts.items():
            click.echo(f"{count:>11,}  {clean(name)}")

    def _print_json(self, first: int, code: int) -> None:
        wrong = self._wrong
        fields = {
            "first_seed": first,
            **msgspec.structs.asdict(self._report),
            "never": self._report.never,
            "wrong": None if wrong is None else {"seed": wrong.seed, "story": str(wrong)},
            "stopped": code == 130,
        }
        click.echo(msgspec.json.encode(fields))
