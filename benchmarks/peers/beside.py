"""The same five-step order, durable at each step, in what a user might pick instead, beside Sagalog in the same run.

Closed loop: each caller has one order at a time. How each peer is written and why it is durable stands at the top of its
file in benchmarks/peers/. A peer that is not installed is shown as missing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from ..report import Case, Column, Figures, RunError
from ..servers import postgres, server
from . import installed

COLUMNS: list[Column] = [
    ("", "peer", "s"),
    ("on", "store", "s"),
    ("callers", "callers", ",d"),
    ("steps/s", "steps_per_second", ",.0f"),
    ("spread", "steps_per_second", "spread"),
    ("order p50 ms", "order_p50_ms", ",.1f"),
    ("order p99 ms", "order_p99_ms", ",.1f"),
]
# What it is, where it keeps things, its module here, and how it is imported and distributed.
_PEERS = [
    ("Sagalog", "SQLite", "with_sagalog", "", ""),
    ("DBOS Transact", "SQLite", "with_dbos", "dbos", "dbos"),
    ("eventsourcing", "SQLite", "with_eventsourcing", "eventsourcing", "eventsourcing"),
    ("Sagalog", "PostgreSQL", "with_sagalog", "", ""),
    ("DBOS Transact", "PostgreSQL", "with_dbos", "dbos", "dbos"),
    ("eventsourcing", "PostgreSQL", "with_eventsourcing", "eventsourcing", "eventsourcing"),
    ("Absurd", "PostgreSQL", "with_absurd", "absurd_sdk", "absurd-sdk"),
    ("sagaz", "PostgreSQL", "with_sagaz", "sagaz", "sagaz"),
    ("Restate", "its server", "with_restate", "restate", "restate-sdk"),
]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run")
    names = list(dict.fromkeys(peer for peer, *_ in _PEERS))
    parser.add_argument("--peer", choices=names, nargs="+", default=names)


def cases(options: argparse.Namespace) -> list[Case]:
    return [
        {"peer": peer, "store": store, "callers": callers, "seconds": options.seconds}
        for callers in options.callers
        for peer, store, *_ in _PEERS
        if peer in options.peer
    ]


def measure(case: Case) -> Figures:
    (found,) = (one for one in _PEERS if one[:2] == (case["peer"], case["store"]))
    _, store, module, package, distribution = found
    python = installed.python(package) if package else sys.executable
    with tempfile.TemporaryDirectory(prefix="sagalog-bench-") as folder, ExitStack() as stack:
        scratch = Path(folder)
        version = installed.version(distribution) if distribution else ""
        if store == "its server":
            url = stack.enter_context(installed.restate(scratch))
            version = f"{version}, {installed.restate_version()}"
        elif package:
            file = f"sqlite:///{scratch}/peer.db"
            url = file if store == "SQLite" else stack.enter_context(postgres(scratch))
        else:
            url = stack.enter_context(server({"SQLite": "sqlite"}.get(store, "postgres"), scratch))
        command = [python, "-m", f"benchmarks.peers.{module}", url, str(case["callers"]), str(case["seconds"])]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=case["seconds"] * 20 + 60)
    if done.returncode != 0:
        print(done.stderr[-3000:], file=sys.stderr)
        raise RunError(f"{case['peer']} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    figures: Figures = json.loads(done.stdout.strip().splitlines()[-1])
    return {**figures, "version": version} if version else figures
