"""The outline of a saga as an SVG file: triggers on the left, what each may do beside it, how it is undone on the right.

Every trigger has rows of its own, so nothing overlaps however large the saga; a timer's dashed arrow leads to the event
that it brings. Readable on light and dark grounds alike; no script, no font and no picture from elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from .reaction import Outline, Reaction

_ROW = 46
_BOX = 32
_MARGIN = 24
_GAP = 120
_LEVEL = 66
_CHARACTER = 7.6  # of the 13 px monospace that is asked for
_STYLE = """
  text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: #1f2937; }
  .title { font-weight: 600; font-size: 15px; }
  .small { font-size: 11px; fill: #6b7280; }
  rect { stroke-width: 1.5; rx: 6px; }
  .event { fill: #3b82f61f; stroke: #3b82f6; } .command { fill: #10b9811f; stroke: #10b981; }
  .undo { fill: #f59e0b1f; stroke: #f59e0b; stroke-dasharray: 4 3; } .timer { fill: #8b5cf61f; stroke: #8b5cf6; }
  .last { fill: #6b72801f; stroke: #6b7280; }
  path { fill: none; stroke: #6b7280; stroke-width: 1.4; } .dashed { stroke-dasharray: 4 3; }
  .fires { stroke: #8b5cf6; stroke-dasharray: 4 3; }
  marker path { fill: #6b7280; stroke: none; }
  @media (prefers-color-scheme: dark) { text { fill: #e5e7eb; } .small { fill: #9ca3af; } path { stroke: #9ca3af; } }
"""

_KEYS = "  .key { fill: #ec48991f; stroke: #ec4899; }\n"


@dataclass(frozen=True, slots=True)
class _Cell:
    """One box of the middle column, and what hangs on it."""

    kind: str
    text: str
    label: str
    undo: str = ""
    brings: str = ""  # the event of a timer
    dashed: bool = False


def svg(found: Outline) -> str:
    """Return the file's text."""
    rows = [(reaction, _cells(reaction)) for reaction in found.reactions]
    left = _width([reaction.title for reaction in found.reactions])
    middle = _width([cell.text for _, cells in rows for cell in cells])
    undos = [cell.undo for _, cells in rows for cell in cells if cell.undo]
    columns = (_MARGIN, _MARGIN + left + _GAP, _MARGIN + left + _GAP + middle + _GAP)
    width = columns[2] + _width(undos) + _MARGIN if undos else columns[2] - _GAP + _MARGIN
    tops: dict[str, float] = {}
    height = 2.0 * _MARGIN + 24
    for reaction, cells in rows:
        tops[reaction.title] = height
        tops.setdefault(reaction.trigger, height)  # where a timer that brings it leads
        height += max(1, len(cells)) * _ROW + 12
    parts: list[str] = []
    for reaction, cells in rows:
        parts += _reaction(reaction, cells, tops, columns, (left, middle, _width(undos)))
    note = (
        "a refused command compensates, unless its refusal is shown; compensation sends the undo commands, last first"
    )
    keys = _KEYS if any(reaction.adds or reaction.removes for reaction in found.reactions) else ""
    width = max(width, len(note) * 6.7 + 2 * _MARGIN)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height + 30:.0f}" '
            f'viewBox="0 0 {width:.0f} {height + 30:.0f}" role="img" aria-label="{_safe("saga " + found.saga)}">',
            f"<style>{_STYLE}{keys}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            'orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>',
            f'<text class="title" x="{_MARGIN}" y="{_MARGIN + 8}">saga {_safe(found.saga)}</text>',
            *parts,
            f'<text class="small" x="{_MARGIN}" y="{height + 12:.0f}">{note}</text>',
            "</svg>",
            "",
        ]
    )


def _cells(reaction: Reaction) -> list[_Cell]:
    return [
        *(_Cell("command", command, "sends", undo) for command, undo in reaction.sends.items()),
        *(
            _Cell("timer", f"no answer to {command}{' in ' * bool(span)}{span}", "or else", brings=event)
            for command, (span, event) in reaction.requests.items()
        ),
        *(
            _Cell("timer", f"gather {name}: {label}", "gathers", brings=event)
            for name, (then, failed) in reaction.gathers.items()
            for event, label in ((then, "all answered"), (failed, "one refused"))
            if event
        ),
        *(
            _Cell("command", f"child {child}", "starts", undo, brings=f"{child} ended")
            for child, undo in reaction.children.items()
        ),
        *(_Cell("command", command, "later") for command in reaction.schedules),
        *(
            _Cell(
                "timer",
                f"timer {name}{', ' * (name in reaction.recurs)}{reaction.recurs.get(name, '')}",
                "sets",
                brings=event,
            )
            for name, event in reaction.sets.items()
        ),
        *(_Cell("timer", f"timer {name}", "cancels", dashed=True) for name in reaction.cancels),
        *(_Cell("key", f"key {name}", "adds") for name in reaction.adds),
        *(_Cell("key", f"key {name}", "removes", dashed=True) for name in reaction.removes),
        *(_Cell("undo", command, "sends") for command in reaction.chain),
        *(_Cell("command", name, "begins") for name in reaction.runs),
        *([_Cell("command", reaction.answers, "ends")] if reaction.answers else []),
        *([_Cell("undo", reaction.undone_by, "undone by", dashed=True)] if reaction.undone_by else []),
        *([_Cell("last", "compensate", "ends")] if reaction.compensates else []),
        *([_Cell("last", "complete", "ends")] if reaction.completes else []),
    ]


def _reaction(
    reaction: Reaction,
    cells: list[_Cell],
    tops: dict[str, float],
    columns: tuple[float, float, float],
    widths: tuple[float, float, float],
) -> list[str]:
    top = tops[reaction.title]
    parts = _box("command" if reaction.activity else "event", columns[0], top, widths[0], reaction.title)
    if reaction.starts:
        parts.append(f'<text class="small" x="{columns[0]}" y="{top - 4:.0f}">starts it</text>')
    right, begin = columns[0] + widths[0], top + _BOX / 2
    for number, cell in enumerate(cells):
        y = top + number * _ROW
        end = y + _BOX / 2
        parts.append(_arrow(right, begin, columns[1], end, "dashed" if cell.dashed else ""))
        parts.append(
            f'<text class="small" x="{columns[1] - 8:.0f}" y="{end - 5:.0f}" text-anchor="end">{cell.label}</text>'
        )
        parts += _box(cell.kind, columns[1], y, widths[1], cell.text)
        if cell.undo:
            parts.append(_arrow(columns[1] + widths[1], end, columns[2], end, "dashed"))
            parts.append(
                f'<text class="small" x="{columns[2] - 8:.0f}" y="{end - 5:.0f}" text-anchor="end">undone by</text>'
            )
            parts += _box("undo", columns[2], y, widths[2], cell.undo)
        if cell.brings in tops:
            parts.append(_arrow(columns[1], end + 8, right, tops[cell.brings] + _BOX - 8, "fires"))
    return parts


def _box(kind: str, x: float, y: float, width: float, text: str) -> list[str]:
    middle = x + width / 2
    return [
        f'<rect class="{kind}" x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{_BOX}"/>',
        f'<text x="{middle:.0f}" y="{y + 21:.0f}" text-anchor="middle">{_safe(text)}</text>',
    ]


def _arrow(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    # Labels stand above the level part beside the right column; curves keep to the left of them.
    if x2 > x1:
        level = x2 - _LEVEL
        bend = (level - x1) * 0.5
        line = (
            f"M{x1:.0f} {y1:.0f} C{x1 + bend:.0f} {y1:.0f} {level - bend:.0f} {y2:.0f} {level:.0f} {y2:.0f} H{x2:.0f}"
        )
    else:
        level = x1 - _LEVEL - 8
        line = f"M{x1:.0f} {y1:.0f} H{level:.0f} C{x2:.0f} {y1:.0f} {level:.0f} {y2:.0f} {x2:.0f} {y2:.0f}"
    return f'<path class="{kind}" d="{line}" marker-end="url(#tip)"/>'


def _width(texts: list[str]) -> float:
    return max((len(text) for text in texts), default=0) * _CHARACTER + 28


def _safe(text: str) -> str:
    return escape("".join(c if c.isprintable() else "\ufffd" for c in text))
