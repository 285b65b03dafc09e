"""The phases of a saga as a Mermaid state diagram, and those that nothing is seen to enter."""

from __future__ import annotations

from .reaction import UNKNOWN_PHASE, Outline, Reaction


def state_diagram(found: Outline) -> str:
    """Return the text of the diagram: which event leads from which phase to which, and what else each expects and keeps.

    Raises ValueError for a saga without phases.
    """
    if not found.phases:
        raise ValueError(f"saga {found.saga} has no phases")
    lines = ["stateDiagram-v2", f"    [*] --> {found.phases[0]}: {_label(_starting(found))}"]
    inside: dict[str, list[str]] = {phase: [] for phase in found.phases}
    for reaction in found.reactions:
        for phase in found.phases if not reaction.during else reaction.during:
            for line in _edges(reaction, phase):
                if line not in lines:
                    lines.append(line)
            if not (reaction.enters or reaction.completes or reaction.compensates or reaction.acts):
                inside[phase].append(f"on {reaction.trigger}")
            if reaction.acts:
                inside[phase].append(reaction.acts)
        for phase, policy in reaction.unexpected.items():
            if policy != "raise" and phase in inside:
                inside[phase].append(f"{policy}s {reaction.trigger}")
    for phase, told in inside.items():
        lines.extend(f"    {phase}: {_label(line)}" for line in dict.fromkeys(told))
    return "\n".join(lines)


def unreached(found: Outline) -> list[str]:
    """Return the phases that no handler is seen to enter; none where one enters what only its run would tell."""
    entered = {phase for reaction in found.reactions for phase in reaction.enters}
    if UNKNOWN_PHASE in entered or found.unread:
        return []
    return [phase for phase in found.phases[1:] if phase not in entered]


def _starting(found: Outline) -> str:
    return ", ".join(reaction.trigger for reaction in found.reactions if reaction.starts)


def _edges(reaction: Reaction, phase: str) -> list[str]:
    ends = [f"    {phase} --> {target}: {_label(reaction.trigger)}" for target in reaction.enters if target != phase]
    if reaction.completes:
        ends.append(f"    {phase} --> [*]: {_label(reaction.trigger)}")
    if reaction.compensates:
        ends.append(f"    {phase} --> [*]: {_label(reaction.trigger)}, compensates")
    return ends


def _label(text: str) -> str:
    return "".join(c if c.isalnum() or c in " _-.,()" else f"#{ord(c)};" for c in text)
