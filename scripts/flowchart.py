"""Draw the small flowcharts of the pages, so that a reader needs no script from another host.

It reads the little of Mermaid that the pages use: `a --> b & c`, `a -. text .-> b`, `a -- "text" --> b`, `a --> b: text`,
and boxes `a((text))`, `a{{text}}`. What stands left comes before what stands right; an arrow back goes below.
"""

from __future__ import annotations

import re
from html import escape

CHARACTER, BOX, GAP, ROW = 8, 32, 90, 52  # pixels
ARROW = re.compile(
    r"""\s*(?:(?:-->|-\.->|-\.-)(?:\|"?(?P<bar>[^|"]+)"?\|)?|-\.\s+(?P<dotted>.+?)\s+\.->|--\s+"?(?P<text>.+?)"?\s+-->)\s*"""
)
NODE = re.compile(r"""(\[\*\]|\w+)(?:[(\[{/\\]+"?([^"]+?)"?[)\]}/\\]+)?(?::::\w+)?\Z""")


class Flowchart:
    """The boxes of a chart, and the arrows between them."""

    def __init__(self, text: str) -> None:
        self.labels: dict[str, str] = {}
        self.arrows: list[tuple[str, str, str]] = []
        for line in text.strip().splitlines()[1:]:
            if line.strip().startswith("classDef"):
                continue
            path, _, label = line.strip().partition(": ")
            found, end = [*ARROW.finditer(path)], 0
            groups = []
            for arrow in found:
                groups.append(self._boxes(path[end : arrow.start()]))
                end = arrow.end()
            groups.append(self._boxes(path[end:]))
            for arrow, before, after in zip(found, groups, groups[1:], strict=False):
                said = arrow["bar"] or arrow["dotted"] or arrow["text"] or label
                self.arrows += [(one, two, said) for one in before for two in after]
        self.columns = self._columns()

    def _boxes(self, part: str) -> list[str]:
        names = []
        for one in part.split("&"):
            node = NODE.match(one.strip())
            if node is None:
                raise ValueError(f"cannot draw {one.strip()!r}")
            label = node[2] or ("start" if node[1] == "[*]" else node[1])
            if node[1] not in self.labels or node[2]:
                self.labels[node[1]] = label
            names.append(node[1])
        return names

    def _columns(self) -> dict[str, int]:
        """Return how far right each box stands: behind all that lead to it, arrows back left out."""
        order = list(self.labels)
        forward = [(one, two) for one, two, _ in self.arrows if not self._leads(two, one)]
        columns = dict.fromkeys(order, 0)
        for _ in order:
            for one, two in forward:
                columns[two] = max(columns[two], columns[one] + 1)
        return columns

    def _leads(self, start: str, end: str) -> bool:
        """Say whether an arrow that was drawn earlier leads from start to end, so that one between them goes back."""
        reached, todo = set(), [start]
        drawn = self.arrows[: next(n for n, (one, two, _) in enumerate(self.arrows) if (one, two) == (end, start))]
        while todo:
            here = todo.pop()
            if here == end:
                return True
            if here not in reached:
                reached.add(here)
                todo += [two for one, two, _ in drawn if one == here]
        return False

    def svg(self) -> str:
        """Return the picture."""
        width = {
            n: max(len(self.labels[b]) for b, c in self.columns.items() if c == n) * CHARACTER + 24
            for n in set(self.columns.values())
        }
        left, at = {}, 1
        for n in sorted(width):
            said = [len(text) for one, _, text in self.arrows if self.columns[one] == n]
            left[n], at = at, at + width[n] + max([GAP // 2, *(length * 7 + 30 for length in said)])
        stacks: dict[int, list[str]] = {}
        for box, n in self.columns.items():
            stacks.setdefault(n, []).append(box)
        back_from = {one for one, two, _ in self.arrows if self.columns[two] <= self.columns[one]}
        for stack in stacks.values():
            stack.sort(key=back_from.__contains__)  # at the bottom, so that the arrow crosses no box
        rows = max(map(len, stacks.values()))
        top = {b: 14 + (rows - len(s)) * ROW / 2 + ROW * i for s in stacks.values() for i, b in enumerate(s)}
        height, out, back = rows * ROW + 14, [], 0
        for one, two, text in self.arrows:
            x1, y1 = left[self.columns[one]] + width[self.columns[one]], top[one] + BOX / 2
            x2, y2 = left[self.columns[two]], top[two] + BOX / 2
            if x2 > x1:
                middle = (x1 + x2) / 2
                out.append(f'<path class="arrow" d="M{x1} {y1} C{middle} {y1} {middle} {y2} {x2 - 7} {y2}"/>')
                out.append(f'<path class="head" d="M{x2} {y2} l-8 -4 v8 z"/>')
                label = middle - len(text) * 3.3, (y1 + y2) / 2 - 6
            else:
                back += 1
                low, x1, x2 = height + 8, x1 - width[self.columns[one]] / 2, x2 + width[self.columns[two]] / 2
                y1, y2 = y1 + BOX / 2, y2 + BOX / 2
                out.append(f'<path class="arrow" d="M{x1} {y1} V{low} H{x2} V{y2 + 7}"/>')
                out.append(f'<path class="head" d="M{x2} {y2} l-4 8 h8 z"/>')
                label = (x1 + x2) / 2 - len(text) * 3.3, low - 4
            if text:
                out.append(f'<text class="label" x="{label[0]:g}" y="{label[1]:g}">{escape(text)}</text>')
        for box, n in self.columns.items():
            x, y, name = left[n], top[box], self.labels[box]
            out.append(f'<rect class="box" x="{x}" y="{y:g}" width="{width[n]}" height="{BOX}" rx="6"/>')
            middle = x + width[n] / 2 - len(name) * CHARACTER / 2
            out.append(f'<text x="{middle:g}" y="{y + 21:g}">{escape(name)}</text>')
        w, h = max(left[n] + width[n] for n in width) + 2, height + 20 * bool(back)
        head = f'<svg class="flow" viewBox="0 0 {w} {h:g}" width="{w}" height="{h:g}" role="img">'
        return "".join([head, *out, "</svg>"])
