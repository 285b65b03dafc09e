"""A runner over HTTP: tokens and their limits, CloudEvents, statuses, and the stream of all ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from sagalog import DefinitionError, SagaRunner
from sagalog.web import BearerToken, ServedRunner
from sagalog.web.tokens import KnownTokens, digest_of, new_token, read_tokens, token_of
from sagalog.web.webhook import wait_seconds

from ..servers.processes import eventually
from .served import served
from .shop import Charge, OrderPlaced, PaymentReceived, ShopSaga, charge

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALL, WRITER, READER, SLOW, PAYER = (f"a token for {name}, long enough" for name in ("all", "w", "r", "s", "p"))
STRUCTURED = "application/cloudevents+json"


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture(scope="module")
def runner() -> SagaRunner:
    return SagaRunner("memory://", sagas=[ShopSaga], dispatch={Charge: charge})


@pytest.fixture(scope="module")
def app(runner: SagaRunner) -> ServedRunner:
    tokens = [
        token_of(ALL, name="all"),
        BearerToken("writer", digest_of(WRITER), ("events:write",)),
        BearerToken("reader", digest_of(READER), ("instances:read", "ends:read")),
        BearerToken("slow", digest_of(SLOW), per_second=0.5),
        BearerToken("payer", digest_of(PAYER), types=("PaymentReceived",)),
    ]
    return ServedRunner(runner, tokens, max_body_bytes=2000, most_in_flight=2)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(app: ServedRunner) -> AsyncIterator[httpx.AsyncClient]:
    async with served(app) as client:
        yield client
        app.stopping()


def put(client: httpx.AsyncClient, order_id: str, number: str = "1", token: str = ALL, **more: Any) -> Any:
    event = {
        "specversion": "1.0",
        "id": number,
        "source": "/shop",
        "type": "OrderPlaced",
        "data": {"order_id": order_id, "amount": 7},
        **more,
    }
    return client.post("/events", content=json.dumps(event), headers={"content-type": STRUCTURED, **bearer(token)})


async def test_an_event_is_put_once_and_its_instance_is_asked_for(client: httpx.AsyncClient) -> None:
    first = await put(client, "A 1/2")
    assert (first.status_code, first.json()["outcomes"]) == (200, {"shop": "handled"})
    assert first.headers["location"] == "/instances/shop/A%201%2F2"
    assert (await put(client, "A 1/2")).json()["duplicate"]
    shown = (await client.get(first.headers["location"], headers=bearer(READER))).json()
    assert (shown["id"], shown["status"], shown["state"]["amount"]) == ("A 1/2", "running", 7)


async def test_binary_mode_is_taken_as_well(client: httpx.AsyncClient) -> None:
    headers = {
        "ce-specversion": "1.0", "ce-id": "9", "ce-source": "/shop", "ce-type": "OrderPlaced",
        "content-type": "application/json", **bearer(WRITER),
    }  # fmt: skip
    first = await client.post("/events", json={"order_id": "B"}, headers=headers)
    assert (first.status_code, first.json()["message_id"]) == (200, "/shop 9")
    assert (await client.post("/events", json={"order_id": "B"}, headers=headers)).json()["duplicate"]


async def test_who_waits_is_answered_when_it_has_ended(client: httpx.AsyncClient, runner: SagaRunner) -> None:
    await put(client, "W")
    headers = {**bearer(READER), "prefer": "wait=20"}
    waiting = asyncio.ensure_future(client.get("/instances/shop/W", headers=headers))
    await client.get("/instances/shop/W", headers=bearer(READER))
    await runner.handle(PaymentReceived("W"))
    shown = (await waiting).json()
    assert (shown["ended"], shown["result"]) == (True, {"order_id": "W", "amount": 7})


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=3", 3),
        ('wait="3"', 3),
        ("WAIT = 3", 3),
        ('note="a, wait=9", wait=3; a=b, wait=5', 3),
        ("wait=100000000000000000000000", 60),
        ("respond-async, wait=3", 0),
        *((text, 7) for text in ("", "wait", "wait=", "wait=0.5", "wait=-1", "wait=abc", 'wait="', "handling=lenient")),
    ],
)
async def test_what_is_preferred_is_read_as_its_rfc_has_it(prefer: str, seconds: float) -> None:
    assert wait_seconds(prefer, 60.0, unsaid=7.0) == seconds


async def test_who_does_not_say_how_long_it_waits_is_answered_at_once(client: httpx.AsyncClient) -> None:
    await put(client, "P")
    for prefer in ("wait=0.5", "handling=lenient"):  # it would be cut off after seconds otherwise
        headers = {**bearer(READER), "prefer": prefer}
        assert (await client.get("/instances/shop/P", headers=headers)).json()["status"] == "running"


async def test_attributes_in_headers_are_decoded(client: httpx.AsyncClient) -> None:
    """CloudEvents' HTTP binding, 3.1.3.2: so that one event has one message id in both modes."""
    await put(client, "C", 'Nr. 7 % "é€"')
    for encoded in ("Nr.%207%20%25%20%22%C3%A9%E2%82%AC%22", '"Nr. 7 %25 \\"%C3%A9%E2%82%AC\\""'):
        headers = {
            "ce-specversion": "1.0", "ce-id": encoded, "ce-source": "%2Fshop", "ce-type": "OrderPlace%64",
            "content-type": "application/json", **bearer(WRITER),
        }  # fmt: skip
        answer = await client.post("/events", json={"order_id": "C", "amount": 7}, headers=headers)
        assert answer.json()["duplicate"], answer.text
    headers["ce-id"] = "%FF"
    assert (await client.post("/events", json={"order_id": "C"}, headers=headers)).status_code == 400


