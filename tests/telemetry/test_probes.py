"""What a worker answers over HTTP, and what several answer together."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from sagalog import Health, InMemoryJournal, SagaRunner
from sagalog.telemetry import probes as probes_module
from sagalog.telemetry.fleet import probes_of_all
from sagalog.telemetry.http import Address, Answer, HttpServer, ask
from sagalog.telemetry.probes import probes, with_metrics
from sagalog.telemetry.prometheus import PrometheusHook

from ..orders import OrderSaga, Placed


def runner(**settings: object) -> SagaRunner:
    return SagaRunner(InMemoryJournal(), sagas=[OrderSaga], dispatch=lambda command: None, **settings)  # type: ignore[arg-type]


async def get(address: Address, path: str) -> tuple[int, dict[str, object]]:
    answer = await ask(address, path, timeout_seconds=5)
    assert answer.content_type == "application/json"
    return answer.status, json.loads(answer.body)


async def test_probes_answer_before_the_start_while_it_runs_and_after_the_stop() -> None:
    worker = runner()
    async with probes(worker, "127.0.0.1:0") as server:
        status, said = await get(server.address, "/ready")
        assert (status, said["reasons"]) == (503, ["the runner is not started, or has stopped"])
        assert (await get(server.address, "/live"))[0] == 200
        async with worker:
            status, said = await get(server.address, "/ready")
            assert (status, said["ready"], said["oldest_due_seconds"]) == (200, True, 0.0)
        assert (await get(server.address, "/ready"))[0] == 503


async def test_metrics_are_those_of_the_runners_own_hook() -> None:
    hook = PrometheusHook(CollectorRegistry())
    worker = runner(hooks=[hook])
    assert with_metrics(worker) is worker
    async with worker, probes(worker, "127.0.0.1:0") as server:
        await worker.handle(Placed("a"))
        answer = await ask(server.address, "/metrics", timeout_seconds=5)
    assert answer.status == 200
    assert answer.content_type.startswith("text/plain; version=")
    assert b'sagalog_messages_total{outcome="handled",saga="order",type="Placed"} 1.0' in answer.body


async def test_without_the_extra_metrics_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes_module, "_prometheus", lambda: None)
    worker = runner()
    assert with_metrics(worker) is worker
    async with worker, probes(worker, "127.0.0.1:0") as server:
        answer = await ask(server.address, "/metrics", timeout_seconds=5)
        assert (answer.status, b"pip install 'sagalog[prometheus]'" in answer.body) == (404, True)
        assert (await get(server.address, "/ready"))[0] == 200


async def test_several_are_ready_if_all_are_and_live_if_none_is_stuck(tmp_path: Path) -> None:
    sockets = [Address(path=str(tmp_path / str(n))) for n in (1, 2)]
    stuck, silent = asyncio.Event(), False

    async def second() -> Answer:
        if silent:
            await stuck.wait()
        health = Health(live=True, ready=False, reasons=("due work is falling behind",))
        return Answer(503, json.dumps({"live": True, "ready": False, "reasons": health.reasons}).encode())

    worker = runner(hooks=[PrometheusHook(CollectorRegistry())])
    together = HttpServer(Address("127.0.0.1", 0), probes_of_all(sockets, patience_seconds=0.2))
    async with worker, probes(worker, sockets[0]), together as server:
        status, said = await get(server.address, "/ready")
        assert (status, said["live"], said["reasons"]) == (503, True, ["worker 2 is not running yet"])
        assert (await get(server.address, "/live"))[0] == 200
        async with HttpServer(sockets[1], {"/ready": second}):
            status, said = await get(server.address, "/ready")
            assert (status, said["reasons"]) == (503, ["worker 2: due work is falling behind"])
            assert said["workers"][0]["ready"]  # type: ignore[index]
            assert (await get(server.address, "/live"))[0] == 200
            silent = True
            status, said = await get(server.address, "/live")
            assert (status, said["reasons"]) == (503, ["worker 2 does not answer: it is stuck"])
            stuck.set()
        async with probes(runner(), sockets[1]) as other:
            assert (await get(server.address, "/live"))[0] == 200
            assert (await get(server.address, "/ready"))[0] == 503
            assert other.address == sockets[1]


async def test_the_metrics_of_several_are_told_apart_by_worker(tmp_path: Path) -> None:
    sockets = [Address(path=str(tmp_path / str(n))) for n in (1, 2, 3)]
    workers = [runner(hooks=[PrometheusHook(CollectorRegistry())]) for _ in range(2)]
    async with (
        workers[0],
        workers[1],
        probes(workers[0], sockets[0]),
        probes(workers[1], sockets[1]),
        HttpServer(Address("127.0.0.1", 0), probes_of_all(sockets)) as server,
    ):
        await workers[0].handle(Placed("a"))
        await workers[1].handle(Placed("b"))
        await workers[1].handle(Placed("c"))
        answer = await ask(server.address, "/metrics", timeout_seconds=5)
    text = answer.body.decode()
    for worker, count in ((1, 1.0), (2, 2.0)):
        labels = f'outcome="handled",saga="order",type="Placed",worker="{worker}"'
        assert f"sagalog_messages_total{{{labels}}} {count}" in text
    assert text.count("# TYPE sagalog_messages_total counter") == 1


async def test_the_metrics_of_several_without_the_extra_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes_module, "_prometheus", lambda: None)
    socket = Address(path=str(tmp_path / "1"))
    async with probes(runner(), socket), HttpServer(Address("127.0.0.1", 0), probes_of_all([socket])) as server:
        assert (await ask(server.address, "/metrics", timeout_seconds=5)).status == 404
