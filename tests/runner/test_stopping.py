"""Guarantee 13: a graceful stop drops nothing; and a cancelled `handle` leaves everything in order."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sagalog import (
    DefinitionError,
    InMemorySagaStateStore,
    JournalSagaStateStore,
    RetryPolicy,
    RunnerSettings,
    RunnerStoppedError,
    Saga,
    SagaRunner,
    open_journal,
)

from ..orders import Failing, Noted, OrderSaga, OrderState, Paid, Placed, Reserve, Ship
from .conftest import Bench, Gate
from .test_workers import until


async def test_a_stop_waits_for_steps_and_commands_that_are_under_way(bench: Bench) -> None:
    hold, begun = asyncio.Event(), asyncio.Event()

    async def slow(command: Any) -> None:
        begun.set()
        await hold.wait()

    runner = bench.runner(dispatch=slow)
    await runner.start()
    await runner.handle(Placed("a"))
    await begun.wait()
    stopping = asyncio.create_task(runner.stop())
    await asyncio.sleep(0.01)
    assert not stopping.done()
    with pytest.raises(RunnerStoppedError):
        await runner.handle(Paid("a"))
    hold.set()
    await stopping
    assert (await bench.record("a")).outbox == ()  # accepted, and recorded


async def test_a_step_that_is_being_saved_when_the_runner_stops_is_committed(shared: Bench) -> None:
    assert shared.journal is not None
    gate = Gate(JournalSagaStateStore(shared.journal, "order"))
    opened, entered = asyncio.Event(), asyncio.Event()

    async def hold(key: str, payload: bytes) -> None:
        entered.set()
        await opened.wait()

    gate.before = hold
    runner = shared.runner(gate)
    await runner.start()
    task = asyncio.create_task(runner.handle(Placed("a")))
    await entered.wait()
    stopping = asyncio.create_task(runner.stop())
    await asyncio.sleep(0)
    opened.set()
    assert (await task).handled
    await stopping
    assert await shared.log("a") == ["placed"]


async def test_a_command_that_takes_longer_than_the_stop_stays_in_the_outbox(bench: Bench) -> None:
    async def hang(command: Any) -> None:
        await asyncio.Event().wait()

    runner = bench.runner(dispatch=hang, stop_timeout=timedelta(milliseconds=50))
    await runner.start()
    await runner.handle(Placed("a"))
    await runner.stop()
    assert [entry.command.type for entry in (await bench.record("a")).outbox] == ["Reserve"]
    bench.advance(seconds=6)
    async with bench.runner() as other:
        await other.settle()
    assert bench.world.names == ["Reserve"]


async def test_who_waits_for_a_retry_or_a_start_is_told_when_the_runner_stops(bench: Bench) -> None:
    OrderSaga.fail_times = 99
    slow = RetryPolicy(attempts=9, base=timedelta(seconds=30), cap=timedelta(seconds=30))
    runner = bench.runner(handler_retry=slow, no_instance="wait")
    await runner.start()
    await runner.handle(Placed("a"))
    retrying = asyncio.create_task(runner.handle(Failing("a"), message_id="f"))
    behind = asyncio.create_task(runner.handle(Noted("a", "behind")))
    waiting = asyncio.create_task(runner.handle(Paid("b")))
    await until(lambda: runner.counters.handler_errors)
    await runner.stop()
    for task in (retrying, waiting):
        with pytest.raises(RunnerStoppedError):
            await task
    await behind  # it was accepted before the stop, so it is handled
    assert await bench.log("a") == ["placed", "behind"]


async def test_a_cancelled_call_that_waits_for_its_turn_is_withdrawn(shared: Bench) -> None:
    assert shared.journal is not None
    gate = Gate(JournalSagaStateStore(shared.journal, "order"))
    opened, entered = asyncio.Event(), asyncio.Event()

    async def hold(key: str, payload: bytes) -> None:
        entered.set()
        await opened.wait()

    async with shared.runner(gate) as runner:
        await runner.handle(Placed("a"))
        gate.before = hold
        first = asyncio.create_task(runner.handle(Noted("a", "first")))
        await entered.wait()
        gone = asyncio.create_task(runner.handle(Noted("a", "gone")))
        last = asyncio.create_task(runner.handle(Noted("a", "last")))
        await asyncio.sleep(0)
        gone.cancel()
        opened.set()
        await asyncio.gather(first, last)
        with pytest.raises(asyncio.CancelledError):
            await gone
    assert await shared.log("a") == ["placed", "first", "last"]


@pytest.mark.parametrize("stored", [True, False])
async def test_a_call_cancelled_while_it_is_saved_leaves_the_others_served(shared: Bench, stored: bool) -> None:
    assert shared.journal is not None
    gate = Gate(JournalSagaStateStore(shared.journal, "order"))
    entered, opened = asyncio.Event(), asyncio.Event()

    async def hold(key: str, payload: bytes) -> None:
        entered.set()
        await opened.wait()

    async with shared.runner(gate) as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        if stored:
            gate.after = hold
        else:
            gate.before = hold
        first = asyncio.create_task(runner.handle(Noted("a", "first"), message_id="f"))
        await entered.wait()
        behind = asyncio.create_task(runner.handle(Noted("a", "behind"), message_id="b"))
        await asyncio.sleep(0)
        gate.before = gate.after = None
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        opened.set()  # its step is written all the same: nobody can call back what is on its way
        assert (await behind).handled
        again = await runner.handle(Noted("a", "first"), message_id="f")
        assert again.duplicate
        await runner.settle()
    log = await shared.log("a")
    assert sorted(log) == ["behind", "first", "placed"]
    notes = [command for _, command in shared.world.seen if not isinstance(command, Reserve)]
    assert sorted(note.text for note in notes) == ["behind", "first"]
    assert len({command_id for command_id, _ in shared.world.seen}) == 3


async def test_a_cancelled_retry_leaves_the_others_served(bench: Bench) -> None:
    OrderSaga.fail_times = 1
    async with bench.runner(
        handler_retry=RetryPolicy(attempts=9, base=timedelta(seconds=30), cap=timedelta(seconds=30))
    ) as runner:
        await runner.handle(Placed("a"))
        failing = asyncio.create_task(runner.handle(Failing("a")))
        await until(lambda: runner.counters.handler_errors)
        behind = asyncio.create_task(runner.handle(Noted("a", "behind")))
        await asyncio.sleep(0)
        failing.cancel()
        assert (await behind).handled
    assert await bench.log("a") == ["placed", "behind"]


async def test_nothing_is_left_running_after_a_stop(tmp_path: Path) -> None:
    tasks, threads = len(asyncio.all_tasks()), threading.active_count()
    before = threading.enumerate()  # another test may have left a journal open
    async with SagaRunner(f"sqlite:///{tmp_path}/a.db", sagas=[OrderSaga], dispatch=lambda command: None) as runner:
        await runner.handle(Placed("a"))
        assert threading.active_count() > threads
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == tasks
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("sagalog")]
    assert not [thread.name for thread in ours if thread not in before]


SERVICE = """
import asyncio, sys
sys.path.insert(0, {root!r})
from sagalog import SagaRunner
from tests.orders import OrderSaga, Placed

