"""The dashboard in a real Chromium: it moves, it repairs, it can be read without scripts, by keyboard, and on a phone."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, expect

from sagalog import InMemoryJournal, SagaRunner

from ..orders import Cancelled, Noted, OrderSaga, Paid, Placed, World
from .conftest import EVIL, QUICK, board_of
from .serving import chromium, served, sign_in, tab

pytestmark = pytest.mark.filterwarnings("default::ResourceWarning")


@pytest.fixture
async def address(journal: InMemoryJournal) -> AsyncIterator[str]:
    async with served(board_of(journal)) as served_at:
        yield served_at


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


async def test_what_a_saga_does_is_seen_on_pages_that_are_open(
    journal: InMemoryJournal, address: str, browser: Browser
) -> None:
    _, page, complaints = await tab(browser)
    _, overview, more = await tab(browser)
    _, picture, others = await tab(browser)
    await page.goto(f"{address}/instance?saga=order&id=running")
    await overview.goto(address)
    await picture.goto(f"{address}/saga?name=order")
    for one in (page, overview, picture):
        await expect(one.get_by_text("This page is live.")).to_be_visible()
    card = overview.locator(".cards li").first
    await expect(card).to_contain_text("2 running")
    steps = page.get_by_role("region", name="Steps").get_by_role("heading", level=3)
    seen = await steps.count()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=World(), settings=QUICK) as runner:
        await runner.handle(Noted("running", "seen at once"), message_id="n1")
        await expect(page.get_by_role("region", name="State")).to_contain_text("seen at once")
        await expect(steps).not_to_have_count(seen)
        await expect(page.locator("#said")).to_contain_text("running")  # what a screen reader is told
        await runner.handle(Placed("another"), message_id="n2")
        await expect(card).to_contain_text("3 running")
        await runner.handle(Cancelled("running"), message_id="n3")
        await expect(page.locator(".standing")).to_contain_text("compensated")
        await expect(picture.get_by_role("link", name="compensated")).to_contain_text("1")
    assert complaints + more + others == []


async def test_a_parked_one_is_repaired_by_clicks_and_a_worker_goes_on_with_it(
    journal: InMemoryJournal, address: str, browser: Browser
) -> None:
    _, page, complaints = await tab(browser)
    await page.goto(address)
    await page.get_by_role("link", name="Need repair").click()
    await page.get_by_role("link", name="parked", exact=True).click()
    await page.get_by_role("link", name="Retry…").click()
    await page.get_by_label("Token").fill("a token of the tests")  # a change needs it, and then goes on where one was
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("listitem").filter(has_text="replays 2 held messages")).to_be_visible()
    await page.get_by_label("Why").fill("the bank is back")
    await page.get_by_role("button", name="Retry").click()
    await expect(page.get_by_text("Retry is recorded")).to_be_visible()
    await expect(page.locator(".standing")).to_contain_text("2 held messages to be replayed")
    assert "token" not in page.url.lower()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=World(), settings=QUICK) as runner:
        await expect(page.locator(".standing")).not_to_contain_text("held messages")
        await expect(page.get_by_role("region", name="State")).to_contain_text("recovered")
        await runner.settle()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("link", name="Sign in")).to_be_visible()
    assert complaints == []


async def test_all_of_it_can_be_done_with_the_keyboard(
    journal: InMemoryJournal, address: str, browser: Browser
) -> None:
    _, page, _ = await tab(browser)
    await sign_in(page, address)

    async def press_until(text: str) -> None:
        for _ in range(60):
            await page.keyboard.press("Tab")
            focused = page.locator(":focus")
            if await focused.count() and (await focused.inner_text()).partition("\n")[0] == text:
                outline = await focused.evaluate("one => getComputedStyle(one).outlineStyle")
                assert outline != "none", f"one does not see that {text!r} has the focus"
                return
        raise AssertionError(f"{text!r} cannot be reached by Tab")

    await page.keyboard.press("Tab")
    await expect(page.locator(":focus")).to_have_text("Skip to the content")
    await page.keyboard.press("Enter")
    await press_until("Need repair")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/instances**")
    await press_until("parked")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/instance?**")
    await press_until("Skip…")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/repair?**")
    await press_until("Skip")
    while await page.locator(":focus").evaluate("one => one.tagName") != "BUTTON":
        await press_until("Skip")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("Skip is recorded")).to_be_visible()


async def test_what_one_is_at_stays_when_the_page_moves(
    journal: InMemoryJournal, address: str, browser: Browser
) -> None:
    _, page, _ = await tab(browser)
    await page.goto(f"{address}/instance?saga=order&id=parked")
    await expect(page.get_by_text("This page is live.")).to_be_visible()
    held = page.locator("summary").filter(has_text="m4")
    await held.focus()
    await page.keyboard.press("Enter")
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=World(), settings=QUICK) as runner:
        await runner.handle(Noted("parked", "even later"), message_id="m77")
        await expect(page.locator("summary").filter(has_text="m77")).to_be_visible()
        await expect(held).to_be_focused()
        assert await held.evaluate("one => one.parentElement.open")
        await page.get_by_role("button", name="Pause").click()
        await runner.handle(Noted("parked", "unseen"), message_id="m78")
        await runner.handle(Paid("running"), message_id="m79")
    await page.get_by_role("button", name="Go on").click()
    await expect(page.locator("summary").filter(has_text="m78")).to_be_visible()


async def test_without_scripts_everything_can_be_read(address: str, browser: Browser) -> None:
    _, page, _ = await tab(browser, java_script_enabled=False)
    await page.goto(address)
    await expect(page.get_by_role("link", name="Need repair")).to_contain_text("2")
    await page.get_by_role("link", name="Instances").click()
    await page.get_by_label("Status").select_option("parked")
    await page.get_by_role("button", name="Show").click()
    await page.get_by_role("link", name="parked", exact=True).click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("parked")
    await page.locator("summary").filter(has_text="m4").click()
    await expect(page.get_by_text('"error": "boom"')).to_be_visible()
    await page.get_by_role("link", name="order", exact=True).first.click()
    await expect(page.get_by_role("img", name="").or_(page.locator("svg.process")).first).to_be_visible()


@pytest.mark.parametrize("width", [360, 768, 1920])
async def test_no_page_is_wider_than_the_screen_and_nothing_in_it_acts(
    address: str, browser: Browser, width: int
) -> None:
    _, page, complaints = await tab(browser, viewport={"width": width, "height": 700})
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    await sign_in(page, address)
    for at in ("/", "/instances?status=all", "/saga?name=order", "/login", "/nothing"):
        await page.goto(address + at)
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), at
    for name in ("parked", EVIL):
        for at in ("/instance", "/repair"):
            await page.evaluate("where => location = where", f"{address}{at}?{_query(name)}&action=skip")
            await page.wait_for_url(f"**{at}?**")
            await expect(page.get_by_role("heading", level=1)).to_be_visible()
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (at, name)
    assert dialogs == []
    assert [one for one in complaints if "404" not in one and "409" not in one] == []


def _query(name: str) -> str:
    from urllib.parse import quote

    return f"saga=order&id={quote(name, safe='')}"
