"""Sagas from threads: one runner in a background loop, which waits for nobody and is waited for within bounds."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from sagalog import (
    DefinitionError,
    Hook,
    JournalUnavailableError,
    NoInstanceError,
    OutcomeTimeoutError,
    OutcomeUnknownError,
    RetryPolicy,
    RunnerSettings,
    RunnerStoppedError,
    SagaParkedError,
    SagaRunner,
    Status,
)
from sagalog.blocking import BlockingRunner

from ..orders import Closed, Failing, Noted, OrderSaga, Placed, World

ROOT = Path(__file__).parents[2]
SECOND = timedelta(seconds=1)


@pytest.fixture
def path(tmp_path: Path) -> str:
    OrderSaga.fail_times = 0
    return str(tmp_path / "shop.db")


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def sagas(path: str, world: World) -> Iterator[BlockingRunner]:
    settings = RunnerSettings(lease=timedelta(seconds=60))  # so that a slow disk makes no dead worker of it
    runner = SagaRunner(f"sqlite:///{path}", sagas=[OrderSaga], dispatch=world, settings=settings)
    with BlockingRunner(runner) as sagas:
        yield sagas


def test_threads_send_events_and_read_what_came_of_them(sagas: BlockingRunner, world: World) -> None:
    def place(number: int) -> bool:
        sagas.handle(Placed(f"o{number % 20}"), message_id=f"p{number % 40}")
        return sagas.handle(Placed(f"o{number % 20}"), message_id=f"p{number % 40}").duplicate

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(place, range(160)))
    sagas.settle()
    assert sagas.state(OrderSaga, "o7").total == 2
    assert len(world.seen) == 40
    assert sagas.instance(OrderSaga, "o7").status is Status.RUNNING
    assert len(sagas.find(OrderSaga, paid=False)) == 20
    assert sagas.health().ready
    sagas.handle(Closed("o7"))
    assert sagas.outcome(OrderSaga, "o7").status is Status.COMPLETED
    with pytest.raises(NoInstanceError):
        sagas.state(OrderSaga, "nobody")
    sagas.cancel("order", "o8", compensate=False)
    assert sagas.outcome(OrderSaga, "o8").status is Status.CANCELLED


def test_a_call_waits_as_long_as_it_says(path: str) -> None:
    gate = threading.Event()

    class SlowSaga(OrderSaga):
        name = "slow"

        def correlation_id(self, event: Any) -> str | None:
            gate.wait(5)
            return super().correlation_id(event)

    with BlockingRunner(SagaRunner(f"sqlite:///{path}", sagas=[SlowSaga], dispatch=World())) as sagas:
        with pytest.raises(OutcomeUnknownError, match="same message id"):
            sagas.handle(Placed("a"), message_id="1", timeout=SECOND / 20)
        gate.set()
        sagas.handle(Placed("a"), message_id="1")
        with pytest.raises(OutcomeTimeoutError, match="it was running"):
            sagas.outcome(SlowSaga, "a", timeout=SECOND)
        for wrong in (0, 1.5, timedelta(0), timedelta(days=20_000), timedelta.max):
            with pytest.raises(DefinitionError, match="timeout="):
                sagas.handle(Placed("new"), timeout=wrong)  # type: ignore[arg-type]
        with pytest.raises(NoInstanceError):  # nothing was stored
            sagas.state(SlowSaga, "new")


def test_a_handler_that_calls_it_is_told_to_await_the_runner(path: str) -> None:
    told: list[str] = []

    def dispatch(command: Any) -> None:
        try:
            sagas.handle(Noted("a", "from within"))
        except DefinitionError as error:
            told.append(str(error))

    with BlockingRunner(SagaRunner(f"sqlite:///{path}", sagas=[OrderSaga], dispatch=dispatch)) as sagas:
        sagas.handle(Placed("a"))
        sagas.settle()
    assert "await runner.handle" in told[0]


def test_it_starts_with_the_first_call_and_again_after_a_stop(path: str) -> None:
    sagas = BlockingRunner(SagaRunner(f"sqlite:///{path}", sagas=[OrderSaga], dispatch=World()))
    assert not Path(path).exists()
    sagas.stop()
    for number in range(2):
        sagas.handle(Placed("a"), message_id=str(number))
        sagas.stop()
    assert sagas.state(OrderSaga, "a").total == 2
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: sagas.stop(), range(4)))
    names = [thread.name for thread in threading.enumerate()]
    assert "sagalog-blocking" not in names


def test_what_cannot_be_opened_is_told_by_each_call(tmp_path: Path) -> None:
    sagas = BlockingRunner(SagaRunner(f"sqlite:///{tmp_path}/nowhere/x.db", sagas=[OrderSaga]))
    for _ in range(2):
        with pytest.raises(Exception, match="does not exist"):
            sagas.handle(Placed("a"))
    with pytest.raises(DefinitionError, match="takes a SagaRunner"):
        BlockingRunner("sqlite:///x.db")  # type: ignore[arg-type]


def test_a_trace_goes_on_in_the_background(path: str) -> None:
    current: ContextVar[str] = ContextVar("current", default="")
    seen: list[str] = []

    class Tracing(Hook):
        def caller(self) -> str:
            seen.append(current.get())
            return current.get()

    with BlockingRunner(
        SagaRunner(f"sqlite:///{path}", sagas=[OrderSaga], dispatch=World(), hooks=[Tracing()])
    ) as sagas:
        current.set("trace 7")
        sagas.handle(Placed("a"))
    assert seen == ["trace 7"]


def test_a_step_within_a_transaction_of_the_thread(sagas: BlockingRunner, path: str, world: World) -> None:
    with sqlite3.connect(path) as plain:
        plain.execute("CREATE TABLE orders (id TEXT)")
    plain.close()
    plain = sqlite3.connect(path, isolation_level=None)  # of this thread alone
    plain.execute("BEGIN IMMEDIATE")
    plain.execute("INSERT INTO orders VALUES ('a')")
    sagas.handle(Placed("a"), message_id="1", connection=plain)
    assert world.seen == []
    plain.execute("COMMIT")
    sagas.settle()
    assert len(world.seen) == 1
    plain.execute("BEGIN IMMEDIATE")
    sagas.handle(Placed("b"), message_id="2", connection=plain)
    OrderSaga.fail_times = 1
    with pytest.raises(RuntimeError, match="boom"):
        sagas.handle(Failing("b"), connection=plain)
    plain.execute("ROLLBACK")
    with pytest.raises(NoInstanceError):
        sagas.state(OrderSaga, "b")
    with pytest.raises(DefinitionError, match="an open transaction:"):
        sagas.handle(Placed("b"), connection=plain)
    plain.close()
    engine = create_engine(f"sqlite:///{path}")
    with Session(engine) as session, session.begin():
        session.execute(text("INSERT INTO orders VALUES ('c')"))
        sagas.handle(Placed("c"), message_id="3", connection=session)
        session.execute(text("INSERT INTO orders VALUES ('d')"))
    sagas.settle()
    assert sagas.state(OrderSaga, "c").total == 1
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM orders")).scalar() == 3
    engine.dispose()
    assert len(world.seen) == 2


def test_a_first_call_within_a_transaction_says_what_is_to_be_done_before(path: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE orders (id TEXT)")
    connection.execute("BEGIN IMMEDIATE")
    sagas = BlockingRunner(
        SagaRunner(f"sqlite:///{path}?beside=true&busy_seconds=0.1", sagas=[OrderSaga], dispatch=World())
    )
    with pytest.raises(JournalUnavailableError, match=r"call start\(\) before the transaction"):
        sagas.handle(Placed("a"), connection=connection)
    connection.execute("ROLLBACK")
    sagas.start()
    connection.execute("BEGIN IMMEDIATE")
    assert sagas.handle(Placed("a"), connection=connection).handled
    connection.execute("COMMIT")
    sagas.stop()
    connection.close()


def test_a_step_within_a_transaction_of_psycopg(postgres_schema: str) -> None:
    world, url, settings = World(), postgres_schema.partition("?")[0], RunnerSettings(lease=timedelta(seconds=60))
    with (
        BlockingRunner(SagaRunner(postgres_schema, sagas=[OrderSaga], dispatch=world, settings=settings)) as sagas,
        psycopg.connect(url) as connection,
    ):
        sagas.handle(Placed("a"), message_id="1", connection=connection)
        connection.rollback()
        with pytest.raises(NoInstanceError):
            sagas.state(OrderSaga, "a")
        sagas.handle(Placed("a"), message_id="1", connection=connection)
        connection.commit()
        sagas.settle()
        assert sagas.state(OrderSaga, "a").total == 1
        engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.begin() as used:
            sagas.handle(Noted("a", "in SQLAlchemy"), connection=used)
        assert sagas.state(OrderSaga, "a").log[-1] == "in SQLAlchemy"
        engine.dispose()
    assert len(world.seen) >= 1


def run(folder: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FORKS = """
import asyncio, os, sys
from sagalog import SagaRunner, DefinitionError
from sagalog.blocking import BlockingRunner
from tests.orders import OrderSaga, Placed

