"""Webhooks on a real server: who may send, what is taken once, and what a sender is told."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.routing import Route

from sagalog import DefinitionError, NoInstance, NoInstanceError, RunnerSettings, SagaRunner
from sagalog.web import (
    AwaitOutcome,
    HmacSignature,
    Posted,
    ServedRunner,
    StandardWebhooks,
    StatusEndpoint,
    StripeSignature,
    Webhook,
    lifespan,
)

from .served import served
from .shop import Charge, OrderPlaced, PaymentReceived, ShopSaga, charge

SECRET = "a secret of more than 16 bytes"
OLD = "the secret that was used before it"
STANDARD = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
STANDARD_OLD = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


def new_runner(**settings: Any) -> SagaRunner:
    return SagaRunner("memory://", sagas=[ShopSaga], dispatch={Charge: charge}, settings=RunnerSettings(**settings))


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def runner() -> SagaRunner:
    return new_runner()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(runner: SagaRunner) -> AsyncIterator[httpx.AsyncClient]:
    orders = Webhook(
        runner,
        OrderPlaced,
        signature=None,
        outcome=AwaitOutcome(ShopSaga, wait=timedelta(seconds=5), status="/orders/{id}"),
        max_body_bytes=1000,
        body_timeout=timedelta(milliseconds=300),
    )
    events = {"payment.succeeded": PaymentReceived, "order.placed": OrderPlaced}
    routes = [
        Route("/orders", orders, methods=["POST"]),
        Route(
            "/orders/{id:path}", StatusEndpoint(runner, ShopSaga, result=True, look_every=timedelta(milliseconds=50))
        ),
        Route("/standard", Webhook(runner, PaymentReceived, signature=StandardWebhooks([STANDARD, STANDARD_OLD]))),
        Route(
            "/stripe",
            Webhook(
                runner,
                events,
                data_at="data.object",
                unknown="ignore",
                signature=StripeSignature([SECRET, OLD]),
                message_id=lambda posted: posted.json["id"],
                source="stripe",
            ),
        ),
        Route("/plain", Webhook(runner, PaymentReceived, signature=None, message_id=None)),
    ]
    async with served(Starlette(routes=routes, lifespan=lifespan(runner))) as client:
        yield client


def place(client: httpx.AsyncClient, order_id: str = "A-1", key: str = "k1", **headers: str) -> Any:
    headers = {"idempotency-key": key, "prefer": "respond-async", **headers}
    return client.post("/orders", json={"order_id": order_id, "amount": 3}, headers=headers)


def stripe(body: bytes, secret: str = SECRET, at: float | None = None) -> dict[str, str]:
    seconds = str(int(time.time() if at is None else at))
    digest = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return {"stripe-signature": f"t={seconds},v1={digest},v0=00", "content-type": "application/json"}


async def test_an_event_is_stored_once_and_a_second_delivery_is_told_so(
    client: httpx.AsyncClient, runner: SagaRunner
) -> None:
    first = await place(client)
    assert (first.status_code, first.json()["duplicate"], first.headers["location"]) == (202, False, "/orders/A-1")
    again = await place(client)
    assert (again.status_code, again.json()["duplicate"]) == (202, True)
    assert (await runner.state(ShopSaga, "A-1")).amount == 3


async def test_the_key_may_be_quoted_as_the_draft_of_the_header_has_it(client: httpx.AsyncClient) -> None:
    await place(client, "A-2", key="k1")
    assert (await place(client, "A-2", key='"k1"')).json()["duplicate"]


async def test_who_waits_is_told_how_it_ended(client: httpx.AsyncClient) -> None:
    answer = await place(client, "poor", prefer="wait=5")
    assert answer.status_code == 200
    assert answer.json()["ended"]["status"] == "completed"
    assert answer.json()["ended"]["result"] == "refused"
    assert (await client.get(answer.json()["status_url"])).json()["ended"] is True


async def test_who_waits_in_vain_is_told_where_to_ask(client: httpx.AsyncClient) -> None:
    answer = await place(client, "A/1 ?", prefer="wait=1")
    assert (answer.status_code, answer.headers["location"]) == (202, "/orders/A%2F1%20%3F")
    told = await client.get(answer.headers["location"])
    assert told.json()["status"] == "running"


@pytest.mark.parametrize(
    ("path", "content", "headers", "status", "says"),
    [
        ("/orders", b'{"order_id": 1}', {}, 422, "Expected `str`, got `int` - at `$.order_id`"),
        ("/orders", b'{"amount": 2}', {}, 422, "missing required field `order_id`"),
        ("/orders", b"order_id=A", {}, 400, "not JSON"),
        ("/orders", b"", {}, 400, "not JSON"),
        ("/orders", b"[" * 900, {}, 400, "not JSON"),
        ("/orders", b'{"order_id": "\xff"}', {}, 400, "not JSON"),
        ("/orders", b'{"order_id": "' + b"x" * 2000 + b'"}', {}, 413, "limit of 1,000 bytes"),
        ("/orders", b'{"order_id": "a"}', {"content-type": "text/plain"}, 415, "application/json"),
        ("/orders", b'{"order_id": "a"}', {"content-type": "application/json; charset=latin-1"}, 415, "UTF-8"),
        ("/orders", b'{"order_id": "a"}', {"content-encoding": "gzip"}, 415, "uncompressed"),
        ("/orders", b'{"order_id": "a"}', {"idempotency-key": ""}, 400, "idempotency-key is missing"),
        ("/orders", b'{"order_id": "a"}', {"idempotency-key": "x" * 2000}, 422, "1 to 1024 characters"),
        ("/orders", b'{"order_id": ""}', {}, 422, "has an empty key"),
        ("/standard", b'{"order_id": "a"}', {}, 401, "webhook-signature is missing"),
        ("/stripe", b'{"id": "e1"}', {"stripe-signature": "v1=00"}, 401, "names no time"),
        ("/stripe", b'{"id": "e1"}', {"stripe-signature": "t=x,v1=00"}, 401, "seconds since 1970"),
    ],
)  # fmt: skip
async def test_a_bad_request_is_told_what_is_wrong_with_it(
    client: httpx.AsyncClient, path: str, content: bytes, headers: dict[str, str], status: int, says: str
) -> None:
    headers = {"content-type": "application/json", "idempotency-key": "k", **headers}
    answer = await client.post(path, content=content, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert (problem["type"], problem["status"]) == ("about:blank", status)
    assert says in problem["detail"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/orders", "idempotency-key"),
        ("/orders", "content-type"),
        ("/standard", "webhook-id"),
        ("/standard", "webhook-timestamp"),
    ],
)
async def test_a_header_of_one_value_that_comes_twice_is_refused(
    client: httpx.AsyncClient, path: str, name: str
) -> None:
    body = b'{"order_id": "twice"}'
    headers = {
        "content-type": "application/json",
        "idempotency-key": "k",
        **StandardWebhooks(STANDARD).headers("m", body),
    }
    for value in (headers[name], "another"):
        answer = await client.post(path, content=body, headers=[*headers.items(), (name, value)])
        assert answer.status_code in (400, 401), answer.text
    assert (await client.get("/orders/twice")).status_code == 404


class Misread(Exception):
    """Of a function of the application."""


def itself(*_: Any) -> Any:
    raise asyncio.CancelledError


def of_what_is_not_there(posted: Posted) -> OrderPlaced:
    return OrderPlaced(posted.json["metadata"]["order"], 1)


def of_what_is_no_number(posted: Posted) -> OrderPlaced:
    return OrderPlaced(posted.json["order"], int(posted.json["amount"]))


async def by_mistake(posted: Posted) -> OrderPlaced:
    raise Misread(posted.json["order"])


@pytest.mark.parametrize(
    ("function", "status", "says"),
    [
        (of_what_is_not_there, 422, "no event can be made of the body (KeyError)"),
        (of_what_is_no_number, 422, "no event can be made of the body (ValueError)"),
        (by_mistake, 500, "the log says more"),
        (itself, 500, "the log says more"),
    ],
)
async def test_what_a_function_of_the_application_raises_is_answered_and_logged_with_its_place(
    function: Any, status: int, says: str, runner: SagaRunner, caplog: pytest.LogCaptureFixture
) -> None:
    webhook = Webhook(runner, function, signature=None, message_id=None)
    transport = httpx.ASGITransport(Starlette(routes=[Route("/", webhook, methods=["POST"])]))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        answer = await client.post("/", json={"order": "hidden one", "amount": "hidden too"})
        assert (answer.status_code, says in answer.json()["detail"]) == (status, True), answer.text
        broken = await client.post("/", content=b"{", headers={"content-type": "application/json"})
        assert broken.status_code == (500 if function is itself else 400)
    assert f"in {function.__name__}" in caplog.text
    assert "hidden" not in caplog.text + answer.text


async def test_functions_that_give_an_id_or_a_permission_are_answered_alike(runner: SagaRunner) -> None:
    webhook = Webhook(runner, OrderPlaced, signature=None, message_id=itself)
    routes = [
        Route("/", webhook, methods=["POST"]),
        Route("/{id}", StatusEndpoint(runner, ShopSaga, allow=itself)),
    ]
    transport = httpx.ASGITransport(Starlette(routes=routes))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        assert (await client.post("/", json={"order_id": "A"})).status_code == 500
        assert (await client.get("/A")).status_code == 500


async def test_another_method_is_told_which_one_there_is(client: httpx.AsyncClient) -> None:
    answer = await client.get("/standard")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_a_body_without_a_length_is_bounded_as_well(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    answer = await client.post(
        "/orders", content=endless(), headers={"content-type": "application/json", "idempotency-key": "k"}
    )
    assert answer.status_code == 413


async def test_a_body_that_does_not_come_to_an_end_is_not_waited_for(client: httpx.AsyncClient) -> None:
    host, port = client.base_url.host, client.base_url.port
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"POST /orders HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{")
    async with asyncio.timeout(40):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert (await reader.read()).endswith(b'took over 0.3 s to arrive; nothing was stored"}')  # and hangs up
    writer.close()


async def test_a_signed_event_is_taken_and_its_copy_is_a_duplicate(client: httpx.AsyncClient) -> None:
    await place(client, "A-3")
    body = b'{"order_id": "A-3"}'
    headers = StandardWebhooks(STANDARD_OLD).headers("msg_1", body) | {"content-type": "application/json"}
    assert (await client.post("/standard", content=body, headers=headers)).json()["duplicate"] is False
    again = await client.post("/standard", content=body, headers=headers)
    assert (again.status_code, again.json()["duplicate"]) == (200, True)
    renamed = await client.post("/standard", content=body, headers={**headers, "webhook-id": "msg_2"})
    assert renamed.status_code == 401


@pytest.mark.parametrize("wrong", ["body", "secret", "late", "early", "none"])
async def test_what_is_not_signed_by_a_known_secret_in_time_is_refused(
    client: httpx.AsyncClient, runner: SagaRunner, wrong: str
) -> None:
    shown = {"id": "evt_1", "type": "order.placed", "data": {"object": {"order_id": f"S-{wrong}"}}}
    body = sent = json.dumps(shown).encode()
    secret = "another secret, just as long" if wrong == "secret" else OLD
    at = time.time() + {"late": -400, "early": 400}.get(wrong, 0)
    headers = stripe(body, secret, at)
    if wrong == "body":
        sent = body.replace(b"S-", b"T-")
    if wrong == "none":
        headers["stripe-signature"] = headers["stripe-signature"].replace("v1", "v0")
    answer = await client.post("/stripe", content=sent, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"] == "SignatureError"
    assert secret not in answer.text
    assert "S-" not in answer.text
    assert answer.json()["detail"].endswith("nothing was stored")
    with pytest.raises(NoInstanceError):
        await runner.state(ShopSaga, f"S-{wrong}")
    assert (await client.post("/stripe", content=body, headers=stripe(body, SECRET))).status_code == 200


async def test_the_id_and_the_type_of_a_providers_event_are_taken_from_its_body(client: httpx.AsyncClient) -> None:
    async def post(event_id: str, kind: str) -> Any:
        shown = {"id": event_id, "type": kind, "data": {"object": {"order_id": "S-9"}}}
        body = json.dumps(shown).encode()
        return (await client.post("/stripe", content=body, headers=stripe(body))).json()

    assert (await post("evt_1", "order.placed"))["message_id"] == "stripe:evt_1"
    assert (await post("evt_1", "order.placed"))["duplicate"]
    assert (await post("evt_2", "customer.created")) == {"ignored": True, "outcomes": {}}
    assert (await post("evt_3", "payment.succeeded"))["outcomes"] == {"shop": "handled"}
    assert (await post("", "payment.succeeded"))["status"] == 400


async def test_an_event_that_its_saga_declines_is_a_conflict(client: httpx.AsyncClient) -> None:
    await place(client, "A-4", key="k1")
    answer = await place(client, "A-4", key="k2")
    assert (answer.status_code, answer.json()["error"]) == (409, "AlreadyStartedError")


async def test_a_journal_that_is_away_means_later_and_its_words_stay_in_the_log(
    client: httpx.AsyncClient, runner: SagaRunner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from sagalog import JournalUnavailableError

    async def away(*_: Any) -> Any:
        raise JournalUnavailableError("connection to 10.0.0.7 as admin refused")

    assert runner.journal is not None
    monkeypatch.setattr(runner.journal, "write_batch", away)
    answer = await place(client, "A-5")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "10.0.0.7" not in answer.text
    assert "10.0.0.7" in caplog.text


async def test_an_event_for_no_instance_is_a_conflict_where_the_runner_raises() -> None:
    runner = new_runner(no_instance=NoInstance.RAISE)
    hook = Webhook(runner, PaymentReceived, signature=None)
    async with served(Starlette(routes=[Route("/", hook)], lifespan=lifespan(runner))) as client:
        answer = await client.post("/", json={"order_id": "Z"}, headers={"idempotency-key": "k"})
    assert (answer.status_code, answer.json()["error"]) == (409, "NoInstanceError")


async def test_before_the_start_and_after_the_stop_a_sender_is_told_to_come_again() -> None:
    runner = new_runner()
    transport = httpx.ASGITransport(Webhook(runner, PaymentReceived, signature=None, message_id=None))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/", json={"order_id": "Z"})
        assert (answer.status_code, answer.json()["error"]) == (503, "RunnerStoppedError")
        async with runner:
            assert (await client.post("/", json={"order_id": "Z"})).status_code == 200
        assert (await client.post("/", json={"order_id": "Z"})).status_code == 503


async def test_an_id_that_is_not_signed_is_refused_when_the_webhook_is_made() -> None:
    plain = HmacSignature(SECRET, header="x-hub-signature-256", prefix="sha256=")
    for signature in (plain, StripeSignature(SECRET)):
        with pytest.raises(DefinitionError, match="is not signed"):
            Webhook(new_runner(), PaymentReceived, signature=signature)
    Webhook(new_runner(), PaymentReceived, signature=plain, message_id=lambda posted: posted.json["id"])
    signed = HmacSignature(SECRET, header="x-signature", id_header="Idempotency-Key", timestamp_header="x-time")
    Webhook(new_runner(), PaymentReceived, signature=signed, message_id="idempotency-key")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            {"message_id": 7},
            "message_id= must be the name of a header, a function of the request, or None, not int",
        ),
        ({"source": None}, "source= must be a str"),
        ({"type_at": ""}, "type_at= must not be empty"),
        ({"data_at": ["data"]}, "data_at= must be a str"),
        ({"max_body_bytes": 0}, "max_body_bytes= must be greater than 0"),
        ({"max_body_bytes": "1 MiB"}, "max_body_bytes= must be a whole number"),
        ({"outcome": ShopSaga}, "outcome= must be an AwaitOutcome"),
        ({"unknown": "drop"}, "unknown= must be 'refuse' or 'ignore',"),
        ({"body_timeout": 10}, "body_timeout"),
        (
            {"events": {"paid": PaymentReceived, "number": int}},
            "reads 'number' as int, and no saga of its runner takes",
        ),
        ({"events": Charge}, "reads 'Charge' as Charge, and no saga of its runner takes"),
    ],
)
async def test_an_argument_that_could_not_work_is_refused_when_the_webhook_is_made(
    wrong: dict[str, Any], says: str
) -> None:
    with pytest.raises(DefinitionError, match=says):
        Webhook(new_runner(), **{"events": PaymentReceived, "signature": None, **wrong})


async def test_so_is_one_of_a_status_endpoint_and_of_a_served_runner() -> None:
    with pytest.raises(DefinitionError, match="max_streams= must be a whole number"):
        StatusEndpoint(new_runner(), ShopSaga, max_streams=1.5)  # type: ignore[arg-type]
    for wrong in ({"max_body_bytes": 0}, {"most_in_flight": None}):
        with pytest.raises(DefinitionError, match=f"{next(iter(wrong))}= must be"):
            ServedRunner(new_runner(), [], **wrong)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="a SagaRunner, not str"):
        ServedRunner("memory://", [])  # type: ignore[arg-type]


@pytest.mark.parametrize("secrets", ["short", b"short", [], [SECRET, "short"], 7, None])
async def test_a_secret_that_protects_nothing_is_refused_and_not_shown(secrets: Any) -> None:
    with pytest.raises(DefinitionError) as raised:
        HmacSignature(secrets, header="x-signature")
    assert "short" not in str(raised.value).replace("too short", "")
    with pytest.raises(DefinitionError):
        StandardWebhooks("whsec_not base64!")


async def test_the_example_of_the_standard_is_signed_as_it_says() -> None:
    signature = StandardWebhooks("whsec_plJ3nmyCDGBKInavdOK15jsl", clock=lambda: 1731705121)
    body = b'{"event_type":"ping","data":{"success":true}}'
    headers = signature.headers("msg_loFOjxBNrRLzqYUf", body)
    assert headers["webhook-signature"] == "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="
    signature.check(headers, body)
