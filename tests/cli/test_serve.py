"""`sagalog serve`, and the client in `curl` that the page about it shows."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from .conftest import ROOT, Sagalog

PAGE = (ROOT / "docs" / "serving.md").read_text()
(SHOP,) = re.findall(r"```python\n(from dataclasses.*?)```", PAGE, re.S)
CLIENT, BATCH = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
TOLD, TOLD_OF_BATCH = re.findall(r"```text\n(.*?)```", PAGE, re.S)


@contextmanager
def serving(folder: Path, *arguments: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    (folder / "shop.py").write_text(SHOP)
    process = subprocess.Popen(
        [sys.executable, "-m", "sagalog", "serve", "shop:runner", "--port", "0", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("serving at "), line + process.stderr.read()
        yield line.split()[-1].rstrip("/"), process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def test_the_client_on_the_page_says_what_stands_behind_it(sagalog: Sagalog, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    nameless = sagalog("serve", "--new-token", "")
    assert (nameless.returncode, nameless.stdout) == (2, ""), "what it prints is appended to a file"
    made = sagalog("serve", "--new-token", "billing")
    (tmp_path / "tokens.toml").write_text(made.stdout)
    token = made.stderr.split()[-1]
    with serving(tmp_path, "--tokens", "tokens.toml", "--work") as (address, process):
        for typed, told in ((CLIENT, TOLD), (BATCH, TOLD_OF_BATCH)):
            done = subprocess.run(
                ["bash", "-c", typed],
                env={**os.environ, "URL": address, "TOKEN": token},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.stdout == told, done.stderr
        process.send_signal(signal.SIGTERM)
        assert "stopped serving" in process.communicate()[1]
        assert process.returncode == 0


def test_a_stop_ends_open_streams(tmp_path: Path) -> None:
    with serving(tmp_path, SAGALOG_TOKEN="sixteen letters and more") as (address, process):
        headers = {"authorization": "Bearer sixteen letters and more"}
        with httpx.stream("GET", f"{address}/ends", headers=headers, timeout=20) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "retry: 2000"
            process.send_signal(signal.SIGTERM)
            for _ in lines:
                pass
        process.communicate(timeout=40)
        assert process.returncode == 0


def test_a_server_that_would_let_in_everybody_does_not_start(sagalog: Sagalog, tmp_path: Path) -> None:
    (tmp_path / "tokens.toml").write_text("[[token]]\nname = 'a'\nsha256 = 'x'\n")
    for arguments, environment, says in (
        ((), {}, "pass tokens with"),
        ((), {"SAGALOG_TOKEN": "short"}, "at least 16"),
        (("--tokens", "tokens.toml"), {}, "64 lower-case hexadecimal"),
    ):
        done = sagalog("serve", "shop:runner", *arguments, **environment)
        assert done.returncode == 2
        assert says in " ".join(done.stderr.split())