def in_child(work):
    if not (child := os.fork()):
        try:
            work()
        except DefinitionError as error:
            print("child:", error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)

def new(): return SagaRunner("sqlite:///shop.db", sagas=[OrderSaga], dispatch=lambda command: None)
"""


def test_a_child_is_told_what_to_do_where_its_parent_has_sent_events_before_the_fork(tmp_path: Path) -> None:
    code = """
sagas = BlockingRunner(new())
sagas.handle(Placed("a"), message_id="1")
in_child(lambda: sagas.handle(Placed("a"), message_id="2"))
in_child(sagas.stop)
print("parent:", sagas.state(OrderSaga, "a").total)
"""
    child, stopped, parent = run(tmp_path, FORKS + code).splitlines()
    assert "which was forked from it" in child
    assert "gunicorn" in child
    assert "which was forked from it" in stopped
    assert parent == "parent: 1"


def test_each_child_has_a_runner_of_its_own_where_nobody_sent_an_event_before_the_fork(tmp_path: Path) -> None:
    code = """
sagas = BlockingRunner(new())
in_child(lambda: print(sagas.handle(Placed("a"), message_id="1").handled, flush=True))
in_child(lambda: print(sagas.handle(Placed("a"), message_id="1").duplicate, flush=True))
print(sagas.state(OrderSaga, "a").total)
"""
    assert run(tmp_path, FORKS + code).split() == ["True", "True", "1"]


def test_a_runner_refuses_in_a_child_whatever_that_does_with_its_event_loop(tmp_path: Path) -> None:
    code = """
