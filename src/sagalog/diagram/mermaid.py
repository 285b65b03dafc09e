"""The outline of a saga as a Mermaid flowchart, which GitHub, GitLab and many editors draw."""

from __future__ import annotations

from .reaction import Outline, Reaction

_CLASSES = (
    "classDef event fill:#3b82f61f,stroke:#3b82f6",
    "classDef command fill:#10b9811f,stroke:#10b981",
    "classDef undo fill:#f59e0b1f,stroke:#f59e0b,stroke-dasharray:4 3",
    "classDef timer fill:#8b5cf61f,stroke:#8b5cf6",
    "classDef last fill:#6b72801f,stroke:#6b7280",
)

_KEYS = "classDef key fill:#ec48991f,stroke:#ec4899"
_ACTIVITY = '(["{}"])'


class _Nodes:
    """The nodes by what they stand for, numbered as they come, so that the text is the same every time."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._ids: dict[tuple[str, str], str] = {}

    def node(self, kind: str, name: str, shape: str = '["{}"]', text: str = "") -> str:
        key = (kind, name)
        if key not in self._ids:
            self._ids[key] = f"{kind}{len(self._ids)}"
            self.lines.append(f"    {self._ids[key]}{shape.format(_escaped(text or name))}:::{kind}")
        return self._ids[key]

    def edge(self, start: str, arrow: str, end: str, label: str = "") -> None:
        text = f'|"{_escaped(label)}"|' if label else ""
        edge = f"    {start} {arrow}{text} {end}"
        if edge not in self.lines:
            self.lines.append(edge)


def mermaid(found: Outline) -> str:
    """Return the text of the flowchart. Solid: what is sent or set. Dashed: undoing, cancelling, refusals."""
    nodes = _Nodes()
    begin = nodes.node("last", "start", '(("{}"))')
    events = {
        reaction.trigger: nodes.node("event", reaction.trigger, text=reaction.noted)
        for reaction in found.reactions
        if not reaction.refusal and not reaction.activity
    }
    titles = {reaction.trigger: reaction.title for reaction in found.reactions if reaction.activity}
    undone: dict[str, str] = {}
    for reaction in found.reactions:
        here = _node_of(nodes, reaction)
        for name in reaction.runs:
            nodes.edge(here, "-->", nodes.node("command", titles.get(name, name), _ACTIVITY), "begins")
        if reaction.answers:
            nodes.edge(here, "-->", nodes.node("command", titles[reaction.answers], _ACTIVITY), "ends")
        if reaction.undone_by:
            undone[reaction.undone_by] = nodes.node("undo", reaction.undone_by, '[\\"{}"\\]')
            nodes.edge(here, "-.-", undone[reaction.undone_by], "undone by")
        if reaction.by:
            nodes.edge(nodes.node("key", reaction.by, '[("{}")]'), "-->", here, "reaches who holds it")
        for name in reaction.adds:
            nodes.edge(here, "-->", nodes.node("key", name, '[("{}")]'), "adds")
        for name in reaction.removes:
            nodes.edge(here, "-.->", nodes.node("key", name, '[("{}")]'), "removes")
        for leg in reaction.legs:
            nodes.edge(events[leg], "-->", here, "one of all")
        if reaction.starts:
            nodes.edge(begin, "-->", here)
        for command, undo in reaction.sends.items():
            sent = nodes.node("command", command, '[/"{}"/]')
            nodes.edge(here, "-->", sent, "sends")
            if undo:
                undone[undo] = nodes.node("undo", undo, '[\\"{}"\\]')
                nodes.edge(sent, "-.-", undone[undo], "undone by")
        for command, (span, event) in reaction.requests.items():
            asked = nodes.node("command", command, '[/"{}"/]')
            if event in events:
                nodes.edge(asked, "-.->", events[event], f"no answer within {span}" if span else "no answer in time")
        for name, (then, failed) in reaction.gathers.items():
            gather = nodes.node("timer", f"gather {name}", '{{{{"{}"}}}}')
            nodes.edge(here, "-->", gather, "sends many")
            if f"legs of {name}" in events:
                nodes.edge(gather, "-->", events[f"legs of {name}"], "each")
            for event, label in ((then, "all answered"), (failed, "one refused")):
                if event in events:
                    nodes.edge(gather, "-->", events[event], label)
        for child, undo in reaction.children.items():
            started = nodes.node("command", f"child {child}", '[["{}"]]')
            nodes.edge(here, "-->", started, "starts")
            if undo:
                undone[undo] = nodes.node("undo", undo, '[\\"{}"\\]')
                nodes.edge(started, "-.-", undone[undo], "undone by")
        if reaction.ended:
            nodes.edge(nodes.node("command", f"child {reaction.ended}", '[["{}"]]'), "-.->", here, "ends")
        for command in reaction.schedules:
            nodes.edge(here, "-->", nodes.node("command", command, '[/"{}"/]'), "later")
        for name, event in reaction.sets.items():
            timer = nodes.node("timer", name, '{{{{"{}"}}}}')
            again = reaction.recurs.get(name, "")
            nodes.edge(here, "-->", timer, f"sets, {again}" if again else "sets")
            if event in events:
                nodes.edge(timer, "-->", events[event], "fires")
        for name in reaction.cancels:
            nodes.edge(here, "-.->", nodes.node("timer", name, '{{{{"{}"}}}}'), "cancels")
        for command in reaction.chain:
            undone[command] = nodes.node("undo", command, '[\\"{}"\\]')
        if reaction.compensates:
            nodes.edge(here, "-->", nodes.node("last", "compensate", '(["{}"])'))
        if reaction.completes:
            nodes.edge(here, "-->", nodes.node("last", "complete", '(["{}"])'))
    for reaction in found.reactions:
        if reaction.refusal:
            command = nodes.node("command", reaction.trigger.removesuffix(" refused"), '[/"{}"/]')
            nodes.edge(command, "-.->", nodes.node("event", reaction.trigger), "refused")
    if undone and any(reaction.activity for reaction in found.reactions):
        nodes.node("last", "compensate", '(["{}"])')
    if any(reaction.compensates or reaction.undone_by for reaction in found.reactions):
        for target in undone.values():
            nodes.edge(nodes.node("last", "compensate", '(["{}"])'), "-.->", target)
    keys = any(reaction.by or reaction.adds or reaction.removes for reaction in found.reactions)
    classes = (*_CLASSES, _KEYS) if keys else _CLASSES
    return "\n".join(["flowchart LR", *nodes.lines, *(f"    {one}" for one in classes)])


def _node_of(nodes: _Nodes, reaction: Reaction) -> str:
    if reaction.activity:
        return nodes.node("command", reaction.title, _ACTIVITY)
    return nodes.node("event", reaction.trigger)


def _escaped(text: str) -> str:
    return "".join(c if c.isalnum() or c in " _-.,:()" else f"#{ord(c)};" for c in text)
