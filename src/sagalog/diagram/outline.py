"""What a saga may do, without running it: decorators say what it reacts to, the source of each handler names its actions.

Only what is written can be found: a command that is made elsewhere and passed in is shown as "a command". Methods of the
saga and functions of its module that a handler calls are followed.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ..definition.actions import (
    AddKey,
    CancelTimer,
    Compensate,
    Complete,
    Enter,
    Gather,
    RemoveKey,
    Run,
    Schedule,
    Send,
    SetTimer,
    StartChild,
)
from ..definition.routes import Route
from ..definition.saga import Saga
from ..definition.schema import schema_of

_UNNAMED = "a command"
_UNNAMED_CHILD = "a saga"
UNKNOWN_PHASE = "?"  # one that only a run would tell


@dataclass(slots=True)
class Reaction:
    """One event, or the refusal of a command, and what its handler may do: names, in the order they are written."""

    trigger: str
    method: str
    starts: bool = False
    refusal: bool = False
    legs: tuple[str, ...] = ()  # of a join: the events that all have to come
    sends: dict[str, str] = field(default_factory=dict)  # command -> its undo, or nothing
    requests: dict[str, tuple[str, str]] = field(
        default_factory=dict
    )  # command -> how long, and the event if no answer
    gathers: dict[str, tuple[str, str]] = field(default_factory=dict)  # name -> the events of its end, well or not
    children: dict[str, str] = field(default_factory=dict)  # saga of a child that it starts -> its undo, or nothing
    ended: str = ""  # it is no event: a child of that saga has ended
    schedules: list[str] = field(default_factory=list)
    sets: dict[str, str] = field(default_factory=dict)  # timer -> the event it brings
    recurs: dict[str, str] = field(default_factory=dict)  # timer that comes again -> how often, as far as is written
    cancels: list[str] = field(default_factory=list)
    compensates: bool = False
    chain: list[str] = field(default_factory=list)  # what Compensate(...) names itself
    completes: bool = False
    during: tuple[str, ...] = ()  # phases that expect it; none are named: all of them
    unexpected: dict[str, str] = field(default_factory=dict)  # phase -> what it does with such an event
    enters: list[str] = field(default_factory=list)  # phases
    activity: bool = False  # it is no event, it is an activity that has ended
    runs: list[str] = field(default_factory=list)  # activities that it begins
    answers: str = ""  # the activity that waits for it
    undone_by: str = ""  # of an activity: the method
    failing: str = ""  # of an activity: the method that is called where it has failed
    notes: tuple[str, ...] = ()  # of an activity: what is special about it
    by: str = ""  # the key by which the event reaches instances
    adds: list[str] = field(default_factory=list)  # keys
    removes: list[str] = field(default_factory=list)  # keys
    acts: str = ""  # it is no event: "entering" or "leaving" one of the phases in `during`

    @property
    def title(self) -> str:
        """The trigger, with its key and its phases where it has some; an activity with what is special about it."""
        if self.activity:
            return f"{self.trigger} ({', '.join(self.notes)})" if self.notes else self.trigger
        notes = [*([f"by {self.by}"] if self.by else []), *(self.during if not self.acts else ())]
        return f"{self.trigger} ({', '.join(notes)})" if notes else self.trigger


@dataclass(frozen=True, slots=True)
class Outline:
    """A saga's reactions: starting events first, then in the order of its class. `unread`: no source was found there.

    `phases`: their names, the initial one first.
    """

    saga: str
    reactions: tuple[Reaction, ...]
    unread: tuple[str, ...] = ()
    phases: tuple[str, ...] = ()


def outline(saga: type[Saga[Any]]) -> Outline:
    """Return what `saga` may do. A saga that overrides `handle` is shown as one reaction to "any event"."""
    reactions = [
        Reaction(
            schema_of(route.event).name,
            route.method,
            route.starts,
            during=tuple(member.name for member in route.during),
            unexpected=_unexpected(saga, route),
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
            if not _read(saga, getattr(saga, method), reaction, set()):
                unread.append(method)
    return Outline(saga.name, tuple(reactions), tuple(unread), _phases(saga))


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
        if options.when is not None:
            notes.append("where needed")
        if options.within is not None:
            notes.append(f"within {str(options.within).removesuffix(', 0:00:00')}")
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


def _line(saga: type, method: str) -> int:
    code = getattr(getattr(saga, method), "__code__", None)
    return code.co_firstlineno if code is not None else 0


def _read(saga: type, function: Any, reaction: Reaction, seen: set[Any]) -> bool:
    """Add what `function` may do; say whether its source was there."""
    function = inspect.unwrap(function)
    if function in seen:
        return True
    seen.add(function)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return False
    names = _names(function)
    assigned = _assigned(tree, names)
    for call in _calls(tree):
        called = names(call.func)
        if called is Enter:
            phase = names(_argument(call, 0, "phase") or call)
            reaction.enters.append(phase.name if isinstance(phase, Enum) else UNKNOWN_PHASE)
        elif called is StartChild:
            child = getattr(names(_argument(call, 0, "saga") or call), "name", _UNNAMED_CHILD)
            undo = _argument(call, 2, "undo")
            empty = undo is None or (isinstance(undo, ast.Constant) and undo.value is None)
            reaction.children[str(child)] = "" if empty else assigned(undo)
        elif called in _ACTIONS:
            _ACTIONS[called](reaction, call, assigned)
        elif isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
            inner = getattr(saga, call.func.attr, None) if call.func.value.id == "self" else None
            if inspect.isfunction(inner) and inner is not getattr(Saga, call.func.attr, None):
                _read(saga, inner, reaction, seen)
        elif inspect.isfunction(called) and called.__module__ == function.__module__:
            _read(saga, called, reaction, seen)
    return True


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls in the order of the source."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    yield from sorted(found, key=lambda call: (call.lineno, call.col_offset))


def _names(function: Any) -> Callable[[ast.AST], Any]:
    """Return what finds the object that an expression like `Send` or `shop.ShipOrder` names, None where it cannot."""
    cells = inspect.getclosurevars(function)
    known = {**cells.builtins, **function.__globals__, **cells.nonlocals}

    def named(node: ast.AST) -> Any:
        if isinstance(node, ast.Name):
            return known.get(node.id)
        if isinstance(node, ast.Attribute):
            return getattr(named(node.value), node.attr, None)
        return None

    return named


Describe = Callable[[ast.expr | None], str]


def _assigned(tree: ast.AST, names: Callable[[ast.AST], Any]) -> Describe:
    """Return what names the message that an expression makes: a call of its class, or a variable set to one."""
    variables = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }

    def describe(node: ast.expr | None) -> str:
        if isinstance(node, ast.Name) and node.id in variables and variables[node.id] is not node:
            node = variables[node.id]
        made = names(node.func) if isinstance(node, ast.Call) else None
        return schema_of(made).name if isinstance(made, type) else _UNNAMED

    return describe


def _argument(call: ast.Call, position: int, name: str) -> ast.expr | None:
    if len(call.args) > position:
        return call.args[position]
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)


def _text(node: ast.expr | None) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else "a timer"


def _span(node: ast.expr) -> str:
    """Return a span of time as it is written: timedelta(days=1) as 1 days; nothing where it is made elsewhere."""
    if not isinstance(node, ast.Call) or not node.keywords:
        return ""
    parts = [(one.arg, one.value.value) for one in node.keywords if isinstance(one.value, ast.Constant)]
    return ", ".join(f"{value!s} {str(name)[:-1] if value == 1 else name}" for name, value in parts)


def _send(reaction: Reaction, call: ast.Call, describe: Describe) -> None:
    undo = _argument(call, 1, "undo")
    empty = undo is None or (isinstance(undo, ast.Constant) and undo.value is None)
    reaction.sends[describe(_argument(call, 0, "command"))] = "" if empty else describe(undo)
    _request(reaction, call, describe)


def _request(reaction: Reaction, call: ast.Call, describe: Describe) -> None:
    within, otherwise = _argument(call, 2, "reply_within"), _argument(call, 3, "otherwise")
    if within is not None and otherwise is not None:
        reaction.requests[describe(_argument(call, 0, "command"))] = _span(within), describe(otherwise)


def _gather(reaction: Reaction, call: ast.Call, describe: Describe) -> None:
    name, failed = _argument(call, 0, "name"), _argument(call, 3, "failed")
    told = str(name.value) if isinstance(name, ast.Constant) else "a gather"
    reaction.gathers[told] = describe(_argument(call, 2, "then")), "" if failed is None else describe(failed)


def _schedule(reaction: Reaction, call: ast.Call, describe: Describe) -> None:
    reaction.schedules.append(describe(_argument(call, 0, "command")))


def _set(reaction: Reaction, call: ast.Call, describe: Describe) -> None:
    event = describe(_argument(call, 1, "event"))
    name = _text(_argument(call, 0, "name"))
    reaction.sets[name] = "an event" if event == _UNNAMED else event
    if (cron := _argument(call, 5, "cron")) is not None:
        reaction.recurs[name] = f"cron {cron.value!s}" if isinstance(cron, ast.Constant) else "again and again"
    elif (every := _argument(call, 4, "every")) is not None:
        reaction.recurs[name] = f"every {_span(every)}".rstrip()


def _cancel(reaction: Reaction, call: ast.Call, describe: Describe) -> None:
    reaction.cancels.append(_text(_argument(call, 0, "name")))


def _compensate(reaction: Reaction, call: ast.Call, describe: Describe) -> None:
    reaction.compensates = True
    chain = _argument(call, 0, "commands")
    if isinstance(chain, (ast.Tuple, ast.List)):
        reaction.chain += [describe(one) for one in chain.elts]


def _run(reaction: Reaction, call: ast.Call, describe: Describe) -> None:
    node = _argument(call, 0, "activity")
    name = node.attr if isinstance(node, ast.Attribute) else _text(node) if isinstance(node, ast.Constant) else ""
    reaction.runs.append(name or "an activity")


def _complete(reaction: Reaction, call: ast.Call, describe: Describe) -> None:
    reaction.completes = True


def _add(reaction: Reaction, call: ast.Call, describe: Describe) -> None:
    reaction.adds.append(_key(call))


def _remove(reaction: Reaction, call: ast.Call, describe: Describe) -> None:
    reaction.removes.append(_key(call))


def _key(call: ast.Call) -> str:
    name = _argument(call, 0, "key")
    return str(name.value) if isinstance(name, ast.Constant) else "a key"


_ACTIONS: dict[Any, Callable[[Reaction, ast.Call, Describe], None]] = {
    Send: _send,
    Gather: _gather,
    Schedule: _schedule,
    SetTimer: _set,
    CancelTimer: _cancel,
    Compensate: _compensate,
    Complete: _complete,
    Run: _run,
    AddKey: _add,
    RemoveKey: _remove,
}
