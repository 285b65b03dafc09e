"""Each benchmark, in small: it gives its figures, in one file with what a reader needs to judge them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main

SMALL = {
    "steps": "--callers 4 --seconds 0.2",
    "latency": "--rates 200 --seconds 0.3",
    "hot": "--events 200",
    "fan": "--legs 50",
    "itinerary": "--callers 4 --seconds 0.4",
    "timers": "--pending 300 --rate 200 --seconds 0.5",
    "recover": "--commands 100 --lease 0.5",
    "grow": "--sagas 50 --callers 8 --seconds 0.2",
    "find": "--journal sqlite --instances 3000 --times 20",
    "brokers": "--broker nats redis --journal sqlite --messages 200 --prefetch 64 --seconds 0.2",
    "cost": "--journal sqlite --callers 4 --seconds 0.2",
    "layouts": "--records 1000",
}


def run(monkeypatch: pytest.MonkeyPatch, name: str, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmarks", name, *options])
    return main()


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_writes_its_figures_and_where_they_are_from(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, name, *SMALL[name].split(), "--results", str(tmp_path)) == 0
    (file,) = tmp_path.iterdir()
    report = json.loads(file.read_text())
    assert report["benchmark"] == name
    assert {"cpu", "cores", "kernel", "load_at_start"} <= report["machine"].keys()
    assert {"python", "sqlite", "msgspec"} <= report["versions"].keys()
    for entry in report["cases"]:
        assert "failed" not in entry
        assert entry["median"]
        assert all(entry["median"].get(never, 0) == 0 for never in ("early", "twice"))


def test_a_peer_that_is_not_installed_is_named_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAGALOG_PEERS", str(tmp_path / "nothing-here"))
    chosen = ("--peer", "DBOS Transact", "Absurd", "sagaz", "Restate", "--callers", "1", "--seconds", "0.1")
    assert run(monkeypatch, "peers", *chosen, "--results", str(tmp_path)) == 1
    cases = json.loads((tmp_path / "peers.json").read_text())["cases"]
    stores = [
        ("DBOS Transact", "SQLite"),
        ("DBOS Transact", "PostgreSQL"),
        ("Absurd", "PostgreSQL"),
        ("sagaz", "PostgreSQL"),
        ("Restate", "its server"),
    ]
    assert [(c["case"]["peer"], c["case"]["store"]) for c in cases] == stores
    assert all(c["failed"].startswith("missing: ") and "make bench-peers" in c["failed"] for c in cases)
    assert "missing: dbos" in capsys.readouterr().out
