"""The picture of a saga: its statuses with how many stand there, and which event led to which command."""

from __future__ import annotations

from collections import Counter, defaultdict

import msgspec

from .flow import Flow
from .tally import Tally

MAX_EVENTS = 40
_ROW = 34
_TOP = 30
_WIDTH = 760
_LEFT, _RIGHT, _BOX = 8, 492, 260

# Where each status stands in the picture: left edge and top edge of its box.
_PLACES = {
    "running": (20, 90),
    "parked": (20, 200),
    "completed": (290, 20),
    "compensating": (290, 110),
    "cancelled": (290, 200),
    "compensated": (560, 80),
    "compensation_failed": (560, 170),
}
_ARROWS = [
    ("running", "completed"),
    ("running", "compensating"),
    ("running", "cancelled"),
    ("running", "parked"),
    ("compensating", "compensated"),
    ("compensating", "compensation_failed"),
]
BOX_WIDTH, BOX_HEIGHT = 170, 56


class Box(msgspec.Struct, frozen=True):
    """A status, where it is drawn, and how many instances have it."""

    status: str
    x: int
    y: int
    number: int


class Curve(msgspec.Struct, frozen=True):
    """A curve, as an SVG path; `weight` is its width."""

    path: str
    weight: float
    kind: str = ""
    label: str = ""


class Node(msgspec.Struct, frozen=True):
    """An event or what it led to, in the second picture."""

    label: str
    kind: str  # event | command | timer | status
    x: int
    y: int
    note: str = ""


class Row(msgspec.Struct, frozen=True):
    """An event and all that it was seen to lead to, for the table that says the same as the picture."""

    event: str
    starts: bool
    targets: list[tuple[str, str, int]]


class Diagram(msgspec.Struct):
    """Both pictures of one saga. `unseen`: events that its code handles and that were not seen."""

    boxes: list[Box]
    arrows: list[Curve]
    nodes: list[Node]
    lines: list[Curve]
    height: int
    rows: list[Row]
    unseen: list[str]
    width: int = _WIDTH


def diagram(tally: Tally, flow: Flow, saga: str, events: dict[str, bool] | None = None) -> Diagram:
    """Return the pictures of a saga. `events`: those its code handles, and whether each may start it, if that is known."""
    boxes = [Box(status, x, y, tally.count(status, saga=saga)) for status, (x, y) in _PLACES.items()]
    arrows = [Curve(_arrow(*_PLACES[start], *_PLACES[end]), 1.5) for start, end in _ARROWS]
    led: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for transition, number in flow.transitions.items():
        if transition.saga == saga:
            led[transition.event][transition.kind, transition.target] += number
    known = events or {}
    rows = [
        Row(event, known.get(event, False), [(kind, target, n) for (kind, target), n in found.most_common() if target])
        for event, found in sorted(led.items(), key=lambda item: (not known.get(item[0], False), item[0]))
    ][:MAX_EVENTS]
    nodes, lines, height = _drawn(rows)
    unseen = sorted(event for event in known if event not in led)
    return Diagram(boxes, arrows, nodes, lines, height, rows, unseen)


def _arrow(x: int, y: int, to_x: int, to_y: int) -> str:
    if to_x == x:  # straight down
        middle = x + BOX_WIDTH // 2
        return f"M{middle} {y + BOX_HEIGHT} L{middle} {to_y - 4}"
    start_x, start_y = x + BOX_WIDTH, y + BOX_HEIGHT // 2
    end_x, end_y = to_x - 4, to_y + BOX_HEIGHT // 2
    half = (start_x + end_x) // 2
    return f"M{start_x} {start_y} C{half} {start_y} {half} {end_y} {end_x} {end_y}"


def _drawn(rows: list[Row]) -> tuple[list[Node], list[Curve], int]:
    targets = list(dict.fromkeys((kind, target) for row in rows for kind, target, _ in row.targets))
    targets.sort(key=lambda one: (("command", "timer", "status").index(one[0]), one[1]))
    total = max((number for row in rows for _, _, number in row.targets), default=1)
    height = _TOP + _ROW * max(len(rows), len(targets), 1) + 4
    nodes = [
        Node(row.event, "event", _LEFT, _TOP + index * _ROW, "starts" if row.starts else "")
        for index, row in enumerate(rows)
    ]
    places = {}
    for index, (kind, target) in enumerate(targets):
        places[kind, target] = _TOP + index * _ROW
        nodes.append(Node(target, kind, _RIGHT, _TOP + index * _ROW))
    lines = []
    for index, row in enumerate(rows):
        for kind, target, number in row.targets:
            y, to_y = _TOP + index * _ROW + 13, places[kind, target] + 13
            half = (_LEFT + _BOX + _RIGHT) // 2
            path = f"M{_LEFT + _BOX} {y} C{half} {y} {half} {to_y} {_RIGHT} {to_y}"
            lines.append(
                Curve(path, round(1 + 4 * number / total, 1), kind, f"{row.event} led to {target}: {number:,}")
            )
    return nodes, lines, height
