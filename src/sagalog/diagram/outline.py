"""What a saga may do, without running it.

Decorators say what it reacts to, and the source of each handler names its actions.
"""

from __future__ import annotations

from math import inf
from typing import Any

from ..definition.routes import Route
from ..definition.saga import Saga
from ..definition.schema import schema_of
from .reaction import Outline, Reaction
from .source import read, told


def outline(saga: type[Saga[Any]]) -> Outline:
    """Return what `saga` may do. A saga that overrides `handle` is shown as one reaction to "any event"."""
    reactions = [
        Reaction(
            schema_of(route.event).name,
            route.method,
            route.starts,
            during=tuple(member.name for member in route.during),
            unexpected=_unexpected(saga, route),
            notes=_numbered(route),
            by=route.by,
        )
        for route in sorted(saga.routes(), key=lambda route: (not route.starts, _line(saga, route.method)))
    ]
    if saga.handle is not Saga.handle:
        reactions.append(Reaction("any event", "handle", starts=True))
    reactions += [
        Reaction(f"{schema_of(command).name} refused", method, refusal=True)
        for command, method in saga.refusals().items()
    ]
    reactions += [Reaction(f"{child} ended", method, ended=child) for child, method in saga.children().items()]
    reactions += _acting(saga)
    reactions += _activities(saga, reactions)
    reactions += [Reaction(f"all of {', '.join(join.legs)}", join.method, legs=join.legs) for join in saga.joins()]
    reactions += [Reaction(f"legs of {one.name}", one.method) for one in saga.legs().values()]
    unread = []
    for reaction in reactions:
        for method in filter(None, (reaction.method, reaction.failing)):
            if not read(saga, getattr(saga, method), reaction, set()):
                unread.append(method)
    return Outline(saga.name, tuple(reactions), tuple(unread), _phases(saga))


def _numbered(route: Route) -> tuple[str, ...]:
    """Return how the sender numbers such events, and what becomes of a number that never comes."""
    sequence = route.sequence
    if sequence is None:
        return ()
    by = f"numbered by {sequence.field}{' of each ' * bool(sequence.sender)}{sequence.sender or ''}"
    if sequence.gap_within is None:
        return (by,)
    gap = sequence.gap if isinstance(sequence.gap, str) else getattr(sequence.gap, "__name__", "an event")
    return by, f"a gap of {told(sequence.gap_within)}: {gap}"


def _phases(saga: type[Saga[Any]]) -> tuple[str, ...]:
    table = saga.phase_table
    if table is None:
        return ()
    return (table.initial.name, *(member.name for member in table.phases if member is not table.initial))


def _unexpected(saga: type[Saga[Any]], route: Route) -> dict[str, str]:
    table = saga.phase_table
    if table is None:
        return {}
    return {
        member.name: table.policy(route.event, member) or saga.unexpected
        for member in table.phases
        if not table.expects(route.event, member)
    }


def _activities(saga: type[Saga[Any]], reactions: list[Reaction]) -> list[Reaction]:
    """Return the activities, each with those that follow it; let events begin and end theirs."""
    table = saga.activities
    if table is None:
        return []
    for reaction in reactions:
        if reaction.starts:
            reaction.runs += [step.name for step in table.steps.values() if step.after == ()]
        for event, (step, _) in table.awaited.items():
            if schema_of(event).name == reaction.trigger:
                reaction.answers = step.name
    found = []
    for step in table.steps.values():
        options = step.options
        notes = [name for name in ("optional", "parks", "pivot") if getattr(options, name)]
        if options.until is not None:
            notes.append(f"until {schema_of(options.until).name}")
        if options.unless is not None:
            notes.append(f"unless {schema_of(options.unless).name}")
        if options.when is not None:
            notes.append("where needed")
        if options.within is not None:
            notes.append(f"within {told(options.within)}")
        if options.remind is not None:
            notes.append(f"reminds every {told(options.remind)}")
        follow = [other.name for other in table.steps.values() if step.name in (other.after or ())]
        found.append(
            Reaction(
                step.name,
                step.methods.get("then", ""),
                activity=True,
                runs=follow,
                undone_by=step.methods.get("undo", ""),
                failing=step.methods.get("failed", ""),
                notes=tuple(notes),
                completes=table.automatic and not follow,
            )
        )
    return found


def _acting(saga: type[Saga[Any]]) -> list[Reaction]:
    """Return what acts when a phase is entered or left, one for each method."""
    table = saga.phase_table
    if table is None:
        return []
    found: dict[tuple[str, str], list[str]] = {}
    for acts, methods in (("entering", table.entering), ("leaving", table.leaving)):
        for phase, method in methods.items():
            found.setdefault((acts, method), []).append(phase)
    return [
        Reaction(f"{acts} {', '.join(phases)}", method, during=tuple(phases), acts=f"acts on {acts}")
        for (acts, method), phases in found.items()
    ]


def _line(saga: type, method: str) -> float:
    """Return where a handler stands among those of its class. One that is implied, and so not its own, is the last."""
    if getattr(saga, method) is getattr(Saga, method, None):
        return inf
    code = getattr(getattr(saga, method), "__code__", None)
    return code.co_firstlineno if code is not None else 0
