"""`sagalog run`: events from a file through a runner, resumable, with every bad line named."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import ROOT, Sagalog, line

EVENTS = "\n".join(line(kind, f"{kind}-{n}", order_id=f"o{n}") for kind in ("Placed", "Paid") for n in range(50)) + "\n"
RUN = ("run", "shop:runner", "--events")


def figures(sagalog: Sagalog, *arguments: str) -> dict[str, int]:
    done = sagalog(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_a_file_runs_through_and_a_second_run_changes_nothing(sagalog: Sagalog, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text(EVENTS)
    first = figures(sagalog, *RUN, "events.jsonl")
    assert (first["lines"], first["handled"], first["duplicates"], first["commands"]) == (100, 100, 0, 100)
    second = figures(sagalog, *RUN, "events.jsonl")
    assert (second["handled"], second["duplicates"], second["commands"]) == (0, 100, 0)
    summary = sagalog(*RUN, "events.jsonl")
    assert "100 lines in" in summary.stdout
    assert "100 known already" in summary.stdout
    assert summary.stderr == ""  # no progress where nobody watches


def test_gzip_and_standard_input_are_read(sagalog: Sagalog, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + EVENTS.encode()))  # as some write it
    assert figures(sagalog, *RUN, "events.jsonl.gz")["handled"] == 100
    done = sagalog(*RUN, "-", "--json", stdin=EVENTS)
    assert json.loads(done.stdout)["duplicates"] == 100


def test_a_line_may_be_longer_than_its_event(sagalog: Sagalog, tmp_path: Path) -> None:
    long = json.dumps({"type": "Noted", "id": "2", "data": {"order_id": "a", "text": "\u03b1" * 200_000}})
    assert len(long) > 1_048_576
    (tmp_path / "events.jsonl").write_text(line("Placed", "1", order_id="a") + "\n" + long + "\n")
    assert figures(sagalog, *RUN, "events.jsonl")["handled"] == 2


def test_a_line_without_id_gets_its_number_in_a_file_and_is_refused_from_standard_input(
    sagalog: Sagalog, tmp_path: Path
) -> None:
    (tmp_path / "events.jsonl").write_text(line("Placed", order_id="a") + "\n" + line("Noted", order_id="a") + "\n")
    assert figures(sagalog, *RUN, "events.jsonl")["handled"] == 2
    assert figures(sagalog, *RUN, "events.jsonl")["duplicates"] == 2
    done = sagalog(*RUN, "-", stdin=line("Placed", order_id="b") + "\n")
    assert done.returncode == 1
    assert 'line 1: it has no "id"' in done.stderr


VERSIONS = """
from dataclasses import dataclass
from sagalog import Saga, SagaRunner, schema, starts, upcast

@schema(version=3)
@dataclass
class Placed:
    order_id: str
    total: int

@upcast(Placed, from_version=2)
def rename(document):
    return {"order_id": document["order_id"], "total": document["sum"]}

@dataclass
class State:
    total: int = 0

class OrderSaga(Saga[State]):
    name = "order"

    @starts(Placed, key="order_id")
    def placed(self, state, event):
        state.total += event.total