loop = asyncio.new_event_loop()
runner = new()
loop.run_until_complete(runner.start())
async def use(): await runner.handle(Placed("a"))
in_child(lambda: loop.run_until_complete(use()))
in_child(lambda: asyncio.run(use()))
in_child(lambda: asyncio.run(runner.start()))
in_child(lambda: asyncio.run(runner.stop()))
loop.run_until_complete(use())
loop.run_until_complete(runner.stop())
print("parent")
"""
    *children, parent = run(tmp_path, FORKS + code).splitlines()
    assert len(children) == 4
    assert all("before this process was forked" in child for child in children)
    assert parent == "parent"


def test_the_end_of_a_process_stops_it_gracefully(tmp_path: Path) -> None:
    code = """
import time
def slow(command):
    open("begun", "w").close()
    time.sleep(0.2)
    open("ended", "w").close()
sagas = BlockingRunner(SagaRunner("sqlite:///shop.db", sagas=[OrderSaga], dispatch={}))
@sagas.runner.command(type(None))
async def never(command): ...
from tests.orders import Reserve
@sagas.runner.command(Reserve)
async def reserve(command):
    open("begun", "w").close()
    await asyncio.sleep(0.2)
    open("ended", "w").close()
sagas.handle(Placed("a"))
while not os.path.exists("begun"): time.sleep(0.01)
"""
    run(tmp_path, FORKS + code)
    assert (tmp_path / "ended").exists()


GUNICORN = """
import os
from flask import Flask, request
from sagalog import SagaRunner
from sagalog.blocking import BlockingRunner
from tests.orders import OrderSaga, Placed

sagas = BlockingRunner(SagaRunner("sqlite:///shop.db", sagas=[OrderSaga], dispatch=lambda command: None))
app = Flask(__name__)

@app.post("/orders/<order_id>")
def place(order_id):
    receipt = sagas.handle(Placed(order_id), message_id=request.headers["idempotency-key"])
    return {"duplicate": receipt.duplicate, "pid": os.getpid()}
"""


async def test_gunicorn_with_preload_forks_workers_that_each_have_a_runner(tmp_path: Path) -> None:
    import httpx

    (tmp_path / "web_app.py").write_text(GUNICORN)
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "gunicorn",
            "--preload",
            "-w",
            "2",
            "--threads",
            "2",
            "-b",
            "127.0.0.1:0",
            "web_app:app",
        ),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}:{tmp_path}"},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        while b"Listening at: " not in (line := await process.stderr.readline()):
            assert line
        address = line.decode().partition("Listening at: ")[2].partition(" ")[0]
        pids: set[int] = set()
        async with asyncio.timeout(30):
            while len(pids) < 2:
                async with httpx.AsyncClient() as client:  # a connection of its own: any worker may take it
                    answers = await asyncio.gather(
                        *(client.post(f"{address}/orders/{n}", headers={"idempotency-key": "1"}) for n in range(4))
                    )
                assert {answer.status_code for answer in answers} == {200}
                pids.update(answer.json()["pid"] for answer in answers)
        process.terminate()
        told = await process.stderr.read()
        assert await process.wait() == 0
        assert b"Traceback" not in told, told.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_a_parked_instance_is_told_and_repaired_from_a_thread(path: str) -> None:
    OrderSaga.fail_times = 99
    settings = RunnerSettings(handler_retry=RetryPolicy(attempts=2, base=timedelta(milliseconds=1)))
    with BlockingRunner(
        SagaRunner(f"sqlite:///{path}", sagas=[OrderSaga], dispatch=World(), settings=settings)
    ) as sagas:
        sagas.handle(Placed("a"))
        assert sagas.handle(Failing("a")).held
        assert sagas.instance(OrderSaga, "a").parked
        OrderSaga.fail_times = 0
        sagas.retry("order", "a", note="mended")
        assert sagas.state(OrderSaga, "a").log[-1] == "recovered"
    with pytest.raises((RunnerStoppedError, SagaParkedError, NoInstanceError)):
        asyncio.run(sagas.runner.state(OrderSaga, "a"))
