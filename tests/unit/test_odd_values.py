"""Odd values for every parameter of what users construct: our own errors, or a TypeError for a wrong call; nothing else."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest

import sagalog
import sagalog.conformance
import sagalog.testing
from sagalog import DefinitionError, RetryPolicy, RunnerSettings, SagalogError

ODD: dict[str, Any] = {
    "none": None,
    "nan": math.nan,
    "infinite": math.inf,
    "negative": -1,
    "huge": 10**30,
    "text": "5",
    "empty text": "",
    "surrogate": "\ud800",
    "float": 256.0,
    "bytes": b"x",
    "list": [],
    "class": int,
    "object": object(),
}
MODULES = (sagalog, sagalog.testing, sagalog.conformance)
NOT_CALLED = {  # protocols and abstract classes, enumerations, errors, and tests: nobody makes them from values
    *("Action", "Actions", "Clock", "Hook", "Journal", "SagaStateStore", "Saga", "SqliteJournal"),
    *("Capability", "JournalConformance", "StoreConformance"),
}
KNOWN = {  # what lets other errors out today, or may, and where it is to be mended: take a line away when it is
    "EventClock": "runner: a start that is no datetime",
    "InMemorySagaStateStore": "journal/store: a saga name that is no text",
    "Incoming": "runner: fields of other types",
    "JournalSagaStateStore": "journal/store: a journal or a saga name of another type",
    "ManualClock": "runner: a start that is no datetime",
    "RetryPolicy": "runner: settings of other types",
    "RunnerSettings": "runner: settings of other types",
    "SagaRunner": "runner: sagas, journal, dispatch of other types",
    "Scenario": "testing: what is no saga, and a time that is none",
    "VirtualRunner": "testing: what is no saga",
    "on": "definition: what is no event type",
    "on_refused": "definition: what is no command type",
    "open_journal": "journal: a URL that is no text",
    "schema": "definition: a version that is no whole number",
    "starts": "definition: what is no event type",
    "upcast": "definition: a class or version of another type",
}


def targets() -> dict[str, Callable[..., Any]]:
    found = {}
    for module in MODULES:
        for name in module.__all__:
            one = getattr(module, name)
            if name in NOT_CALLED or not callable(one):
                continue
            if isinstance(one, type) and issubclass(one, (BaseException, Enum)):
                continue
            found[name] = one
    return found


def calls() -> list[Any]:
    cases = []
    for name, target in targets().items():
        try:
            parameters = inspect.signature(target).parameters
        except (TypeError, ValueError):
            continue
        for parameter in parameters.values():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            for odd in ODD:
                cases.append(pytest.param(target, parameter.name, odd, id=f"{name}({parameter.name}={odd})"))
    return cases


def fitting(target: Callable[..., Any], but: str) -> dict[str, Any]:
    """Return a text for each other parameter that has to be given."""
    return {
        one.name: "x"
        for one in inspect.signature(target).parameters.values()
        if one.default is one.empty and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL) and one.name != but
    }


@pytest.mark.timeout(10)
@pytest.mark.parametrize(("target", "parameter", "odd"), calls())
def test_an_odd_value_is_taken_or_refused_with_an_error_of_ours(
    target: Callable[..., Any], parameter: str, odd: str, request: pytest.FixtureRequest
) -> None:
    case = request.node.callspec.id
    known = KNOWN.get(case.partition("(")[0])
    try:
        target(**fitting(target, parameter), **{parameter: ODD[odd]})
    except SagalogError as error:
        assert str(error), "an error says what is wrong"
    except Exception as error:
        if known is None:
            raise
        pytest.xfail(f"{known}: {type(error).__name__}")


SETTINGS = [
    pytest.param(kind, name, odd, id=f"{kind.__name__}({name}={odd})")
    for kind in (RunnerSettings, RetryPolicy)
    for name in inspect.signature(kind).parameters
    for odd in ("nan", "text", "bytes", "object", "list", "class")
]


@pytest.mark.parametrize(("kind", "name", "odd"), SETTINGS)
def test_a_setting_that_can_never_be_right_is_refused_by_its_name(
    kind: Callable[..., Any], name: str, odd: str
) -> None:
    try:
        kind(**{name: ODD[odd]})
    except DefinitionError as error:
        if name in str(error):
            return
        pytest.xfail(f"{KNOWN[kind.__name__]}: the error does not name it")
    except Exception as error:
        pytest.xfail(f"{KNOWN[kind.__name__]}: {type(error).__name__}")
    pytest.xfail(f"{KNOWN[kind.__name__]}: it is taken")
