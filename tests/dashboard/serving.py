"""A dashboard that is really served, and a real browser to look at it with."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from sagalog.dashboard import Dashboard

from .conftest import TOKEN

ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
expect.set_options(timeout=40_000)


@asynccontextmanager
async def served(app: Dashboard) -> AsyncIterator[str]:
    """The address at which uvicorn serves the app."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=5))
    serving = asyncio.create_task(server._serve())
    async with asyncio.timeout(40):
        while not server.started:
            await asyncio.sleep(0.01)
    try:  # a test may end by skipping, where there is no Chromium
        yield f"http://localhost:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        app.stopping()
        server.should_exit = True
        await serving


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A Chromium of the machine; skips where there is none."""
    found = os.environ.get("SAGALOG_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("there is no chromium on this machine (apt-get install chromium)")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=Path(found), args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


async def tab(browser: Browser, **settings: Any) -> tuple[BrowserContext, Page, list[str]]:
    """A fresh window, and what its console complains about (a breach of the content security policy, for instance)."""
    context = await browser.new_context(**settings)
    context.set_default_timeout(40_000)
    page = await context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return context, page, complaints


async def sign_in(page: Page, address: str) -> None:
    await page.goto(f"{address}/login")
    await page.get_by_label("Token").fill(TOKEN)
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_role("button", name="Sign out").wait_for()
