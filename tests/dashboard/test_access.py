"""Attacks on the dashboard: each is refused, and changes nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from sagalog import DefinitionError, InMemoryJournal
from sagalog.dashboard import dashboard_app
from sagalog.dashboard.access import MAX_FORM_BYTES, Access

from .conftest import TOKEN, board_of, browsing

PAGES = [
    "/",
    "/instances?status=all",
    "/instance?saga=order&id=parked",
    "/saga?name=order",
    "/instance/payload?saga=order&id=parked",
    "/repair?saga=order&id=parked&action=retry",
]


async def form_token(browser: httpx.AsyncClient) -> str:
    page = (await browser.get("/")).text
    return re.search(r'name="form_token" value="(\w+)"', page)[1]  # type: ignore[index]


def versions(journal: InMemoryJournal) -> dict[str, int]:
    return dict(journal._highest)


async def repair(browser: httpx.AsyncClient, **changes: Any) -> httpx.Response:
    form = {"saga": "order", "id": "parked", "action": "retry", "version": "3", "note": ""}
    form |= {"form_token": await form_token(browser)} if "form_token" not in changes else {}
    headers = changes.pop("headers", {})
    form |= {name: value for name, value in changes.items() if value is not None}
    return await browser.post("/repair", data=form, headers=headers)


ATTACKS: dict[str, dict[str, Any]] = {
    "no form token": {"form_token": ""},
    "a guessed form token": {"form_token": "0" * 64},
    "another site": {"headers": {"origin": "https://evil.example"}},
    "another port": {"headers": {"origin": "http://localhost:9999"}},
    "no address at all": {"headers": {"origin": "http://["}},
    "a sandboxed frame": {"headers": {"origin": "null"}},
    "a cross-site fetch": {"headers": {"sec-fetch-site": "cross-site"}},
    "another site of the same domain": {"headers": {"sec-fetch-site": "same-site"}},
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("action", ["retry", "skip", "cancel", "cancel with compensation", "resend"])
async def test_a_change_that_did_not_begin_on_our_page_is_refused(
    operator: httpx.AsyncClient, journal: InMemoryJournal, attack: str, action: str
) -> None:
    before = versions(journal)
    answer = await repair(operator, action=action, **ATTACKS[attack])
    assert answer.status_code == 403
    assert "Nothing was changed" in answer.text
    assert versions(journal) == before


async def test_a_change_without_a_session_is_refused_also_on_loopback(
    client: httpx.AsyncClient, journal: InMemoryJournal
) -> None:
    before = versions(journal)
    answer = await repair(client, form_token="x")
    assert answer.status_code == 403
    assert (await client.post("/logout", data={"form_token": ""})).status_code == 403
    assert versions(journal) == before


async def test_a_form_of_another_session_is_refused(operator: httpx.AsyncClient, journal: InMemoryJournal) -> None:
    before = versions(journal)
    theirs = await form_token(operator)
    operator.cookies.clear()
    await operator.post("/login", data={"token": TOKEN})
    assert await form_token(operator) != theirs
    assert (await repair(operator, form_token=theirs)).status_code == 403
    assert versions(journal) == before


@pytest.mark.parametrize("change", ["get", "put", "delete", "patch"])
async def test_a_change_needs_a_form_that_is_posted(
    operator: httpx.AsyncClient, journal: InMemoryJournal, change: str
) -> None:
    before = versions(journal)
    query = {
        "saga": "order",
        "id": "parked",
        "action": "retry",
        "version": "3",
        "form_token": await form_token(operator),
    }
    await operator.request(change, "/repair", params=query)
    assert (await operator.post("/repair", json=query)).status_code == 415
    assert (await operator.post("/repair", params=query, data={"note": "x"})).status_code == 403
    assert versions(journal) == before


async def test_a_form_without_end_is_not_read(operator: httpx.AsyncClient) -> None:
    large = await operator.post("/repair", data={"note": "x" * 100_000})
    assert (large.status_code, f"over {MAX_FORM_BYTES // 1024} KiB" in large.text) == (413, True)
    assert (await operator.post("/repair", data={str(n): "x" for n in range(50)})).status_code == 400


@pytest.mark.parametrize("page", PAGES)
async def test_no_page_is_read_without_the_token_where_reading_is_closed(journal: InMemoryJournal, page: str) -> None:
    async with browsing(board_of(journal, open_reading=False, hosts=[])) as browser:
        answer = await browser.get(page)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/login?next=%2F")
        assert "parked" not in answer.text
        if "repair" not in page and "payload" not in page:
            path, _, query = page.partition("?")
            assert (await browser.get(f"{path.rstrip('/')}/live?{query}")).status_code == 401
        await browser.post("/login", data={"token": TOKEN})
        assert (await browser.get(page)).status_code == 200


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"])
async def test_what_a_proxy_passes_on_is_not_from_this_machine(client: httpx.AsyncClient, header: str) -> None:
    assert (await client.get("/")).status_code == 200
    assert (await client.get("/", headers={header: "203.0.113.7"})).status_code == 303


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[", "a b"])
async def test_a_name_that_is_not_ours_gets_nothing(client: httpx.AsyncClient, host: str) -> None:
    for page in (*PAGES, "/login", "/static/live.js"):
        answer = await client.get(page, headers={"host": host})
        assert answer.status_code == 421
        assert "order" not in answer.text
    assert (await client.get("/", headers={"host": "LOCALHOST:8765"})).status_code == 200


async def test_a_wrong_token_opens_nothing_and_is_not_shown_again(client: httpx.AsyncClient) -> None:
    for token in (
        "",
        "wrong token of mine",
        TOKEN + "x",
        "ä\udcff".encode("utf-8", "surrogateescape").decode("latin1"),
    ):
        answer = await client.post("/login", data={"token": token})
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
        assert "wrong token of mine" not in answer.text


async def test_before_signing_in_nothing_of_the_journal_is_shown(journal: InMemoryJournal) -> None:
    async with browsing(board_of(journal, open_reading=False, hosts=[])) as browser:
        for page in ("/login", "/nothing", "/login?next=%2Fnothing"):
            text = (await browser.get(page)).text
            assert "order" not in text
            assert "Counted" not in text
        assert "order" not in (await browser.post("/login", data={"token": "wrong"})).text


async def test_signing_in_from_another_site_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/login", data={"token": TOKEN}, headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_the_session_is_out_of_reach_of_scripts_and_other_sites(client: httpx.AsyncClient) -> None:
    cookie = (await client.post("/login", data={"token": TOKEN})).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/" in cookie
    assert TOKEN not in cookie
    safe = await client.post("https://localhost/login", data={"token": TOKEN})
    assert "Secure" in safe.headers["set-cookie"]


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "/\t/evil",
    ],
)
async def test_signing_in_leads_nowhere_else(client: httpx.AsyncClient, address: str) -> None:
    answer = await client.post("/login", data={"token": TOKEN, "next": address})
    assert answer.headers["location"] == "/"
    here = "/instance?saga=order&id=..%2Fa"
    assert (await client.post("/login", data={"token": TOKEN, "next": here})).headers["location"] == here


FORGED: list[Callable[[str], str]] = [
    lambda session: session[:-1] + ("0" if session[-1] != "0" else "1"),
    lambda session: "9" + session,
    lambda session: session.rpartition(".")[0],
    lambda session: "..",
    lambda session: "",
]


@pytest.mark.parametrize("forge", FORGED)
async def test_a_forged_session_is_none(operator: httpx.AsyncClient, forge: Callable[[str], str]) -> None:
    ((name, session),) = operator.cookies.items()
    assert "Sign out" in (await operator.get("/")).text
    operator.cookies.clear()
    page = await operator.get("/", headers={"cookie": f"{name}={forge(session)}"})
    assert "Sign in" in page.text
    assert "Sign out" not in page.text


async def test_a_session_ends_also_for_a_browser_that_keeps_it(
    operator: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((name, session),) = operator.cookies.items()
    operator.cookies.clear()
    kept = {"cookie": f"{name}={session}"}
    assert "Sign out" in (await operator.get("/", headers=kept)).text
    later = time.time() + 13 * 3600
    monkeypatch.setattr("sagalog.dashboard.access.time.time", lambda: later)
    assert "Sign out" not in (await operator.get("/", headers=kept)).text


async def test_signing_out_ends_the_session_in_the_browser(operator: httpx.AsyncClient) -> None:
    await operator.post("/logout", data={"form_token": await form_token(operator)})
    assert "Sign in" in (await operator.get("/")).text


@pytest.mark.parametrize("page", [*PAGES, "/login", "/nothing", "/static/live.js", "/static/../app.py"])
async def test_every_answer_keeps_the_browser_in_bounds(operator: httpx.AsyncClient, page: str) -> None:
    headers = (await operator.get(page)).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] in ("no-store", "no-cache")


@pytest.mark.parametrize("page", [*PAGES, "/login", "/nothing"])
async def test_no_page_needs_what_the_policy_forbids(operator: httpx.AsyncClient, page: str) -> None:
    text = (await operator.get(page)).text
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?! src=)", text)
    assert not re.search(r'(src|href|action)="(https?:|//)', text)


async def test_more_open_pages_than_it_can_keep_up_with_are_turned_away(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sagalog.dashboard.live.MAX_STREAMS", 0)
    answer = await client.get("/live")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")


def test_settings_that_would_open_a_door_are_refused() -> None:
    with pytest.raises(DefinitionError, match="at least 16 characters"):
        Access("short")
    with pytest.raises(DefinitionError, match="needs hosts=, the names that it may be reached by"):
        Access(TOKEN, open_reading=True)
    for wrong in ("secret", b"secret", None, 7, [7]):  # letter by letter, "secret" hides fields that nobody has
        with pytest.raises(DefinitionError, match="masks= must be a list"):
            dashboard_app("memory://", token=TOKEN, masks=wrong)
    with pytest.raises(DefinitionError, match="a mask must be"):
        dashboard_app("memory://", token=TOKEN, masks=["card..number"])


@pytest.mark.parametrize("token", [None, b"a token of the tests", 16, ["a token of the tests"]])
def test_a_token_that_is_no_text_is_refused_by_name(token: Any) -> None:
    with pytest.raises(DefinitionError, match="token"):
        dashboard_app(InMemoryJournal(), token=token)


def test_names_of_hosts_that_are_one_text_are_refused_by_name() -> None:
    with pytest.raises(DefinitionError, match="hosts"):
        dashboard_app(InMemoryJournal(), token=TOKEN, hosts="localhost")
