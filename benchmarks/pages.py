"""Write the tables and the plot of docs/performance.md from the JSON files beside it.

A table stands between `<!-- NAME -->` and `<!-- end NAME -->`; everything else on the page is written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.sax.saxutils import escape

from . import brokers, cost, fan, grow, hot, latency, observed, recover, steps, timers
from .report import table

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "performance.md"
MEASURED = DOCS / "performance"  # the JSON files, and the plot
PLOT = MEASURED / "peers.svg"
_PLAIN: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (steps, latency, hot, fan, timers, recover, brokers, grow, observed)
}
_PLOTTED = 64  # callers


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(measured=MEASURED)


def run(options: argparse.Namespace) -> bool:
    reports = read(options.measured)
    PAGE.write_text(written(PAGE.read_text(), reports))
    if "peers" in reports:
        PLOT.write_text(plot(reports["peers"]))
    print(f"{PAGE}: {', '.join(reports) or 'nothing is measured'}")
    return True


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the reports in a folder by name."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def written(page: str, reports: dict[str, dict[str, Any]]) -> str:
    """Return the page with everything between its markers made anew."""

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- {name} -->\n{_section(name, reports)}\n<!-- end {name} -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end \1 -->", fill, page, flags=re.S)


def _section(name: str, reports: dict[str, dict[str, Any]]) -> str:
    if name == "machine":
        return _machine(reports)
    if name not in reports:
        return f"Not measured yet: `python -m benchmarks {name}`."
    report = reports[name]
    if name == "peers":
        body = _peers(report)
    elif name == "cost":
        body = table(cost.COLUMNS, report, markdown=True) + "\n\n" + _phases(report)
    else:
        body = table(_PLAIN[name].COLUMNS, report, markdown=True)
    return "\n\n".join([body, *_notes(report)])


def _notes(report: dict[str, Any]) -> list[str]:
    """Say how it was measured, and what has no figures."""
    seconds = sorted({entry["case"]["seconds"] for entry in report["cases"] if "seconds" in entry["case"]})
    length = f" of {' and '.join(f'{one:g}' for one in seconds)} s" if seconds else ""
    runs = f"Median of {report['runs']} runs{length}" if report["runs"] > 1 else f"One run{length}"
    busy = report["machine"]["load_at_start"]
    load = f"; the machine was busy already (load {busy:.1f})" if busy > report["machine"]["cores"] / 2 else ""
    missing = [
        f"No figures: {', '.join(f'{key} {value}' for key, value in entry['case'].items())}: {entry['failed']}."
        for entry in report["cases"]
        if "failed" in entry
    ]
    return [f"{runs}, {report['at'][:10]}{load}.", *missing]


def _machine(reports: dict[str, dict[str, Any]]) -> str:
    if not reports:
        return "Nothing is measured yet: `scripts/measure`."
    report = reports.get("steps") or next(iter(reports.values()))
    machine, versions = report["machine"], report["versions"]
    told = {entry["facts"].get("server", "") for one in reports.values() for entry in one["cases"] if "facts" in entry}
    servers = sorted(told - {"", "none", "SQLite"})
    named = [f"Python {versions['python']}", f"SQLite {versions['sqlite']}", *servers]
    named += [f"{name} {version}" for name, version in versions.items() if name not in ("python", "sqlite", "sagalog")]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB, {machine['kernel']}; "
        f"{', '.join(named)}."
    )


def _phases(report: dict[str, Any]) -> str:
    """Return the phases of the loop's thread, a column for each case, rare ones together."""
    columns = [
        (f"{e['case']['journal']}, {e['case']['callers']:,}", e["median"]) for e in report["cases"] if e["median"]
    ]
    names = {key for _, median in columns for key in median if key.startswith("phase ")}
    shown = sorted(
        (name for name in names if max(median.get(name, 0) for _, median in columns) >= 1.0),
        key=lambda name: -max(median.get(name, 0) for _, median in columns),
    )
    rows = [["phase, µs/step", *(heading for heading, _ in columns)], ["---", *("---:" for _ in columns)]]
    rows += [[name.removeprefix("phase "), *(f"{m.get(name, 0):.1f}" for _, m in columns)] for name in shown]
    rest = [sum(m.get(name, 0) for name in names.difference(shown)) for _, m in columns]
    rows.append(["all others", *(f"{one:.1f}" for one in rest)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _peers(report: dict[str, Any]) -> str:
    """Return a row for each peer and store: its rates, and how many times as fast Sagalog is."""
    callers = sorted({entry["case"]["callers"] for entry in report["cases"]})
    kinds = list(dict.fromkeys((entry["case"]["peer"], entry["case"]["store"]) for entry in report["cases"]))
    found = {(e["case"]["peer"], e["case"]["store"], e["case"]["callers"]): e for e in report["cases"]}
    rows = [["", "on", *(f"steps/s, {_callers(n)}" for n in callers), *(f"Sagalog, {_callers(n)}" for n in callers)]]
    rows.append(["---", "---", *("---:" for _ in range(2 * len(callers)))])
    for peer, store in kinds:
        rates = [_rate(found.get((peer, store, n))) for n in callers]
        ours = [_rate(found.get(("Sagalog", store if store != "its server" else "SQLite", n))) for n in callers]
        times = [
            "" if peer == "Sagalog" or not rate or not our else f"{our / rate:,.1f}x"
            for rate, our in zip(rates, ours, strict=True)
        ]
        rows.append([peer, store, *("no figures" if rate is None else f"{rate:,.0f}" for rate in rates), *times])
    versions = dict.fromkeys(e["facts"]["version"] for e in report["cases"] if e["facts"].get("version"))
    lines = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    picture = f"![Durable steps a second, as in the table](performance/{PLOT.name})"
    return f"{picture}\n\n{lines}\n\nVersions: {', '.join(versions)}."


def _callers(count: int) -> str:
    return f"{count:,} caller{'' if count == 1 else 's'}"


def _rate(entry: dict[str, Any] | None) -> float | None:
    return None if entry is None else entry["median"].get("steps_per_second")


def plot(report: dict[str, Any]) -> str:
    """Draw steps a second of each peer as bars, legible on light and on dark pages."""
    callers = {entry["case"]["callers"] for entry in report["cases"]}
    shown = _PLOTTED if _PLOTTED in callers else max(callers)
    bars = [
        (f"{e['case']['peer']}, {e['case']['store']}", e["case"]["peer"] == "Sagalog", _rate(e))
        for e in report["cases"]
        if e["case"]["callers"] == shown
    ]
    longest = max((rate or 0 for _, _, rate in bars), default=0) or 1
    left, width, row = 210, 430, 26
    height = 40 + row * len(bars)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 90} {height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="13">',
        f"<title>Durable steps a second, {shown:,} callers</title>",
        "<style>text { fill: #24292f } .peer { fill: #8c959f } .ours { fill: #2f7ed8 }"
        " @media (prefers-color-scheme: dark) { text { fill: #d0d7de } }</style>",
        f'<text x="{left}" y="20" font-weight="600">Durable steps a second, {shown:,} callers</text>',
    ]
    for at, (label, ours, rate) in enumerate(bars):
        y = 34 + at * row
        length = max(1.0, width * (rate or 0) / longest)
        value = "no figures" if rate is None else f"{rate:,.0f}"
        lines += [
            f'<text x="{left - 10}" y="{y + 14}" text-anchor="end">{escape(label)}</text>',
            f'<rect class="{"ours" if ours else "peer"}" x="{left}" y="{y}" width="{length:.1f}" height="18" rx="2"/>',
            f'<text x="{left + length + 8:.1f}" y="{y + 14}">{value}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"