@pytest.mark.parametrize(
    ("token", "method", "path", "status", "says"),
    [
        ("", "POST", "/events", 401, "a token is needed"),
        ("a token of nobody here", "POST", "/events", 401, "a token is needed"),
        (READER, "POST", "/events", 403, "events:write"),
        (WRITER, "GET", "/instances/shop/A", 403, "instances:read"),
        (WRITER, "GET", "/ends", 403, "ends:read"),
        (ALL, "GET", "/instances/shop/nobody", 404, "no such instance"),
        (ALL, "GET", "/instances/nothing/A", 404, "there is shop"),
        (ALL, "GET", "/ends?saga=nothing", 404, "there is shop"),
        (ALL, "GET", "/ends?after=x", 400, "not"),
        (ALL, "GET", "/nothing", 404, "openapi.json"),
        (ALL, "GET", "/events", 405, "does not take that method"),
    ],
)
async def test_who_may_not_or_asks_for_nothing_is_told_so(
    client: httpx.AsyncClient, token: str, method: str, path: str, status: int, says: str
) -> None:
    answer = await client.request(method, path, headers=bearer(token) if token else {})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert says in answer.json()["detail"]
    assert token not in answer.text or not token


@pytest.mark.parametrize(
    "name", ["authorization", "content-type", "ce-specversion", "ce-id", "ce-source", "ce-type", "ce-subject"]
)
async def test_a_header_of_one_value_that_comes_twice_is_refused(client: httpx.AsyncClient, name: str) -> None:
    headers = {
        **bearer(ALL),
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": "2",
        "ce-source": "/t",
        "ce-type": "OrderPlaced",
        "ce-subject": "T",
    }
    twice = [*headers.items(), (name, headers[name])]
    answer = await client.post("/events", content=b'{"order_id": "T"}', headers=twice)
    assert (answer.status_code, answer.json()["detail"].partition(";")[0]) == (400, f"the header {name} comes twice")
    assert (await client.get("/instances/shop/T", headers=bearer(ALL))).status_code == 404


@pytest.mark.parametrize(
    ("more", "status", "says"),
    [
        ({"specversion": "2.0"}, 400, "specversion"),
        ({"id": ""}, 400, "has no id"),
        ({"type": "Nothing"}, 422, "handles events of type"),
        ({"data": {"amount": 1}}, 422, "missing required field `order_id`"),
        ({"data": {"order_id": "secret value", "amount": "much"}}, 422, "$.amount"),
        ({"datacontenttype": "text/xml"}, 400, "not JSON"),
        ({"extra": "x" * 3000}, 413, "2,000 bytes"),
    ],
)
async def test_what_is_no_event_is_told_why(
    client: httpx.AsyncClient, more: dict[str, Any], status: int, says: str
) -> None:
    answer = await put(client, "X", **more)
    assert (answer.status_code, says in answer.json()["detail"]) == (status, True), answer.text
    assert "secret value" not in answer.text


async def test_a_token_allows_so_many_requests_and_so_many_types(client: httpx.AsyncClient) -> None:
    assert (await put(client, "S", token=SLOW)).status_code == 200
    again = await put(client, "S", token=SLOW)
    assert (again.status_code, again.headers["retry-after"]) == (429, "2")
    assert (await put(client, "P", token=PAYER)).status_code == 403
    paid = await put(client, "W2", token=PAYER, type="PaymentReceived", data={"order_id": "W2"})
    assert paid.status_code == 200


