"""Durations have one unit: who gives one gives a timedelta, everywhere."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from sagalog import Circuit, CommandPolicy, DefinitionError, RetryPolicy, RunnerSettings, SagaRunner, SqliteJournal
from sagalog.blocking import BlockingRunner
from sagalog.brokers.nats import NatsSource
from sagalog.durations import seconds_of
from sagalog.web import HmacSignature

from ..docs.test_names import OPEN
from ..orders import OrderSaga

# What is measured and told: numbers for metrics, health and errors, with the unit in the name.
MEASURED = {
    "CommitCounts",
    "Handling",
    "Health",
    "Hook",
    "OpenTelemetryHook",
    "OutcomeTimeoutError",
    "PrometheusHook",
    "Report",
    "Save",
    "Scan",
    "SourceGauges",
}
UNITS = re.compile(r"(^|(?<!per)_)(seconds?|secs?|ms|millis|milliseconds|minutes|hours)$")
WAITS = re.compile(r"timeout|wait$|_after$|_every$|^(lease|base|cap|behind|tolerance)$")


def parameters() -> Iterator[tuple[str, inspect.Parameter]]:
    for module in (importlib.import_module(name) for name in OPEN if name != "sagalog.mypy"):
        for name in module.__all__:
            value = getattr(module, name)
            calls: list[tuple[str, Any]] = [(name, value)] if callable(value) else []
            if inspect.isclass(value) and name not in MEASURED:
                methods = inspect.getmembers(value, inspect.isfunction) + inspect.getmembers(value, inspect.ismethod)
                calls += [(f"{name}.{one}", method) for one, method in methods if not one.startswith("_")]
            for called, call in calls:
                try:
                    signature = inspect.signature(call)
                except (TypeError, ValueError):
                    continue
                if name not in MEASURED:
                    yield from ((called, one) for one in signature.parameters.values())


def test_no_public_argument_is_a_duration_in_a_unit_of_its_own() -> None:
    found = list(parameters())
    assert [f"{call}({one.name}=)" for call, one in found if UNITS.search(one.name)] == []
    durations = {f"{call}({one.name}=)": one for call, one in found if WAITS.search(one.name) and one.name != "wait"}
    assert len(durations) > 20  # else this looks at nothing
    assert [call for call, one in durations.items() if re.search(r"float|int\b", str(one.annotation))] == []


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("lease", lambda given: RunnerSettings(lease=given)),
        ("command_timeout", lambda given: RunnerSettings(command_timeout=given)),
        ("base", lambda given: RetryPolicy(base=given)),
        ("probe_after", lambda given: Circuit(probe_after=given)),
        ("timeout", lambda given: CommandPolicy(timeout=given)),
        ("busy_timeout", lambda given: SqliteJournal("nowhere.db", busy_timeout=given)),
        ("ack_wait", lambda given: NatsSource("nats://x", stream="s", durable="d", ack_wait=given)),
        ("tolerance", lambda given: HmacSignature(b"a secret of some length", header="x", tolerance=given)),
        ("timeout", lambda given: BlockingRunner(SagaRunner("memory://", sagas=[OrderSaga]), timeout=given)),
    ],
)
def test_a_number_is_refused_by_the_name_of_its_argument_and_with_the_remedy(
    name: str, make: Callable[[Any], Any]
) -> None:
    with pytest.raises(DefinitionError) as told:
        make(2.5)
    assert re.search(rf"\b{name}\b.* must be a timedelta, not float: {name}=timedelta\(seconds=2\.5\)", str(told.value))


def test_bounds_are_told_with_what_was_given() -> None:
    assert seconds_of("lease", timedelta(milliseconds=1500)) == 1.5
    assert seconds_of("stop_timeout", timedelta(0), zero=True) == 0.0
    for value, zero, words in (
        (timedelta(0), False, "lease must be greater than 0, and is 0:00:00"),
        (timedelta(-1), True, "lease must not be negative, and is -1 day"),
        (timedelta.max, False, r"lease must be at most 1,000,000,000 seconds \(11574 days"),
        ("hunter2", False, r"lease must be a timedelta, not str: lease=timedelta\(seconds=5\)"),
    ):
        with pytest.raises(DefinitionError, match=f"^{words}"):
            seconds_of("lease", value, zero=zero)