async def dispatch(command):
    await asyncio.sleep(0.2)
    print("accepted", flush=True)

async def main():
    async with SagaRunner({url!r}, sagas=[OrderSaga], dispatch=dispatch) as runner:
        await runner.handle(Placed("a"))
        serving = asyncio.create_task(runner.serve())
        await asyncio.sleep(0)
        print("ready", flush=True)
        await serving
    print("stopped", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_served_runner_gracefully(tmp_path: Path, number: int) -> None:
    code = SERVICE.format(root=str(Path(__file__).parents[2]), url=f"sqlite:///{tmp_path}/a.db")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == "ready\n"
        os.kill(service.pid, number)
        assert service.stdout.read() == "accepted\nstopped\n"
        assert service.wait(10) == 0


FORKING = """
import asyncio, multiprocessing, os, signal, sys, time
sys.path.insert(0, {root!r})
from sagalog import SagaRunner
from tests.orders import OrderSaga

async def main():
    async with SagaRunner("memory://", sagas=[OrderSaga]) as runner:
        serving = asyncio.create_task(runner.serve())
        await asyncio.sleep(0)
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        child.start()
        child.terminate()
        await asyncio.to_thread(child.join, 30)
        print("the child has ended by", child.exitcode)
        child.kill()
        await asyncio.sleep(0.01)
        print("the runner is told to stop:", serving.done() or runner._started.engine.stopping.is_set())
        os.kill(os.getpid(), signal.SIGTERM)
        await serving

asyncio.run(main())
"""


def test_a_signal_to_a_process_that_was_forked_from_a_served_runner_ends_it_and_not_the_runner() -> None:
    code = FORKING.format(root=str(Path(__file__).parents[2]))
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert ran.stdout == "the child has ended by -15\nthe runner is told to stop: False\n"


async def test_whoever_heard_a_signal_before_a_runner_was_served_hears_it_afterwards() -> None:
    def mine(*_: Any) -> None: ...

    before = signal.signal(signal.SIGTERM, mine)
    try:
        async with SagaRunner("memory://", sagas=[OrderSaga], dispatch=print) as runner:
            serving = asyncio.create_task(runner.serve())
            while signal.getsignal(signal.SIGTERM) is mine:
                await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGTERM)
            await serving
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_a_signal_that_the_loop_heard_before_does_what_it_does_by_default_afterwards() -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: None)
    async with SagaRunner("memory://", sagas=[OrderSaga], dispatch=print) as runner:
        serving = asyncio.create_task(runner.serve())
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        await serving
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # and not swallowed by a loop that knows it no more


async def test_runners_that_one_loop_serves_hear_a_signal_together_and_stay_when_another_has_stopped() -> None:
    before = signal.getsignal(signal.SIGTERM)
    runners = [SagaRunner("memory://", sagas=[OrderSaga], dispatch=print) for _ in range(4)]
    async with runners[0], runners[1], runners[2], runners[3]:
        serving = [asyncio.create_task(runner.serve()) for runner in runners]
        while signal.getsignal(signal.SIGTERM) is before:
            await asyncio.sleep(0)
        await runners[0].stop()
        await serving[0]
        serving[3].cancel()
        await asyncio.wait([serving[3]])
        os.kill(os.getpid(), signal.SIGTERM)  # which would end the process if nobody heard it
        await asyncio.gather(*serving[:3])
    assert signal.getsignal(signal.SIGTERM) is before