async def test_beyond_what_is_at_work_a_sender_is_told_to_come_again(
    client: httpx.AsyncClient, app: ServedRunner, runner: SagaRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    assert runner.journal is not None
    write = runner.journal.write_batch

    async def slow(records: Any) -> Any:
        await gate.wait()
        return await write(records)

    monkeypatch.setattr(runner.journal, "write_batch", slow)
    waiting = [asyncio.ensure_future(put(client, f"Q{number}", f"q{number}")) for number in range(2)]
    await eventually(lambda: app._in_flight == 2)
    turned_away = await put(client, "Q9", "q9")
    assert (turned_away.status_code, turned_away.headers["retry-after"]) == (429, "1")
    gate.set()
    assert [(await one).status_code for one in waiting] == [200, 200]
    assert (await put(client, "Q9", "q9")).status_code == 200


async def test_the_stream_of_ends_tells_each_and_goes_on_where_it_was_left(
    client: httpx.AsyncClient, runner: SagaRunner
) -> None:
    headers = {"accept": "text/event-stream", **bearer(READER)}
    told: list[Any] = []
    last = ""
    async with client.stream("GET", "/ends?saga=shop", headers=headers) as answer:
        lines = answer.aiter_lines()
        while not last:
            line = await anext(lines)
            last = line.removeprefix("id: ") if line.startswith("id: ") else ""
        for order_id in ("E1", "poor E2"):
            await runner.handle(OrderPlaced(order_id, 3))
        await runner.handle(PaymentReceived("E1"))
        async with asyncio.timeout(40):
            while len(told) < 2:
                line = await anext(lines)
                if line.startswith("data: "):
                    told.append(json.loads(line[6:]))
    ends = {one["id"]: one["result"] for one in told}
    assert ends == {"E1": {"order_id": "E1", "amount": 3}, "poor E2": "refused"}
    assert {one["end"] for one in told} == {"shop/E1/1/completed", "shop/poor E2/1/completed"}
    async with client.stream("GET", "/ends", headers={**headers, "last-event-id": last}) as answer:
        again = []
        async with asyncio.timeout(40):
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    again.append(json.loads(line[6:])["end"])
                if len(again) == 2:
                    break
    assert sorted(again) == sorted(one["end"] for one in told)


async def test_the_description_shows_the_types_and_needs_no_token(client: httpx.AsyncClient) -> None:
    shown = (await client.get("/openapi.json")).json()
    envelopes = shown["paths"]["/events"]["post"]["requestBody"]["content"][STRUCTURED]["schema"]["oneOf"]
    placed = next(one for one in envelopes if one["title"] == "OrderPlaced")
    assert placed["properties"]["data"]["properties"]["order_id"] == {"type": "string"}
    assert set(shown["paths"]) == {"/events", "/instances/{saga}/{id}", "/ends"}
    assert (await client.get("/ready")).json()["ready"] is True
    assert (await client.get("/live")).json() == {"live": True}


async def test_tokens_come_from_a_file_and_are_checked(tmp_path: Any) -> None:
    secret, entry = new_token('bill"ing')
    file = tmp_path / "tokens.toml"
    file.write_text(entry)
    (token,) = read_tokens(str(file))
    assert KnownTokens([token]).of(f"bearer {secret}") is token
    assert KnownTokens([token]).of(f"basic {secret}") is None
    for wrong, says in (
        ("", "no \\[\\[token"),
        ("[[token]]\nname = 'a'", "missing required field `sha256`"),
        ("[[token]]\nname = 'a'\nsha256 = 'secret'", "64 lower-case hexadecimal"),
        (entry.replace("events:write", "events:all"), "must be some of"),
        (entry + "extra = 1", "unknown field"),
        (entry + "types = []", "types of token .* allows nothing: remove the token, or leave that line out"),
        (entry + "per_second = 0", "per_second of token .* allows nothing"),
        ("[[token", "not valid:"),
    ):
        file.write_text(wrong)
        with pytest.raises(DefinitionError, match=says):
            read_tokens(str(file))
    with pytest.raises(DefinitionError, match="cannot be read"):
        read_tokens(str(tmp_path / "nowhere"))
    for name in ("", "two\nlines"):
        with pytest.raises(DefinitionError, match="a token has a name, of printable characters"):
            new_token(name)
    with pytest.raises(DefinitionError, match="the same name"):
        KnownTokens([token, token])
    other = BearerToken("other", token.sha256, ("ends:read",))
    with pytest.raises(DefinitionError, match="have the same digest, so it is not clear which of their rights"):
        KnownTokens([token, other])
    for odd in (token, "secret", ["secret"], 7):
        with pytest.raises(DefinitionError, match="BearerToken"):
            KnownTokens(odd)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="at least 16"):
        token_of("short")
    now = [0.0]
    known = KnownTokens([BearerToken("t", token.sha256, per_second=2)], clock=lambda: now[0])
    (limited,) = known._tokens
    assert [known.wait_seconds(limited) for _ in range(3)] == [0.0, 0.0, 0.5]
    now[0] = 0.5
    assert known.wait_seconds(limited) == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"types": "PaymentReceived"},  # any part of the text would be a type that is allowed
        {"types": [7]},
        {"scopes": "events:write"},
        {"scopes": ("events:write", "all")},
        {"scopes": ()},
        {"per_second": "5"},
        {"per_second": True},
        {"per_second": float("nan")},
        {"name": 7},
        {"sha256": 7},
    ],
)
async def test_a_token_that_allows_something_else_than_was_meant_is_refused_when_it_is_made(
    wrong: dict[str, Any],
) -> None:
    with pytest.raises(DefinitionError, match="token"):
        BearerToken(**{"name": "t", "sha256": digest_of(WRITER), **wrong})


async def test_a_slash_too_many_leads_nowhere(client: httpx.AsyncClient) -> None:
    """A redirect would name the host and the scheme that the request has told, and a token would go there."""
    for method, path in (("GET", "/live/"), ("POST", "/events/"), ("GET", "/instances/shop")):
        answer = await client.request(method, path)
        assert (answer.status_code, answer.headers.get("location")) == (404, None)
