"""Write docs/demo.svg: what one run of `sagalog demo` printed, line by line, at the pace of that run.

It needs nothing to show it but a browser. Where animation is not wanted, everything is shown at once.
"""

from __future__ import annotations

import re
import subprocess
import sys
from html import escape
from pathlib import Path

TARGET = Path(__file__).parents[1] / "docs" / "demo.svg"
LINE, COLUMN, EDGE = 20, 7.85, 16  # pixels
SLOWER = 4  # the run takes two seconds, which nobody can read
STYLE = """
text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace }
text { white-space: pre; fill: #d7dde4 }
.prompt { fill: #7fd1a0 } .kill { fill: #ff8a80; font-weight: bold } .proof { fill: #7fd1a0; font-weight: bold }
@media (prefers-reduced-motion: no-preference) {
  text { opacity: 0; animation: shown .15s forwards }
  @keyframes shown { to { opacity: 1 } }
}
"""


def told() -> list[str]:
    """Run the demo, and return the lines that it prints."""
    done = subprocess.run([sys.executable, "-m", "sagalog", "demo"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def drawn(lines: list[str]) -> str:
    """Return the picture of these lines. Each appears at the moment that it begins with, slowed down."""
    lines = ["$ sagalog demo", *lines]
    width = round(max(map(len, lines)) * COLUMN + 2 * EDGE)
    height = len(lines) * LINE + 2 * EDGE
    shown = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' role="img">',
        "<title>sagalog demo: a worker is killed, another one takes over, nothing is lost</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#16191d"/>',
    ]
    moment = 0.0
    for number, line in enumerate(lines):
        if at := re.match(r" *([\d.]+) s  ", line):
            moment = max(moment + 0.3, 0.5 + float(at[1]) * SLOWER)
        elif number:
            moment += 0.3
        kind = (
            "prompt" if not number else "kill" if "kill -9" in line else "proof" if line.startswith("Nothing") else ""
        )
        name = f' class="{kind}"' if kind else ""
        y = EDGE + (number + 0.7) * LINE
        shown.append(f'<text x="{EDGE}" y="{y:g}"{name} style="animation-delay:{moment:.1f}s">{escape(line)}</text>')
    return "\n".join([*shown, "</svg>", ""])


if __name__ == "__main__":
    TARGET.write_text(drawn(told()))
