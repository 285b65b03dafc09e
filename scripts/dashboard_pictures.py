"""Write the pictures of the dashboard in docs/dashboard/: each page in a real Chromium, light and dark, wide and narrow."""

from __future__ import annotations

import argparse
import asyncio
import shutil
from pathlib import Path

import httpx
import uvicorn
from dashboard_shop import OrderSaga, fill, go_on
from playwright.async_api import Browser, async_playwright

from sagalog import InMemoryJournal
from sagalog.dashboard import dashboard_app

TOKEN = "only-for-pictures"
ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PARKED = "/instance?saga=order&id=A-1125"
PICTURES = {  # name: page, width, height, colours
    "overview": ("/", 1280, 860, "light"),
    "overview-dark": ("/", 1280, 860, "dark"),
    "overview-phone": ("/", 360, 740, "dark"),
    "instances": ("/instances?status=parked", 1280, 520, "light"),
    "instance": (PARKED, 1280, 1000, "light"),
    "instance-phone": (PARKED, 360, 740, "light"),
    "steps": (f"{PARKED}#step-4", 1280, 760, "dark"),
    "saga": ("/saga?name=return", 1280, 860, "dark"),
    "repair": ("/repair?saga=order&id=A-1125&action=skip", 1280, 700, "light"),
}


async def main(folder: Path, only: list[str], whole: bool) -> None:
    journal = InMemoryJournal()
    await fill(journal)
    app = dashboard_app(journal, token=TOKEN, hosts=["127.0.0.1"], masks=["card.*"], sagas=[OrderSaga])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    if not only or {"overview", "overview-dark", "overview-phone", "saga"}.intersection(only):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            await client.post("/login", data={"token": TOKEN})
            while "Counted at" not in (await client.get("/")).text:
                await asyncio.sleep(0.1)
        await go_on(journal, 20)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        for name, picture in PICTURES.items():
            if not only or name in only:
                await _take(browser, f"http://127.0.0.1:{port}", folder / f"{name}.png", *picture, whole=whole)
        await browser.close()
    app.stopping()
    server.should_exit = True
    await serving


async def _take(
    browser: Browser, root: str, file: Path, page: str, width: int, height: int, colours: str, *, whole: bool
) -> None:
    context = await browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if colours == "dark" else "light",
        reduced_motion="reduce",
        device_scale_factor=1,
    )
    tab = await context.new_page()
    await tab.goto(f"{root}/login")
    await tab.get_by_label("Token").fill(TOKEN)
    await tab.get_by_role("button", name="Sign in").click()
    await tab.goto(root + page)
    await tab.wait_for_function("!document.querySelector('.notice .banner')")
    if not page.startswith("/repair"):
        await tab.get_by_role("button", name="Pause").wait_for()
    await tab.screenshot(path=file, full_page=whole)
    size = await tab.evaluate(
        "[document.documentElement.scrollWidth, innerWidth, document.documentElement.scrollHeight]"
    )
    print(f"{file.name:<24} {file.stat().st_size // 1024:>4} kB  {size}")
    await context.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="names of pictures; all if none is given")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "docs" / "dashboard")
    parser.add_argument("--whole", action="store_true", help="whole pages, for looking at")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(options.folder, options.only, options.whole))
