"""The little HTTP server answers what probes ask, and is bothered by nobody else for long."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import httpx
import pytest

from sagalog import DefinitionError
from sagalog.telemetry import connections
from sagalog.telemetry.http import Address, Answer, HttpServer, ask

SECRET = "4111-1111"


async def fine() -> Answer:
    return Answer(200, b"fine\n")


async def broken() -> Answer:
    raise RuntimeError(SECRET)


ROUTES = {"/fine": fine, "/broken": broken}
ANYWHERE = Address("127.0.0.1", 0)


async def raw(address: Address, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_web_client_understands_what_is_answered() -> None:
    async with HttpServer(ANYWHERE, ROUTES) as server, httpx.AsyncClient(base_url=f"http://{server.address}") as client:
        answer = await client.get("/fine?verbose")
        assert (answer.status_code, answer.text) == (200, "fine\n")
        assert answer.headers["cache-control"] == "no-store"
        assert (await client.head("/fine")).headers["content-length"] == "5"
        assert (await client.post("/fine", content=b"x" * 100)).status_code == 405
        missing = await client.get("/other")
        assert (missing.status_code, missing.text) == (404, "there is nothing here; there is /fine, /broken\n")


async def test_an_answer_that_fails_is_a_500_that_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with HttpServer(ANYWHERE, ROUTES) as server:
        answer = await ask(server.address, "/broken", timeout_seconds=5)
    assert (answer.status, answer.body) == (500, b"this failed; the log says more\n")
    assert "answering a probe failed: RuntimeError" in caplog.text
    assert SECRET not in caplog.text


HOST = b"Host: x\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /fine HTTP/2\r\n" + HOST, b"400"),
        (b"GET /fine\x00 HTTP/1.1\r\n" + HOST, b"400"),
        (b"GET \xff\xfe HTTP/1.1\r\n" + HOST, b"400"),
        (b"GET /%00%ff HTTP/1.1\r\nConnection: close\r\n" + HOST, b"404"),
        (b"GET /fine HTTP/1.1\r\n" + b"X: " + b"y" * 300_000, b"400"),
    ],
)
async def test_what_is_no_request_is_refused(request_: bytes, status: bytes) -> None:
    async with HttpServer(ANYWHERE, ROUTES) as server:
        try:
            answer = await raw(server.address, request_)
        except ConnectionResetError:  # the answer can be lost where the server closed with bytes unread
            assert len(request_) > 8192
        else:
            assert answer.split(b" ")[1] == status
        assert (await ask(server.address, "/fine", timeout_seconds=5)).status == 200


async def silent_ones(address: Address, count: int, half: bytes) -> list[asyncio.StreamWriter]:
    writers = []
    for _ in range(count):
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(half)
        writers.append(writer)
    return writers


@pytest.mark.parametrize(
    "half", [b"", b"GET /fine HTTP/1.1\r\n", b"POST /fine HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"]
)
async def test_connections_that_send_nothing_whole_never_keep_a_probe_out(
    half: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = HttpServer(ANYWHERE, ROUTES)
    monkeypatch.setattr(server, "_connection", connections.patient_connections(most_waiting=128))
    async with server:
        writers = await silent_ones(server.address, 256, half)
        for _ in range(5):
            assert (await ask(server.address, "/fine", timeout_seconds=60)).status == 200
            writers += await silent_ones(server.address, 20, half)
        assert server._state is not None
        assert len(server._state.connections) <= 128 + 1
        for writer in writers:
            writer.close()


async def test_a_crowd_that_is_silent_is_held_and_probes_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 5000:
        pytest.skip("this process may not open enough files")
    server = HttpServer(ANYWHERE, ROUTES)
    monkeypatch.setattr(server, "_connection", connections.patient_connections(request_seconds=600))
    async with server:
        writers = await silent_ones(server.address, 2000, b"")
        assert (await ask(server.address, "/fine", timeout_seconds=60)).status == 200
        assert server._state is not None
        assert len(server._state.connections) >= 2000
        for writer in writers:
            writer.close()


async def test_who_comes_while_the_event_loop_is_busy_finds_a_place_to_wait() -> None:
    crowd = 3 * connections.BACKLOG
    if int(Path("/proc/sys/net/core/somaxconn").read_text()) <= crowd if Path("/proc/sys").exists() else True:
        pytest.skip("this system has no such queue")
    async with HttpServer(ANYWHERE, ROUTES) as server:
        came = []
        for _ in range(crowd):  # without the loop: nobody accepts them
            came.append(socket.create_connection((server.address.host, server.address.port), timeout=60))
            came[-1].sendall(b"GET /fine HTTP/1.1\r\nHost: x\r\n\r\n")
        for one in came:
            one.setblocking(False)
            answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(one, 100), 60)
            assert answer.split()[1] == b"200"
            one.close()


@pytest.mark.parametrize("trickle", [b"", b"X"])
async def test_who_sends_no_whole_request_in_time_is_hung_up_on(
    trickle: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = HttpServer(ANYWHERE, ROUTES)
    monkeypatch.setattr(server, "_connection", connections.patient_connections(request_seconds=0.05))
    async with server:
        reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
        gone = asyncio.ensure_future(reader.read())
        while not gone.done():
            writer.write(trickle)
            await asyncio.sleep(0.01)
        assert gone.exception() is not None or gone.result() == b""
        writer.close()


async def test_who_does_not_take_the_answer_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def huge() -> Answer:
        return Answer(200, b"x" * 20_000_000)

    server = HttpServer(ANYWHERE, {"/": huge})
    monkeypatch.setattr(server, "_connection", connections.patient_connections(stalled_seconds=0.05))
    async with server:
        with socket.create_connection((server.address.host, server.address.port)) as one:
            one.sendall(b"GET / HTTP/1.1\r\n" + HOST)
            assert server._state is not None
            async with asyncio.timeout(40):
                while not server._state.total_requests and not server._state.tasks:
                    await asyncio.sleep(0.005)
                while server._state.connections:
                    await asyncio.sleep(0.005)


async def test_a_crowd_that_asks_at_once_costs_one_look() -> None:
    looks, go_on = 0, asyncio.Event()

    async def slow() -> Answer:
        nonlocal looks
        looks += 1
        await go_on.wait()
        return Answer(200, b"")

    async with HttpServer(ANYWHERE, {"/": slow}) as server:
        asked = [asyncio.ensure_future(ask(server.address, "/", timeout_seconds=5)) for _ in range(30)]
        assert server._state is not None
        while len(server._state.tasks) < 30:
            await asyncio.sleep(0.005)
        asked.pop().cancel()  # who hangs up does not take it from the others
        go_on.set()
        assert {answer.status for answer in await asyncio.gather(*asked)} == {200}
    assert looks == 1


async def test_a_unix_socket_does_too_also_where_a_dead_process_left_one(tmp_path: Path) -> None:
    address = Address.parse(f"unix:{tmp_path}/socket")
    for _ in range(2):
        async with HttpServer(address, ROUTES):
            assert (await ask(address, "/fine", timeout_seconds=5)).body == b"fine\n"
    with pytest.raises(OSError):
        await ask(address, "/fine", timeout_seconds=5)


async def test_whoever_is_asked_and_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    entered, never = asyncio.Event(), asyncio.Event()

    async def silent() -> Answer:
        entered.set()
        await never.wait()
        return Answer(200, b"")

    async with HttpServer(ANYWHERE, {"/": silent}) as server:
        with pytest.raises(TimeoutError):
            await ask(server.address, "/", timeout_seconds=0.05)
        assert entered.is_set()
        never.set()


async def test_an_address_that_is_taken_is_named() -> None:
    async with HttpServer(ANYWHERE, ROUTES) as server:
        with pytest.raises(DefinitionError, match=f"cannot listen at {server.address}"):
            async with HttpServer(server.address, ROUTES):
                raise AssertionError("unreachable")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8080",
        ":8080",
        "host:",
        "host:http",
        "host:99999",
        "unix:",
        "host:-1",
        "h:\uff18",
        "a b:1",
        "http://h:80",
        "h:000080",
    ],
)
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(DefinitionError, match=r"127\.0\.0\.1:8080"):
        Address.parse(text)


def test_addresses_of_all_kinds_are_read_and_written() -> None:
    for text in ("127.0.0.1:8080", "[::1]:8080", "unix:/run/sagalog.sock", "localhost:0"):
        assert str(Address.parse(text)) == text
    assert Address.parse("[::1]:80").host == "::1"