runner = SagaRunner("sqlite:///orders.db", sagas=[OrderSaga])
"""


def test_a_line_may_be_of_an_older_version_and_without_one_is_of_version_1(sagalog: Sagalog, tmp_path: Path) -> None:
    (tmp_path / "versions.py").write_text(VERSIONS)
    new = {"type": "Placed", "id": "new", "version": 3, "data": {"order_id": "a", "total": 5}}
    old = {"type": "Placed", "id": "old", "version": 2, "data": {"order_id": "a", "sum": 6}}
    bad = [
        {"type": "Placed", "id": "unsaid", "data": {"order_id": "a"}},
        {"type": "Placed", "id": "newer", "version": 4, "data": {"order_id": "a"}},
    ]
    (tmp_path / "events.jsonl").write_text("\n".join(map(json.dumps, [new, old, *bad])))
    done = sagalog("run", "versions:runner", "--events", "events.jsonl", "--on-error", "skip")
    assert done.stderr.splitlines() == [
        "line 3: Placed is stored with schema version 1; this code knows version 3 and has no @upcast(Placed, "
        'from_version=1) (a line without "version" is of version 1)',
        "line 4: Placed is stored with schema version 4; this code knows version 3",
    ]
    shown = json.loads(sagalog("show", "a", "--journal", "sqlite:///orders.db", "--json").stdout)
    assert shown["record"]["state"] == {"total": 11}


def test_two_sagas_with_different_events_of_one_name_cannot_be_fed(sagalog: Sagalog, tmp_path: Path) -> None:
    other = VERSIONS.partition("@dataclass\nclass State")[0]
    (tmp_path / "other.py").write_text(other)
    (tmp_path / "both.py").write_text(
        VERSIONS.replace("sagas=[OrderSaga]", "sagas=[OrderSaga, Other]").replace(
            "runner =",
            'import other\n\nclass Other(Saga[State]):\n    name = "other"\n\n    @starts(other.Placed, key="order_id")\n'
            "    def placed(self, state, event): ...\n\nrunner =",
        )
    )
    (tmp_path / "events.jsonl").write_text(line("Placed", "m", order_id="a") + "\n")
    done = sagalog("run", "both:runner", "--events", "events.jsonl")
    assert done.returncode == 1
    assert "two message types are stored as 'Placed'" in done.stderr


BAD = [
    ("not json", "line 3: it is not"),
    ('{"type": "Placed"', "line 3: it is not"),
    ('["Placed"]', "line 3: it is not"),
    ('{"type": "Unknown", "id": "x", "data": {}}', "line 3: no saga handles 'Unknown'; known: "),
    ('{"type": "Placed", "id": "x", "data": {"order_id": 7}}', "line 3: stored JSON is not a valid Placed"),
    ('{"type": "Placed", "id": "x", "data": {"order_id": ""}}', "line 3: Placed for saga 'order' has an empty key"),
    ('{"type": "Placed", "id": "", "data": {"order_id": "secret"}}', "line 3: "),
    (line("Noted", "x", order_id="o1", text="x" * 1_100_000), "line 3: Noted, message 'x' takes 1,100,027 bytes, over"),
    (line("Noted", "x", order_id="o1", text="x" * 6_500_000), "line 3: it is longer than 6,356,992 bytes"),
    (f'{{"type": "Placed", "id": "x", "data": {{"order_id": {"[" * 100_000}}}}}', "nested too deep"),
    ("\udcff\udcfe", "line 3: it is not"),
]


@pytest.mark.parametrize(("bad", "message"), BAD, ids=range(len(BAD)))
def test_a_bad_line_is_named_and_stops_the_run_or_is_skipped(
    sagalog: Sagalog, tmp_path: Path, bad: str, message: str
) -> None:
    good = [line("Placed", "1", order_id="o1"), line("Placed", "2", order_id="o2"), line("Placed", "4", order_id="o4")]
    content = "\n".join([good[0], good[1], bad, good[2], ""])
    (tmp_path / "events.jsonl").write_bytes(content.encode("utf-8", "surrogateescape"))
    stopped = sagalog(*RUN, "events.jsonl")
    assert stopped.returncode == 1
    assert message in stopped.stderr
    assert "secret" not in stopped.stderr
    assert "Traceback" not in stopped.stderr
    skipped = sagalog(*RUN, "events.jsonl", "--on-error", "skip", "--json")
    assert skipped.returncode == 0
    assert message in skipped.stderr
    assert json.loads(skipped.stdout)["errors"] == 1
    listed = sagalog("list", "--json", "--journal", "sqlite:///orders.db").stdout.splitlines()
    assert [json.loads(row)["id"] for row in listed] == ["o1", "o2", "o4"]


def test_a_gzip_file_that_breaks_off_is_told_with_the_line(sagalog: Sagalog, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl.gz").write_bytes(gzip.compress(EVENTS.encode())[:-40])
    done = sagalog(*RUN, "events.jsonl.gz")
    assert done.returncode == 1
    assert "the gzip file is damaged or cut off from here" in done.stderr


def test_a_runner_may_read_lines_of_its_own_and_report(sagalog: Sagalog, tmp_path: Path) -> None:
    lines = [{"order": "a", "id": "1"}, {"skip": True}, {"id": "no order"}]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    done = sagalog("run", "shop.py:own", "--events", "events.jsonl", "--on-error", "skip")
    assert done.stdout.startswith("1 started\n3 lines in")
    assert "line 3: the runner's reader cannot read it ('order' is missing)" in done.stderr


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("shop", "is not MODULE:RUNNER"),
        ("nowhere:runner", "importing nowhere failed: ModuleNotFoundError"),
        ("nowhere.py:runner", "there is no file nowhere.py"),
        ("shop:nothing", "has no 'nothing'; it has runner, own"),
        ("shop:not_a_runner", "is of type int, not SagaRunner"),
    ],
)
def test_a_wrong_target_is_told(sagalog: Sagalog, tmp_path: Path, target: str, message: str) -> None:
    (tmp_path / "events.jsonl").write_text(EVENTS)
    done = sagalog("run", target, "--events", "events.jsonl")
    assert done.returncode == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())


def test_a_missing_file_is_told(sagalog: Sagalog) -> None:
    done = sagalog(*RUN, "nowhere.jsonl")
    assert done.returncode == 2
    assert "nowhere.jsonl cannot be read: No such file or directory" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("sent", [3_000, 400, 0])
def test_a_signal_stops_the_run_and_the_next_one_goes_on(
    sagalog: Sagalog, tmp_path: Path, number: int, code: int, sent: int
) -> None:
    command = [sys.executable, "-m", "sagalog", *RUN, "-", "--journal", "sqlite:///orders.db"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(ROOT)])}
    lines = [line("Placed", f"p{n}", order_id=f"o{n}") + "\n" for n in range(400)]
    lines += [line("Noted", f"n{n}", order_id=f"o{n % 400}", text="x") + "\n" for n in range(6_000)]
    (tmp_path / "events.jsonl").write_text("".join(lines))
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdin is not None
        assert run.stderr is not None
        # The pipe stays open, so the run has not come to its end: it works on what came, or waits for more.
        run.stdin.writelines(lines[:sent])
        run.stdin.flush()
        journal = tmp_path / "orders.db"
        wait_until(journal.exists)
        if 0 < sent <= 400:
            wait_until(
                lambda: len(sagalog("list", "--json", "--journal", f"sqlite:///{journal}").stdout.split()) == sent
            )
        run.send_signal(number)
        assert "Run the same command again to continue." in run.stderr.read()
        assert run.wait(30) == code
    handled = figures(sagalog, *RUN, "events.jsonl")
    assert min(sent, 1) <= handled["duplicates"] <= sent
    assert handled["duplicates"] + handled["handled"] == 6_400


def wait_until(seen: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.01)


IN_EVENT_TIME = """
from pathlib import Path
from sagalog import SagaRunner
from tests.orders import OrderSaga

