"""Each log record of Sagalog carries the same fields, and none carries a payload."""

from __future__ import annotations

import ast
import logging
from pathlib import Path
from typing import Any

import pytest

import sagalog
from sagalog import InMemoryJournal, JournalSagaStateStore, RetryPolicy, SagaParkedError
from sagalog.logs import about, log
from sagalog.testing.simulation import simulate

from ..orders import Failing, Noted, OrderSaga, Placed, Reserve
from ..testing.shop_world import Shop
from .conftest import Bench
from .test_workers import until

SOURCE = Path(sagalog.__file__).parent
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


def _calls() -> list[tuple[str, ast.Call]]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id in ("log", "logger", "logging")
            ):
                found.append((f"{path.relative_to(SOURCE)}:{node.lineno}", node))
    return found


CALLS = _calls()


@pytest.mark.parametrize("call", [call for _, call in CALLS], ids=[where for where, _ in CALLS])
def test_every_log_call_gives_the_fields_and_no_message_of_a_foreign_error(call: ast.Call) -> None:
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    function, _, _ = keywords.get("extra", "").partition("(")
    assert function.rpartition(".")[2] == "about", "pass extra=about(...), or the instance's own about(...)"
    assert keywords.get("exc_info", "trace_of(").startswith("trace_of("), "an error's own message may quote a payload"
    assert isinstance(call.args[0], ast.Constant), "the text of a log record does not vary; its arguments do"


def test_there_is_one_logger_and_the_test_above_sees_its_calls() -> None:
    asking = [path.name for path in SOURCE.rglob("*.py") if "getLogger" in path.read_text()]
    assert sorted(asking) == ["logs.py", "run.py"]  # the simulation silences it
    assert len(CALLS) >= 14


SECRET = "4111-1111-1111-1111"


async def test_what_goes_wrong_is_logged_with_saga_and_id_and_without_payloads(
    caplog: pytest.LogCaptureFixture,
) -> None:
    OrderSaga.fail_times, OrderSaga.calls = 9, []
    bench = Bench(InMemoryJournal())
    assert bench.journal is not None
    await JournalSagaStateStore(bench.journal, "order").save("damaged", b"{" + SECRET.encode(), expected_version=0)

    def dispatch(command: Any) -> None:
        raise ValueError(f"cannot do {command} with {SECRET}")

    async def wrong() -> None:
        raise ValueError(SECRET) from KeyError(SECRET)

    async with bench.runner(dispatch=dispatch, dispatch_retry=RetryPolicy(attempts=1)) as runner:
        await runner.handle(Placed("stuck"))
        await runner.handle(Placed("failing"))
        await runner.handle(Failing("failing", SECRET), message_id="f1")
        with pytest.raises(SagaParkedError):
            await runner.handle(Noted("damaged", SECRET))
        assert runner._started is not None
        runner._started.engine.spawn(wrong())
        await until(lambda: any("background" in record.getMessage() for record in caplog.records))
        await runner.settle()
    OrderSaga.fail_times = 0

    assert {Reserve.__name__, "Failing"} <= {word for r in caplog.records for word in r.getMessage().split()}
    for record in caplog.records:
        assert record.name == "sagalog"
        assert about().keys() <= vars(record).keys()
        text = logging.Formatter("%(message)s").format(record)  # with the traceback, where there is one
        assert SECRET not in text
        if "id " in record.getMessage():
            assert record.saga == "order"
            assert f"id {record.correlation_id}" in record.getMessage()
    fields = {(r.correlation_id, r.message_id, r.command_id, r.sequence_nr) for r in caplog.records}
    assert ("stuck", None, "saga::order::stuck/1/0", 1) in fields
    assert ("failing", "f1", None, 1) in fields
    (background,) = [r for r in caplog.records if "background" in r.getMessage()]
    text = logging.Formatter("%(message)s").format(background)
    assert "in wrong" in text
    assert "WithheldError: ValueError: its message is withheld, because it may quote a payload" in text


def test_a_simulation_silences_the_logger_for_its_own_time_only(caplog: pytest.LogCaptureFixture) -> None:
    simulate([OrderSaga], Shop, seeds=range(3))
    assert caplog.records == []
    log.warning("heard", extra=about())
    assert [record.getMessage() for record in caplog.records] == ["heard"]
