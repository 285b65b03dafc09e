"""What one step costs, by phase: microseconds of processor time on the event loop's thread, in other threads and in the
server, and bytes written to disk.

The loop's thread is sampled each millisecond of processor time. A sample counts for what that thread used since the one
before, and goes to the phase of the innermost frame that is Sagalog's or the benchmark's; the rest is the event loop.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import sagalog
from sagalog import open_journal

from .report import Case, Column, Figures
from .servers import JOURNALS, server, version_of
from .steps import average_size, load

COLUMNS: list[Column] = [
    ("journal", "journal", "s"),
    ("callers", "callers", ",d"),
    ("loop µs/step", "loop_us", ".1f"),
    ("other threads µs", "threads_us", ".1f"),
    ("server µs", "server_us", ".1f"),
    ("written bytes/step", "written_bytes", ",.0f"),
    ("record bytes", "record_bytes", ",.0f"),
]
_OURS = str(Path(sagalog.__file__).parent) + os.sep
_HERE = str(Path(__file__).parent) + os.sep


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--journal", choices=JOURNALS, nargs="+", default=["memory", "sqlite"])
    parser.add_argument("--callers", type=int, nargs="+", default=[64])
    parser.add_argument("--seconds", type=float, default=4.0)


def cases(options: argparse.Namespace) -> list[Case]:
    return [
        {"journal": journal, "callers": callers, "seconds": options.seconds}
        for journal in options.journal
        for callers in options.callers
    ]


def measure(case: Case) -> Figures:
    with tempfile.TemporaryDirectory(prefix="sagalog-bench-") as folder, server(case["journal"], Path(folder)) as url:
        return asyncio.run(_measure(url, case))


async def _measure(url: str, case: Case) -> Figures:
    async with open_journal(url) as journal:
        await journal.open()
        await load(journal, case["callers"], 0.5, "warm")
        servers, written = _server_seconds(), _written_bytes()
        loop, process = time.thread_time(), time.process_time()
        with _sampled() as phases:
            latencies, _, _ = await load(journal, case["callers"], case["seconds"])
        loop, process = time.thread_time() - loop, time.process_time() - process
        servers, written = _server_seconds() - servers, _written_bytes() - written
        steps = len(latencies)
        figures: Figures = {
            "loop_us": loop / steps * 1e6,
            "threads_us": max(0.0, process - loop) / steps * 1e6,
            "server_us": servers / steps * 1e6 if servers else None,
            "written_bytes": written / steps,
            "record_bytes": await average_size(journal),
            "server": await version_of(url),
        }
    sampled = sum(phases.values())
    for phase, seconds in sorted(phases.items(), key=lambda entry: -entry[1]):
        figures[f"phase {phase}"] = loop * seconds / sampled / steps * 1e6
    return figures


@contextmanager
def _sampled() -> Iterator[dict[str, float]]:
    """Collect the processor time of this thread by phase."""
    phases: dict[str, float] = defaultdict(float)
    names: dict[str, str | None] = {}
    last = time.thread_time()

    def sample(number: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.thread_time()
        found = "event loop"
        while frame is not None and frame.f_code.co_name != "_run_once":  # what called the loop did not cost this
            path = frame.f_code.co_filename
            if path not in names:
                names[path] = _phase(path)
            phase = names[path]
            if phase is not None:
                found = phase
                break
            frame = frame.f_back
        phases[found] += now - last
        last = now

    before = signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
    try:
        yield phases
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _phase(path: str) -> str | None:
    """Return the phase that a file is: a module of the engine, the journal, or the benchmark's own callers."""
    if path.startswith(_HERE):
        return "saga's handlers" if path.endswith("orders.py") else "callers"
    if not path.startswith(_OURS):
        return None
    module = path.removeprefix(_OURS).removesuffix(".py").replace(os.sep, ".").removesuffix(".__init__")
    return "journal" if module.startswith("journal") else module.removeprefix("runner.")


def _descendants() -> list[int]:
    """Return the processes that this one started: the servers."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _read(entry / "stat").rpartition(")")[2].split()
            if len(fields) > 1:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = children.get(os.getpid(), [])
    for process in found:
        found.extend(children.get(process, []))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # ended meanwhile
        return ""


def _total(of: Callable[[int], float], processes: list[int]) -> float:
    return sum(of(process) for process in processes)


def _server_seconds() -> float:
    tick = os.sysconf("SC_CLK_TCK")

    def seconds(process: int) -> float:
        fields = _read(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / tick if len(fields) > 14 else 0.0  # its own, and of children that ended

    return _total(seconds, _descendants())


def _written_bytes() -> float:
    def written(process: int) -> float:
        for line in _read(Path(f"/proc/{process}/io")).splitlines():
            if line.startswith("write_bytes"):
                return float(line.split()[1])
        return 0.0

    return _total(written, [os.getpid(), *_descendants()])
