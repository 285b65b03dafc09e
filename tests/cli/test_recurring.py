"""Recurring timers as an operator sees them: their rule, what was passed over, and what this machine cannot follow."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from sagalog import ManualClock, SagaRunner
from sagalog.cli.group import sagalog as command

from ..ticking import Begun, Bill, TickSaga


def run(*arguments: str) -> str:
    done = CliRunner().invoke(command, [*arguments])
    return done.output


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A journal whose recurring timer was missed for three hours, and passed over."""
    url = f"sqlite:///{tmp_path}/ticks.db"

    async def fill() -> None:
        clock = ManualClock(datetime.now(UTC))
        runner = SagaRunner(url, sagas=[TickSaga], dispatch={Bill: lambda command: None}, clock=clock)
        async with runner:
            await runner.handle(Begun("a", "skip"))
        clock.advance(timedelta(hours=3.5))
        async with runner.using(clock=clock) as again:
            await again.settle()

    asyncio.run(fill())
    return url


def test_show_and_history_tell_its_rule_and_what_was_passed_over(url: str) -> None:
    assert ", every 1:00:00, missed: skip" in run("show", "a", "--journal", url)
    assert "skipped what timer tick missed" in run("history", "a", "--journal", url)


def test_check_names_a_rule_that_this_machine_cannot_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cronsim", reason="an environment from before it was pinned: make test brings it")
    (tmp_path / "billing.py").write_text(
        "from dataclasses import dataclass\n"
        "from sagalog import Saga, SagaRunner, SetTimer, starts\n"
        "@dataclass\nclass Begun:\n    id: str\n"
        "class Billing(Saga[dict]):\n    name = 'billing'\n"
        "    @starts(Begun, key='id')\n"
        "    def begun(self, state, event):\n"
        "        yield SetTimer('bill', event, cron='0 9 1 * *')\n"
        "runner = SagaRunner('sqlite:///bills.db', sagas=[Billing])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import billing  # type: ignore[import-not-found]

    async def fill() -> None:
        async with billing.runner as runner:
            await runner.handle(billing.Begun("a"))

    asyncio.run(fill())
    from sagalog.definition.recurring import check_rule

    check_rule.cache_clear()
    assert "1 could continue" in run("check", "billing.py:runner", "--journal", "sqlite:///bills.db")
    monkeypatch.setitem(sys.modules, "cronsim", None)
    check_rule.cache_clear()
    told = run("check", "billing.py:runner", "--journal", "sqlite:///bills.db")
    assert "timer bill has a cron rule, which needs a library: pip install 'sagalog[cron]'" in told
