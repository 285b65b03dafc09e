"""`sagalog dashboard`: what it serves, what it refuses, and how it stops."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from .conftest import ROOT, Sagalog

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(ROOT)])}
TOKEN = "a token of the tests"


@contextmanager
def dashboard(
    folder: Path, *arguments: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    command = [
        sys.executable,
        "-m",
        "sagalog",
        "dashboard",
        "--journal",
        "sqlite:///orders.db",
        "--port",
        "0",
        *arguments,
    ]
    with subprocess.Popen(
        command, cwd=folder, env={**ENVIRONMENT, **environment}, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            said = [process.stderr.readline()]
            address = re.search(r"http://\S+", said[0])
            assert address is not None, said + process.stderr.readlines()
            yield process, address[0], said
        finally:
            if process.poll() is None:
                process.kill()


def test_on_this_machine_a_token_is_made_and_printed_and_reading_needs_it(filled: Path) -> None:
    with dashboard(filled.parent) as (process, address, _):
        assert process.stderr is not None
        token = process.stderr.readline().rpartition(" ")[2].strip()
        assert len(token) >= 32
        assert httpx.get(f"{address}instances").status_code == 303
        assert httpx.post(f"{address}repair", data={"x": "y"}).status_code == 403
        signed_in = httpx.post(f"{address}login", data={"token": token})
        assert signed_in.status_code == 303
        assert httpx.get(address, headers={"host": "evil.example"}).status_code == 421


def test_reading_is_open_where_that_is_asked_for_but_not_behind_a_proxy_that_hides(filled: Path) -> None:
    with dashboard(filled.parent, "--open-reading") as (_, address, _said):
        assert httpx.get(f"{address}instances").status_code == 200
        host, port = address.removeprefix("http://").rstrip("/").split(":")
        with socket.create_connection((host, int(port))) as nginx:  # as nginx asks, unless told otherwise
            nginx.sendall(f"GET / HTTP/1.0\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            assert b" 303 " in nginx.recv(100)


@pytest.mark.parametrize("asked", ["", "sagas/"])
def test_below_the_path_of_a_proxy_all_links_hold_it(filled: Path, asked: str) -> None:
    with dashboard(filled.parent, "--open-reading", "--root-path", "/sagas") as (_, address, _said):
        page = httpx.get(f"{address}{asked}instances?status=all")
        assert page.status_code == 200
        links = re.findall(r'(?:href|src|action|data-stream)="([^"#]+)"', page.text)
        assert links
        assert all(link.startswith("/sagas/") and not link.startswith("/sagas/sagas") for link in links), links
        assert httpx.get(f"{address}{asked}static/live.js").status_code == 200


@pytest.mark.parametrize(
    "half", [b"", b"GET / HTTP/1.1\r\n", b"POST /login HTTP/1.1\r\nContent-Length: 9\r\nHost: localhost\r\n\r\n"]
)
def test_half_sent_requests_do_not_keep_others_out(filled: Path, half: bytes) -> None:
    with dashboard(filled.parent) as (_, address, _said), ExitStack() as silent:
        host, port = address.removeprefix("http://").rstrip("/").split(":")
        for _number in range(300):
            one = silent.enter_context(socket.create_connection((host, int(port))))
            one.sendall(half)
        assert httpx.get(f"{address}login", timeout=40).status_code == 200
        ended = 0
        for one in [silent.enter_context(socket.create_connection((host, int(port))))]:
            one.sendall(half)
            one.settimeout(20)
            ended += one.recv(1) in (b"", b"H")
        assert ended == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_at_once_also_while_pages_are_open(filled: Path, number: signal.Signals) -> None:
    with dashboard(filled.parent, "--open-reading") as (process, address, _):
        with httpx.stream("GET", f"{address}live", timeout=20) as stream:
            lines = stream.iter_lines()
            assert next(line for line in lines if line.startswith("event: "))
            ended = threading.Event()
            threading.Thread(target=lambda: (list(lines), ended.set()), daemon=True).start()
            process.send_signal(number)
            assert process.wait(20) == 0
            assert ended.wait(20)  # told that it ends, not cut off
        assert process.stderr is not None
        assert process.stderr.read().endswith("dashboard stopped\n")


def test_with_a_token_given_reading_is_closed_and_the_token_is_not_printed(filled: Path) -> None:
    with dashboard(filled.parent, SAGALOG_DASHBOARD_TOKEN=TOKEN) as (process, address, said):
        assert httpx.get(address).status_code == 303
        assert httpx.get(f"{address}live").status_code == 401
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        assert process.stderr is not None
        assert TOKEN not in "".join([*said, process.stderr.read()])


def test_fields_are_masked_and_names_of_a_proxy_allowed(filled: Path) -> None:
    arguments = ("--mask", "total", "--mask", "order.*", "--allowed-host", "sagas.example")
    with dashboard(filled.parent, *arguments) as (process, address, _):
        assert process.stderr is not None
        token = process.stderr.readline().rpartition(" ")[2].strip()
        with httpx.Client(base_url=address, headers={"host": "sagas.example"}) as browser:
            where = {"saga": "order", "id": "running"}
            assert (
                browser.get("instance/payload", params=where).status_code == 303
            )  # a proxy: nobody is on this machine
            signed_in = browser.post("login", data={"token": token}).headers["set-cookie"].partition(";")[0]
            page = browser.get("instance/payload", params=where, headers={"cookie": signed_in})
        assert '"total": "••••"' in page.text


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--host", "0.0.0.0"), 2, "can be reached by others: set a token with"),
        (("--root-path", "sagas"), 2, "must begin with a slash"),
        (("--open-reading", "--allowed-host", "x.example"), 2, "for this machine only"),
        (("--token", "short"), 2, "at least 16 characters"),
        (("--mask", "a..b"), 2, "a mask must be a field's name or a path"),
        (("--journal", "sqlite:///nothing.db"), 1, "does not exist, and was not created."),
        (("--journal", "memory://"), 2, "belongs to one process"),
        (("--journal", "odd://x"), 1, "no journal for odd:// URLs"),
        (("--host", "203.0.113.7", "--token", TOKEN), 1, "cannot be listened on:"),
    ],
)
def test_what_cannot_be_served_is_said_and_nothing_listens(
    sagalog: Sagalog, filled: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = sagalog("dashboard", "--journal", "sqlite:///orders.db", "--port", "0", *arguments)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert not (filled.parent / "nothing.db").exists()


def test_without_its_extra_it_says_what_to_install(sagalog: Sagalog, filled: Path, tmp_path: Path) -> None:
    missing = tmp_path / "without"
    missing.mkdir()
    (missing / "jinja2.py").write_text("raise ModuleNotFoundError('no', name='jinja2')")
    done = sagalog(
        "dashboard",
        "--journal",
        "sqlite:///orders.db",
        PYTHONPATH=os.pathsep.join([str(missing), ENVIRONMENT["PYTHONPATH"]]),
    )
    assert done.returncode == 1
    assert "needs the package jinja2: pip install 'sagalog[dashboard]'" in done.stderr


def test_with_a_runner_an_event_is_sent_from_a_form(filled: Path) -> None:
    (filled.parent / "form.py").write_text(
        "from sagalog import SagaRunner\nfrom tests.orders import OrderSaga\n"
        "runner = SagaRunner('memory://', sagas=[OrderSaga], dispatch=lambda command: None)\n"
    )
    arguments = ("--runner", "form.py:runner")
    with (
        dashboard(filled.parent, *arguments, SAGALOG_DASHBOARD_TOKEN=TOKEN) as (_, address, _said),
        httpx.Client(base_url=address, timeout=60) as browser,
    ):
        browser.post("login", data={"token": TOKEN})
        form = dict(re.findall(r'name="(form_token|message_id)" value="([^"]+)"', browser.get("send").text))
        answer = browser.post("send", data={**form, "type": "Placed", "json": '{"order_id": "by hand"}'})
        assert answer.status_code == 200
        assert 'id=by%20hand">by hand</a>' in answer.text
        assert "by hand" in browser.get("instances?id=by").text
