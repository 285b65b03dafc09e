"""`sagalog demo`: a few hundred orders, a real kill -9 in the middle, and the proof that nothing was lost or doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

import click

from .demo_proof import Proof, examine

_PLAN = dict[str, dict[str, Any]]


@click.command("demo")
@click.option("--orders", type=click.IntRange(min=8), default=300, show_default=True, help="How many.")
@click.option("--keep", is_flag=True, help="Keep the files, and print how to inspect them.")
@click.option("--json", "as_json", is_flag=True, help="Print only the figures, as one JSON object.")
def demo_(orders: int, keep: bool, as_json: bool) -> None:
    """Watch a few hundred orders survive a kill -9.

    Exit code 0 if nothing was lost and nothing happened twice, else 1.
    """
    folder = tempfile.mkdtemp(prefix="sagalog-demo-")
    try:
        proof = _Demo(Path(folder), orders, quiet=as_json).run()
        if as_json:
            click.echo(json.dumps(proof.figures()))
        else:
            _table(proof)
    finally:
        if keep:
            click.echo(
                f"\nkept: {folder}\n  sagalog list --all --limit 5 --journal sqlite:///{folder}/orders.db", err=as_json
            )
        else:
            for path in Path(folder).iterdir():
                path.unlink()
            Path(folder).rmdir()
    sys.exit(0 if proof.holds else 1)


class _Demo:
    def __init__(self, folder: Path, orders: int, *, quiet: bool) -> None:
        self.journal = folder / "orders.db"
        self.ledger = folder / "ledger.jsonl"
        self.orders = orders
        self.quiet = quiet
        self.accepted: set[str] = set()
        self.known = 0
        self.plan: _PLAN = {}
        for number in range(1, orders + 1):
            order = f"order-{number}"
            for kind, data in (
                ("OrderPlaced", {"order": order, "total": number}),
                ("PaymentReceived", {"order": order}),
            ):
                message_id = f"{kind}-{number}"
                self.plan[message_id] = {"id": message_id, "type": kind, "data": data}
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        if not self.quiet:
            click.echo(f"{time.monotonic() - self.started:5.1f} s  {text}")

    def run(self) -> Proof:
        self.say(
            f"{self.orders} orders come in. Each must reserve stock, charge a card and ship a parcel, in that order;"
        )
        self.say("every eighth parcel cannot be delivered, then the card is refunded and the stock released again.")
        self._first()
        self._second()
        proof = examine(self.journal, self.ledger, self.accepted, self.plan.keys())
        self.say("Comparing the saga's own file with a ledger that the commands' receivers kept:")
        return proof

    def _worker(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "sagalog.cli.demo_orders", f"sqlite:///{self.journal}", str(self.ledger)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def _send(self, pipe: IO[bytes], messages: list[dict[str, Any]]) -> None:
        try:
            pipe.write(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
            pipe.flush()
        except BrokenPipeError:  # it is dead: that is what the demo is about
            return

    def _take(self, line: bytes) -> None:
        answer = json.loads(line)
        self.accepted.add(answer["accepted"])
        self.known += answer["known"]

    def _first(self) -> None:
        worker = self._worker()
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            self.say(f"Worker 1 (process {worker.pid}) begins.")
            self._send(worker.stdin, list(self.plan.values()))
            while len(self.accepted) < self.orders and (line := worker.stdout.readline()):
                self._take(line)
            # In the middle of it: half of the events are accepted, many commands under way.
            os.kill(worker.pid, signal.SIGKILL)
            self.say(f"kill -9 {worker.pid}: it had no chance to clean up.")
            for line in worker.stdout:  # what it had acknowledged before it died
                if line.endswith(b"\n"):
                    self._take(line)
        finally:
            worker.kill()
            worker.wait()
            worker.stdin.close() if not worker.stdin.closed else None
            worker.stdout.close()
        self.say(f"It had accepted {len(self.accepted)} of {len(self.plan)} events.")

    def _second(self) -> None:
        worker = self._worker()
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            open_ones = [message for name, message in self.plan.items() if name not in self.accepted]
            again = [message for name, message in self.plan.items() if name in self.accepted][::3]
            self.say(
                f"Worker 2 (process {worker.pid}) takes over. It gets the {len(open_ones)} events nobody answered for,"
            )
            self.say(f"and {len(again)} that were accepted before, as an unsure sender would repeat them.")
            expected = {message["id"] for message in (*again, *open_ones)}
            self._send(worker.stdin, [*again, *open_ones])
            while expected and (line := worker.stdout.readline()):
                self._take(line)
                expected.discard(json.loads(line)["accepted"])
            deadline = time.monotonic() + 30
            while not _finished(self.journal, self.orders) and time.monotonic() < deadline:
                time.sleep(0.05)
            worker.stdin.close()
            worker.wait(30)
            self.say(f"All is done; {self.known} repeated events were recognised and changed nothing.")
        finally:
            worker.kill()
            worker.wait()
            worker.stdout.close()


def _finished(journal: Path, orders: int) -> bool:
    from .demo_proof import count_finished

    return count_finished(journal) >= orders


def _table(proof: Proof) -> None:
    rows = proof.rows()
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(show_header=False)
        for name, value, meaning in rows:
            table.add_row(name, f"{value:,}", meaning)
        Console().print(table)
    else:
        for name, value, meaning in rows:
            click.echo(f"  {name:<22} {value:>7,}  {meaning}")
    click.echo(
        "Nothing was lost and nothing happened twice." if proof.holds else "THE PROOF FAILED: see the figures above."
    )
