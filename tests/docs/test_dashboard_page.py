"""What the page about the dashboard shows works."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from click.testing import CliRunner

from sagalog.cli.group import sagalog

from .test_readme import ROOT, run

PAGE = (ROOT / "docs" / "operating" / "dashboard.md").read_text()
ASK = """
import asyncio, httpx

async def ask():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://anything") as browser:
        print((await browser.get("/sagas/")).headers["location"])
        await browser.post("/sagas/login", data={"token": "at least sixteen characters"})
        print((await browser.get("/sagas/")).status_code)
    async with lifespan(app):
        pass

asyncio.run(ask())
"""


def test_the_app_that_it_mounts_answers(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    (tmp_path / "app.py").write_text(code + ASK)
    done = run(tmp_path, sys.executable, "app.py")
    assert done.stdout == "/sagas/login?next=%2Fsagas%2F\n200\n", done.stderr


def test_the_options_that_it_names_are_there() -> None:
    shown = CliRunner().invoke(sagalog, ["dashboard", "--help"]).output
    named = set(re.findall(r"sagalog dashboard[^\n]*", PAGE))
    options = {option for line in named for option in re.findall(r" (--[a-z-]+)", line)}
    assert options == {"--journal", "--open", "--allowed-host", "--mask", "--runner"}
    assert all(option in shown for option in options)


def test_the_pictures_that_it_shows_are_there_and_small() -> None:
    pictures = [(ROOT / "docs" / "operating" / one).resolve() for one in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE)]
    assert len(pictures) == 5
    assert all(picture.stat().st_size < 150_000 for picture in pictures)
