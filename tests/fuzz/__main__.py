"""`make fuzz`: every target in a process of its own, fed by coverage for some seconds. Findings go to `.fuzz/`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
FINDINGS = Path(".fuzz")


def run_one(name: str, seconds: int, corpus: str) -> None:
    """Fuzz one target in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=["sagalog"]):
        from .targets import TARGETS
    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={seconds}",
            "-max_len=4096",
            "-timeout=10",
            f"-artifact_prefix={FINDINGS}/{name}-",
            "-print_final_stats=1",
            corpus,
            str(CORPUS / name),
        ],
        TARGETS[name],
    )
    atheris.Fuzz()


def main() -> int:
    """Fuzz the named targets, or all; return 1 if one of them was found wanting."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="which; default: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--corpus", help="a folder that keeps what was found to reach new code")
    options = parser.parse_args()
    if options.alone:
        run_one(options.targets[0], options.seconds, options.corpus)
    failed = []
    FINDINGS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.targets or sorted(one.name for one in CORPUS.iterdir()):
            found = Path(options.corpus or scratch) / name
            found.mkdir(parents=True, exist_ok=True)
            print(f"{name}: {options.seconds} s", flush=True)
            command = [sys.executable, "-m", "tests.fuzz", name, "--alone", "--corpus", str(found)]
            done = subprocess.run([*command, "--seconds", str(options.seconds)], check=False)
            if done.returncode:
                failed.append(name)
    print(f"found something, see {FINDINGS}/: {', '.join(failed)}" if failed else "nothing found")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