def dispatch(command):
    if Path("away").exists():
        Path("tried").touch()
        raise OSError("the carrier is away")

runner = SagaRunner("sqlite:///orders.db", sagas=[OrderSaga], dispatch=dispatch)
"""
PLACED = {"type": "Placed", "id": "1", "at": "2030-01-01T00:00:00Z", "data": {"order_id": "o1"}}
NOTED = {**PLACED, "type": "Noted", "id": "2"}
BY_EVENTS = ("run", "orders:runner", "--clock", "events", "--events")


def notes(sagalog: Sagalog) -> int:
    shown = sagalog("show", "o1", "--json", "--journal", "sqlite:///orders.db")
    return len([one for one in json.loads(shown.stdout)["record"]["state"]["log"] if one != "placed"])


@pytest.mark.parametrize("bad", [{"at": "0001-01-01T00:00:00Z"}, {"id": "x" * 2000}])
def test_nothing_behind_a_line_that_is_refused_is_handled(
    sagalog: Sagalog, tmp_path: Path, bad: dict[str, str]
) -> None:
    (tmp_path / "orders.py").write_text(IN_EVENT_TIME)
    log = [PLACED, *({**NOTED, "id": str(number)} for number in range(2, 5))]
    (tmp_path / "log").write_text("\n".join(json.dumps(one) for one in [*log[:2], {**log[2], **bad}, log[3]]))
    done = sagalog(*BY_EVENTS, "log")
    assert done.returncode == 1
    assert "line 3:" in done.stderr
    assert notes(sagalog) == 1
    (tmp_path / "log").write_text("\n".join(json.dumps(one) for one in log))
    assert sagalog(*BY_EVENTS, "log").returncode == 0
    assert notes(sagalog) == 3


def test_a_log_that_begins_with_a_line_without_a_time_is_refused(sagalog: Sagalog, tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(IN_EVENT_TIME)
    undated = {name: value for name, value in NOTED.items() if name != "at"}
    (tmp_path / "first").write_text(json.dumps(PLACED))
    (tmp_path / "second").write_text(json.dumps(undated))
    (tmp_path / "whole").write_text(f"{json.dumps(PLACED)}\n{json.dumps(undated)}")
    assert sagalog(*BY_EVENTS, "first").returncode == 0
    done = sagalog(*BY_EVENTS, "second")
    assert done.returncode == 1
    assert 'line 1: it has no "at", and neither has any line before it' in done.stderr
    assert notes(sagalog) == 0
    assert sagalog(*BY_EVENTS, "whole").returncode == 0
    assert notes(sagalog) == 1


@pytest.mark.parametrize("behind", [0, 1])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_that_waits_for_a_receiver_that_is_away(
    sagalog: Sagalog, tmp_path: Path, number: int, code: int, behind: int
) -> None:
    (tmp_path / "orders.py").write_text(IN_EVENT_TIME)
    (tmp_path / "away").touch()
    log = [PLACED, *[NOTED] * behind]
    (tmp_path / "log").write_text("\n".join(json.dumps(one) for one in log))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(ROOT)])}
    command = [sys.executable, "-m", "sagalog", *BY_EVENTS, "log"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        wait_until((tmp_path / "tried").exists)
        run.send_signal(number)
        assert "Run the same command again to continue." in run.stderr.read()
        assert run.wait(60) == code
    (tmp_path / "away").unlink()
    assert sagalog(*BY_EVENTS, "log").returncode == 0
    assert notes(sagalog) == behind
