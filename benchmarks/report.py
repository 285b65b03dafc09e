"""How everything here is measured: each run in a process of its own, runs interleaved, medians and spread, one JSON file.

A benchmark is a module with `arguments(parser)`, `cases(options)`, `measure(case)`, which is called in that process and
returns its figures, and COLUMNS, what is shown of them. A case that fails stands in the file with its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

RESULTS = Path(__file__).parent / "results"
MAX_SECONDS = 1800  # of one run
_LIBRARIES = ("sagalog", "msgspec", "asyncpg", "nats-py")

Case = dict[str, Any]
Figures = dict[str, Any]
Column = tuple[str, str, str]  # heading, figure (or setting of the case), format


class Benchmark(Protocol):
    """What a module here offers."""

    COLUMNS: list[Column]

    def arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def cases(self, options: argparse.Namespace) -> list[Case]: ...

    def measure(self, case: Case) -> Figures: ...


class RunError(Exception):
    """A run ended without figures; the text says why."""


def run(name: str, benchmark: Benchmark, options: argparse.Namespace) -> bool:
    """Measure all cases so many times, write the file, print the table; say whether every case has figures."""
    cases = benchmark.cases(options)
    report: dict[str, Any] = {
        "benchmark": name,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "runs": options.runs,
        "cases": [],
    }
    figures: list[list[Figures]] = [[] for _ in cases]
    failures: list[str | None] = [None] * len(cases)
    for number in range(options.runs):  # interleaved, so that a slow minute of the machine hits every case
        for at, case in enumerate(cases):
            if failures[at] is not None:
                continue
            begun = time.monotonic()
            try:
                figures[at].append(run_child(name, case))
                said = f"{time.monotonic() - begun:.0f} s"
            except RunError as error:
                failures[at] = said = str(error)
            shown = " ".join(f"{key}={value}" for key, value in case.items())
            print(f"{name} {number + 1}/{options.runs}: {shown}: {said}", file=sys.stderr, flush=True)
    for case, runs, failure in zip(cases, figures, failures, strict=True):
        report["cases"].append({"case": case, **summary(runs), **({} if failure is None else {"failed": failure})})
    report["machine"]["load_at_end"] = os.getloadavg()[0]
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"{name}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(table(benchmark.COLUMNS, report))
    for reason in dict.fromkeys(filter(None, failures)):
        print(f"no figures: {reason}")
    print(f"({path})", file=sys.stderr)
    return not any(failures)


def run_child(name: str, case: Case, python: str = sys.executable) -> Figures:
    """Measure one case in a new process and return its figures. Raises RunError."""
    command = [python, "-m", "benchmarks", "--child", name, json.dumps(case)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=MAX_SECONDS)
    except subprocess.TimeoutExpired:
        raise RunError(f"not done after {MAX_SECONDS} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        if len(lines) > 1:
            print(done.stderr, file=sys.stderr)
        raise RunError(lines[-1][:300])
    sys.stderr.write(done.stderr)  # warnings of the engine: they belong to the run
    found: Figures = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def summary(runs: list[Figures]) -> dict[str, Any]:
    """Return the median of each figure and its spread, (highest - lowest) / median; texts are facts, and do not change."""
    median: Figures = {}
    spread: Figures = {}
    facts: dict[str, str] = {}
    for key in runs[0] if runs else ():
        values = [one[key] for one in runs if one.get(key) is not None]
        if not values:
            continue
        if isinstance(values[0], str):
            facts[key] = values[0]
            continue
        median[key] = statistics.median(values)
        spread[key] = (max(values) - min(values)) / median[key] if median[key] else 0.0
    return {"median": median, "spread": spread, "facts": facts, "runs": runs}


def table(columns: list[Column], report: dict[str, Any], *, markdown: bool = False) -> str:
    """Draw the cases of a report, a line each. A format `spread` shows how far the runs of that figure are apart."""
    rows = [[heading for heading, _, _ in columns]]
    rows += [[_cell(entry, key, form) for _, key, form in columns] for entry in report["cases"]]
    numeric = [form not in ("s", "") for _, _, form in columns]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    if markdown:
        rows.insert(1, ["---:" if right else "---" for right in numeric])
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join(
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, numeric, strict=True)).rstrip()
        for row in rows
    )


def _cell(entry: dict[str, Any], key: str, form: str) -> str:
    if form == "spread":
        value = entry["spread"].get(key)
        return "" if value is None else f"{value:.0%}"
    for source in (entry["case"], entry["median"], entry["facts"]):
        if source.get(key) is not None:
            return format(source[key], form)
    return "failed" if "failed" in entry else ""


def machine() -> dict[str, Any]:
    """Say what measures: processor, cores, memory, kernel, and how busy it is already."""
    cpu = platform.processor()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    except OSError:  # not Linux
        cpu = cpu or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "load_at_start": os.getloadavg()[0],
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, SQLite and the libraries that are installed; servers tell theirs in the figures."""
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def percentile(ordered: list[float], part: float) -> float:
    """Return the value below which that part of an ordered list lies."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]