async def test_who_begins_to_hear_a_signal_while_a_runner_is_served_goes_on_hearing_it() -> None:
    def mine(*_: Any) -> None: ...

    before = signal.getsignal(signal.SIGTERM)
    try:
        async with SagaRunner("memory://", sagas=[OrderSaga], dispatch=print) as runner:
            serving = asyncio.create_task(runner.serve())
            while signal.getsignal(signal.SIGTERM) is before:
                await asyncio.sleep(0)
            signal.signal(signal.SIGTERM, mine)
            await runner.stop()
            await serving
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_is_put_together_wrongly_is_told_when_it_is_put_together() -> None:
    class Other(Saga[OrderState]):
        name = "order"

        def correlation_id(self, event: Any) -> str | None:
            return None

        def handle(self, state: OrderState, event: Any) -> None: ...

    store = InMemorySagaStateStore("order")
    wrong: list[tuple[str, Any]] = [
        ("at least one saga", lambda: SagaRunner("memory://", sagas=[])),
        ("two sagas are named 'order'", lambda: SagaRunner("memory://", sagas=[OrderSaga, Other])),
        ("Saga classes or instances", lambda: SagaRunner("memory://", sagas=[OrderState()])),  # type: ignore[list-item]
        ("needs a journal", lambda: SagaRunner(7, sagas=[OrderSaga])),  # type: ignore[arg-type]
        ("no store was given for saga order", lambda: SagaRunner({"x": store}, sagas=[OrderSaga])),
        (
            r"\(command\) or \(command, context\)",
            lambda: SagaRunner(store, sagas=[OrderSaga], dispatch=lambda a, b, c: 0),
        ),
        ("not callable", lambda: SagaRunner(store, sagas=[OrderSaga], dispatch={Ship: 1})),  # type: ignore[dict-item]
        ("command type", lambda: SagaRunner(store, sagas=[OrderSaga], dispatch={"Ship": print})),  # type: ignore[dict-item]
        ("greater than 0", lambda: RunnerSettings(lease=timedelta(0))),
        ("no_instance must be one of", lambda: RunnerSettings(no_instance="whatever")),
        ("at least 1 attempt", lambda: RetryPolicy(attempts=0)),
    ]
    for message, make in wrong:
        with pytest.raises(DefinitionError, match=message):
            make()


async def test_a_runner_is_started_once_at_a_time(bench: Bench) -> None:
    async with bench.runner() as runner:
        with pytest.raises(DefinitionError, match="started already"):
            await runner.start()
    await runner.stop()  # twice is nothing


async def test_of_two_starts_at_once_one_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    runner = SagaRunner(f"sqlite:///{tmp_path}/a.db", sagas=[OrderSaga])
    first, second = await asyncio.gather(runner.start(), runner.start(), return_exceptions=True)
    assert first is None
    assert isinstance(second, DefinitionError)
    assert "started already" in str(second)
    await runner.stop()
    assert asyncio.all_tasks() == before


async def test_a_runner_that_is_still_starting_is_not_stopped_in_silence(tmp_path: Path) -> None:
    runner = SagaRunner(f"sqlite:///{tmp_path}/a.db", sagas=[OrderSaga])
    starting = asyncio.ensure_future(runner.start())
    await asyncio.sleep(0)
    with pytest.raises(DefinitionError, match="still starting"):
        await runner.stop()
    starting.cancel()
    await asyncio.wait([starting])
    async with runner:  # a start that was cancelled does not keep the next one from starting
        pass


async def test_a_command_type_has_one_handler(bench: Bench) -> None:
    runner = bench.runner(dispatch={Reserve: print})
    with pytest.raises(DefinitionError, match="Reserve has two"):
        runner.command(Reserve)(print)


async def test_a_stop_without_patience_leaves_no_step_in_doubt(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    accepted: set[str] = set()
    refused: list[BaseException] = []

    async def slow(command: Any) -> None:
        await asyncio.sleep(60)

    runner = SagaRunner(url, sagas=[OrderSaga], dispatch=slow, settings=RunnerSettings(stop_timeout=timedelta(0)))
    await runner.start()

    async def send(number: int) -> None:
        try:
            await runner.handle(Placed(f"o{number}"), message_id=f"m{number}")
        except Exception as error:
            refused.append(error)
        else:
            accepted.add(f"o{number}")

    sending = [asyncio.create_task(send(number)) for number in range(500)]
    while not accepted:
        await asyncio.sleep(0)
    await runner.stop()
    await asyncio.gather(*sending)
    assert {type(error) for error in refused} <= {RunnerStoppedError}
    async with open_journal(url) as journal:
        stored = {key async for key in JournalSagaStateStore(journal, "order").keys()}
    assert stored == accepted
