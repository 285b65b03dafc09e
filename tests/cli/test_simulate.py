"""`sagalog simulate`: many seeds on all cores, what was tried, and the way back to a seed that went wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import ROOT, Sagalog

WORLD = """
from sagalog.testing.simulation import World
from tests.orders import Cancelled, Noted, OrderSaga, Paid, Placed, Ship

class Shop(World):
    sagas = (OrderSaga,)

    def events(self, chance):
        yield Placed("a")
        yield Paid("a")
        yield 5
        yield Cancelled("a")

class Wrong(Shop):
    def check(self, instance):
        assert "cancelled" not in instance.state.log, "it was cancelled \\x1b[2J"

class Nothing(World): ...

class Endless(Shop):
    def events(self, chance):
        yield from super().events(chance)
        with open("begun", "a") as file:
            file.write("x")
"""


@pytest.fixture(autouse=True)
def worlds(tmp_path: Path) -> None:
    (tmp_path / "worlds.py").write_text(WORLD)


def test_a_summary_says_what_was_tried_and_what_never(sagalog: Sagalog) -> None:
    done = sagalog("simulate", "worlds:Shop", "--seeds", "40", "--processes", "2")
    assert done.returncode == 3, done.stderr
    assert re.search(r"\d+  dies before a write", done.stdout)
    assert re.search(r"\d+  Placed\n", done.stdout)
    assert re.search(r"40 seeds from 0, .* virtual days in .*: nothing went wrong", done.stdout)
    assert "never tried: " in done.stdout
    assert "order: Noted" in done.stdout
    assert done.stderr == ""
    assert sagalog("simulate", "worlds:Shop", "--seeds", "10", "--untried-ok").returncode == 0


def test_a_seed_that_goes_wrong_is_told_and_told_again_by_its_number(sagalog: Sagalog) -> None:
    done = sagalog("simulate", "worlds.py:OrderSaga", "--world", "Wrong", "--seeds", "20")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("it was cancelled \\x1b[2J")
    assert "faults that it takes: none" in done.stdout
    command = done.stdout.splitlines()[-1].removeprefix("to run it again: sagalog ")
    again = sagalog(*command.split())
    assert again.returncode == 1
    assert again.stdout.strip() == done.stdout.partition("\n\nto run it again")[0]


def test_one_seed_tells_its_story(sagalog: Sagalog) -> None:
    done = sagalog("simulate", "worlds:Shop", "--seed", "3")
    assert done.returncode == 0, done.stderr
    assert "Placed(order_id='a', total=1) is accepted by" in done.stdout
    assert done.stdout.endswith("seed 3: nothing went wrong\n")


def test_the_same_counts_on_one_process_and_on_two(sagalog: Sagalog) -> None:
    one, two = (
        json.loads(sagalog("simulate", "worlds:Shop", "--seeds", "30", "--json", "--processes", n).stdout) for n in "12"
    )
    assert one["seeds"] == two["seeds"] == 30
    assert one["faults"] == two["faults"]
    assert one["sagas"] == two["sagas"]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("worlds", "is not MODULE:SAGA or MODULE:WORLD"),
        ("worlds:Nowhere", "has the worlds Endless, Nothing, Shop, Wrong"),
        ("worlds:Nothing", "does not say which sagas it has:"),
        ("worlds:OrderSaga", "choose one with --world"),
        ("tests.orders:OrderSaga", "has no World"),
        ("worlds:World", "does not say"),
        ("worlds:Placed", "is neither a saga nor a World"),
    ],
)
def test_what_cannot_be_simulated_is_told(sagalog: Sagalog, target: str, said: str) -> None:
    done = sagalog("simulate", target)
    assert done.returncode == 2
    assert said in re.sub(r"[\s│]+", " ", done.stderr)


def test_the_processes_of_one_that_is_ended_end_without_a_word(tmp_path: Path) -> None:
    run = endless(tmp_path, "2")
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=60)  # the pipe is closed when the last of them has ended
    assert run.returncode == -signal.SIGTERM
    assert said == ""


@pytest.mark.parametrize("processes", ["1", "2"])
def test_ctrl_c_says_what_was_done_so_far(tmp_path: Path, processes: str) -> None:
    run = endless(tmp_path, processes)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    assert re.search(r"[1-9]\d* seeds from 0, .*: nothing went wrong", said), said


def endless(tmp_path: Path, processes: str) -> subprocess.Popen[str]:
    """Return a simulation without an end, which has begun."""
    command = [sys.executable, "-m", "sagalog", "simulate", "worlds:Endless", "--seeds", "1000000"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(ROOT)])}
    run = subprocess.Popen(
        [*command, "--processes", processes],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Who starts the tests in the background has SIGINT ignored, and so would have all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    begun = tmp_path / "begun"
    while not begun.exists() or begun.stat().st_size < 60:
        assert run.poll() is None
        time.sleep(0.01)
    return run
