"""`python -m benchmarks NAME`: measurements, never tests. Each prints a table and writes one JSON file."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import cast

from . import (
    brokers,
    cost,
    fan,
    find,
    grow,
    guard,
    hot,
    itinerary,
    latency,
    layouts,
    observed,
    pages,
    recover,
    steps,
    timers,
)
from .peers import beside
from .report import RESULTS, Benchmark, RunError, run

BENCHMARKS: tuple[ModuleType, ...] = (
    steps,
    latency,
    hot,
    fan,
    itinerary,
    timers,
    recover,
    grow,
    find,
    brokers,
    observed,
    cost,
    beside,
    layouts,
)


def main() -> int:
    if sys.argv[1:2] == ["--child"]:  # one run of one case, started by report.run_child
        name, case = sys.argv[2:4]
        (module,) = (one for one in BENCHMARKS if _name(one) == name)
        try:
            print(json.dumps(cast(Benchmark, module).measure(json.loads(case))))
        except RunError as error:
            sys.exit(str(error))
        return 0
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for module in BENCHMARKS:
        command = commands.add_parser(_name(module), help=_first_line(module), description=module.__doc__)
        module.arguments(command)
        command.add_argument("--runs", type=int, default=1, help="of each case; medians are shown")
        command.add_argument("--results", type=Path, default=RESULTS, help="folder for NAME.json")
        command.set_defaults(call=lambda options, module=module: run(_name(module), cast(Benchmark, module), options))
    for module in (guard, pages):
        command = commands.add_parser(_name(module), help=_first_line(module), description=module.__doc__)
        module.arguments(command)
        command.set_defaults(call=module.run)
    options = parser.parse_args()
    return 0 if options.call(options) else 1


def _name(module: ModuleType) -> str:
    return {pages: "report", beside: "peers"}.get(module) or module.__name__.rpartition(".")[2]


def _first_line(module: ModuleType) -> str:
    return (module.__doc__ or "").splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
