from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from sagalog import DefinitionError
from sagalog.journal.owner import Owner
from sagalog.journal.urls import ServerAddress, split_server_url


def test_a_url_is_taken_apart_and_decoded() -> None:
    url = split_server_url("nats", "us%40er:p%2F%3F%23%40%25@one:1,[::1]:2,three/path?a=b")
    assert url.addresses == (
        ServerAddress("one", 1, "us@er", "p/?#@%"),
        ServerAddress("::1", 2, None, None),
        ServerAddress("three", None, None, None),
    )
    assert (url.place, url.path, url.query) == ("one:1,[::1]:2,three", "/path", "a=b")


def test_each_of_several_servers_may_have_its_scheme_and_its_password() -> None:
    url = split_server_url("nats", "u:p@a,nats://v:q@b:2,tls://c")
    assert [(one.host, one.user, one.password) for one in url.addresses] == [
        ("a", "u", "p"),
        ("b", "v", "q"),
        ("c", None, None),
    ]


@pytest.mark.parametrize("mark", ["/", "?", "#", "@", "%", "/?#", "?a=", "://", ",", "12/", "12?x="])
def test_a_password_that_is_not_encoded_is_refused_and_not_shown(mark: str) -> None:
    for rest in (f"user:hunter2{mark}geheim@host/db", f"user:{mark}geheim@host:5432/db?schema=x"):
        try:
            shown = repr(split_server_url("nats", rest)) + split_server_url("nats", rest).place
        except DefinitionError as error:
            shown = str(error)
            assert error.__cause__ is None
        if mark != ",":  # which separates servers
            assert "hunter2" not in shown
            assert "geheim" not in shown


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1", "1.5", "²"])
def test_a_port_that_is_none_is_refused_and_not_shown(port: str) -> None:
    with pytest.raises(DefinitionError, match="the port"):
        split_server_url("nats", f"host:{port}/x")


def test_another_loop_and_another_process_are_told_at_once() -> None:
    async def made() -> Owner:
        owner = Owner()
        owner.check()
        return owner

    async def used(owner: Owner) -> None:
        owner.check()

    owner = asyncio.run(made())
    with pytest.raises(DefinitionError, match="another event loop"):
        asyncio.run(used(owner))
    with ThreadPoolExecutor(1) as thread, pytest.raises(DefinitionError, match="another event loop"):
        thread.submit(asyncio.run, used(owner)).result()
    owner._pid = os.getpid() + 1
    with pytest.raises(DefinitionError, match="forked"):
        owner.check()
