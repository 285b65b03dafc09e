"""What becomes of the figures: medians and spread, tables, and the page."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.pages import MEASURED, PAGE, PLOT, plot, read, written
from benchmarks.report import Column, percentile, summary, table

COLUMNS: list[Column] = [
    ("callers", "callers", ",d"),
    ("rate", "rate", ",.0f"),
    ("spread", "rate", "spread"),
]


def entry(rate: float | None, peer: str = "Sagalog", store: str = "SQLite") -> dict[str, Any]:
    runs = [] if rate is None else [{"steps_per_second": rate, "rate": rate}]
    failed = {"failed": "missing: not installed"} if rate is None else {}
    return {"case": {"callers": 64, "peer": peer, "store": store}, **summary(runs), **failed}


def report(*cases: dict[str, Any]) -> dict[str, Any]:
    machine = {"cpu": "chip", "cores": 2, "memory_gb": 4.0, "kernel": "Linux", "load_at_start": 0.0}
    return {"cases": list(cases), "runs": 1, "at": "2026-01-31T12:00:00", "machine": machine, "versions": {}}


def test_a_summary_is_the_median_of_all_runs_and_how_far_they_are_apart() -> None:
    found = summary(
        [{"rate": 90.0, "server": "one"}, {"rate": 120.0, "server": "one"}, {"rate": 100.0, "server": "one"}]
    )
    assert found["median"] == {"rate": 100.0}
    assert found["spread"] == {"rate": pytest.approx(0.3)}
    assert found["facts"] == {"server": "one"}
    assert len(found["runs"]) == 3


def test_the_slowest_of_a_thousand_is_seen_at_its_percentile() -> None:
    times = [1.0] * 998 + [9.0, 9.0]
    assert percentile(times, 0.99) == 1.0
    assert percentile(times, 0.999) == 9.0


def test_a_table_says_which_case_has_failed() -> None:
    drawn = table(COLUMNS, report(entry(1234.0), entry(None)), markdown=True)
    assert drawn.splitlines()[2:] == ["| 64 | 1,234 | 0% |", "| 64 | failed |  |"]


def test_only_what_stands_between_the_markers_is_written_anew() -> None:
    page = "before\n<!-- hot -->\nold\n<!-- end hot -->\nafter\n"
    assert written(page, {}) == (
        "before\n<!-- hot -->\nNot measured yet: `python -m benchmarks hot`.\n<!-- end hot -->\nafter\n"
    )


def test_the_page_names_a_peer_without_figures_and_why() -> None:
    measured = report(entry(9000.0), entry(300.0, "DBOS Transact"), entry(None, "Restate", "its server"))
    page = written("<!-- peers -->\n<!-- end peers -->", {"peers": measured})
    assert "| DBOS Transact | SQLite | 300 | 30.0x |" in page
    assert "| Restate | its server | no figures |  |" in page
    assert "missing: not installed" in page
    assert "no figures</text>" in plot(measured)


def test_figures_from_a_busy_machine_say_so() -> None:
    measured = report(entry(1.0))
    measured["machine"]["load_at_start"] = 3.0
    assert "busy already (load 3.0)" in written("<!-- hot -->\n<!-- end hot -->", {"hot": measured})


def test_the_page_shows_what_the_stored_figures_say() -> None:
    reports = read(MEASURED)
    again = "python -m benchmarks report"
    assert written(PAGE.read_text(), reports) == PAGE.read_text(), again
    if "peers" in reports:
        assert PLOT.read_text() == plot(reports["peers"]), again


def test_the_page_shows_what_telemetry_costs() -> None:
    figures = {"plain": 20_000.0, "prometheus_rate": 0.71, "prometheus_processor": 1.4, "server": "SQLite"}
    measured = report({"case": {"journal": "sqlite", "callers": 64, "seconds": 4.0}, **summary([figures])})
    page = written("<!-- observed -->\n<!-- end observed -->", {"observed": measured})
    assert "prometheus: rate" in page
    assert "| sqlite | 64 | 20,000 | 0.71 | 1.40 |" in page
