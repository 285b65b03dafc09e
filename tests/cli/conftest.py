from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sagalog import SagaRunner

from ..orders import Failing, Noted, OrderSaga, Paid, Placed

ROOT = Path(__file__).parents[2]
Sagalog = Callable[..., subprocess.CompletedProcess[str]]

MODULE = """
import asyncio, sys
from sagalog import Incoming, InvalidEventError, SagaRunner
from tests.orders import OrderSaga, Placed

async def dispatch(command):
    await asyncio.sleep(0)

runner = SagaRunner("sqlite:///orders.db", sagas=[OrderSaga], dispatch=dispatch)
own = SagaRunner("sqlite:///orders.db", sagas=[OrderSaga], dispatch=dispatch)
not_a_runner = 7

@own.reads
def read(line):
    if line.get("skip"):
        return None
    return Incoming(Placed(line["order"]), line["id"])

@own.reports
async def report(runner):
    return f"{runner.counters.started} started"
"""


@pytest.fixture
def sagalog(tmp_path: Path) -> Sagalog:
    (tmp_path / "shop.py").write_text(MODULE)

    def run(*arguments: str, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sagalog", *arguments],
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(ROOT)]),
                **environment,
            },
        )

    return run


def line(kind: str, message_id: str | None = None, **data: Any) -> str:
    return json.dumps({"type": kind, **({"id": message_id} if message_id else {}), "data": data})


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A journal with a running order, a parked one, a finished one, and ids and texts that attack the terminal."""

    async def fill() -> None:
        OrderSaga.fail_times = 99
        async with SagaRunner(
            f"sqlite:///{tmp_path}/orders.db", sagas=[OrderSaga], dispatch=lambda command: None
        ) as runner:
            await runner.handle(Placed("running", 7), message_id="m1")
            await runner.handle(Paid("running"), message_id="m2")
            await runner.handle(Placed("parked"), message_id="m3")
            await runner.handle(Failing("parked"), message_id="m4")
            await runner.handle(Noted("parked", "later"), message_id="m5")
            await runner.handle(Placed("finished"), message_id="m6")
            await runner.cancel("order", "finished", note="by hand")
            await runner.handle(Placed("evil\x1b[2J[bold red]\u202e\r\n"), message_id="m7\x07")
            await runner.handle(Noted("evil\x1b[2J[bold red]\u202e\r\n", "\x1b]0;pwned\x07"), message_id="m8")
            await runner.settle()
        OrderSaga.fail_times = 0

    asyncio.run(fill())
    return tmp_path / "orders.db"


@pytest.fixture
def here(filled: Path, sagalog: Sagalog, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the journal, as the working directory."""
    monkeypatch.chdir(filled.parent)
    monkeypatch.setenv("LOGNAME", "ada")
    return filled.parent
