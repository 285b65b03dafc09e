"""What a handler may do, read from its source: the actions that it names, with what is written in them.

Only what is written can be found: a command that is made elsewhere and passed in is shown as "a command". Methods of the
saga and functions of its module that a handler calls are followed, and constants of its module are looked up.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from datetime import time, timedelta
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
from ..definition.saga import Saga
from ..definition.schema import schema_of
from .reaction import UNKNOWN_PHASE, Reaction

_UNNAMED = "a command"
_UNNAMED_CHILD = "a saga"


def read(saga: type, function: Any, reaction: Reaction, seen: set[Any]) -> bool:
    """Add what `function` may do; say whether its source was there."""
    function = inspect.unwrap(function)
    if function in seen:
        return True
    seen.add(function)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return False
    names = _names(saga, function)
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
            _ACTIONS[called](reaction, _with_values(call, names), assigned)
        elif isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
            inner = getattr(saga, call.func.attr, None) if call.func.value.id == "self" else None
            if inspect.isfunction(inner) and inner is not getattr(Saga, call.func.attr, None):
                read(saga, inner, reaction, seen)
        elif inspect.isfunction(called) and called.__module__ == function.__module__:
            read(saga, called, reaction, seen)
    return True


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls in the order of the source."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    yield from sorted(found, key=lambda call: (call.lineno, call.col_offset))


def _names(saga: type, function: Any) -> Callable[[ast.AST], Any]:
    """Return what finds the object that an expression like `Send` or `shop.ShipOrder` names, None where it cannot."""
    cells = inspect.getclosurevars(function)
    known = {**cells.builtins, **function.__globals__, **cells.nonlocals}
    for local in function.__code__.co_varnames:  # it hides what is outside
        known.pop(local, None)
    known["self"] = saga

    def named(node: ast.AST) -> Any:
        if isinstance(node, ast.Name):
            return known.get(node.id)
        if isinstance(node, ast.Attribute):
            return getattr(named(node.value), node.attr, None)
        return None

    return named


def _with_values(call: ast.Call, names: Callable[[ast.AST], Any]) -> ast.Call:
    """Return the call with the values of the constants that its arguments name: `zone=BERLIN`, `after=DAY`."""

    def value(node: ast.expr) -> ast.expr:
        found = names(node) if isinstance(node, (ast.Name, ast.Attribute)) else None
        return ast.Constant(found) if isinstance(found, (str, timedelta, time)) else node  # type: ignore[arg-type]

    keywords = [ast.keyword(one.arg, value(one.value)) for one in call.keywords]
    return ast.copy_location(ast.Call(call.func, [value(one) for one in call.args], keywords), call)


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


def told(span: timedelta) -> str:
    """Return a span of time for people: whole days without the hours that they do not have."""
    return str(span).removesuffix(", 0:00:00")


def _span(node: ast.expr) -> str:
    """Return a span of time as it is written: timedelta(days=1) as 1 day; nothing where it is made elsewhere."""
    if isinstance(node, ast.Constant):
        return told(node.value) if isinstance(node.value, timedelta) else ""
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
    told = []
    if (cron := _given(call, 5, "cron")) is not None:
        told.append(f"cron {cron.value!s}" if isinstance(cron, ast.Constant) else "again and again")
    elif (every := _given(call, 4, "every")) is not None:
        told.append(f"every {_span(every)}".rstrip())
    if (zone := _given(call, 6, "zone")) is not None:
        local = _given(call, 3, "at")
        told += [f"at {_clock(local)}".rstrip()] if local is not None and not told else []
        told.append(str(zone.value) if isinstance(zone, ast.Constant) else "in a zone")
    if isinstance(missed := _given(call, 7, "missed"), ast.Constant):
        told.append(f"missed {missed.value!s}")
    if told:
        reaction.recurs[name] = ", ".join(told)


def _given(call: ast.Call, position: int, name: str) -> ast.expr | None:
    """Return an argument; None where it is left out, or None."""
    found = _argument(call, position, name)
    return None if isinstance(found, ast.Constant) and found.value is None else found


def _clock(node: ast.expr) -> str:
    """Return a time of day as it is written: time(18, 30) as 18:30; nothing where it is made elsewhere."""
    if isinstance(node, ast.Constant):
        return f"{node.value:%H:%M}" if isinstance(node.value, time) else ""
    given = [one.value for one in node.args if isinstance(one, ast.Constant)] if isinstance(node, ast.Call) else []
    parts = [one for one in given if isinstance(one, int)]
    return ":".join(f"{part:02}" for part in (*parts, 0)[:2]) if len(parts) in (1, 2) else ""


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
