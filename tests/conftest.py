"""Servers for the tests: one of each for the whole run, real ones, from wheels or from where the environment says."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import hypothesis.core
import nats
import nats.js.errors
import pytest
from hypothesis import settings

from sagalog import Saga

from .seeds import SEED
from .servers.nats import Nats
from .servers.postgres import Postgres
from .servers.proxy import Proxy
from .servers.watchdog import Watchdog

settings.register_profile(
    "suite", deadline=None
)  # a busy machine is no fault of what is tested; tests have time limits
settings.load_profile("suite")
_schemas = count(1)
_watchdog = pytest.StashKey[Watchdog]()
_LONG_SECONDS: dict[
    str, float
] = {  # for folders whose tests are long by nature, on a busy machine; others say it by their own mark
    "benchmarks": 300,
    "crash": 600 * max(1.0, float(os.environ.get("SAGALOG_CRASH_KILLS", "1"))),
    "testing": 600,
    "types": 300,
}
GRACE_SECONDS = 60.0  # from the time limit of a test to the end of the whole run, if the limit could not end the test


if (kind := os.environ.get("SAGALOG_TEST_LOOP")) in ("uvloop", "eager"):

    def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
        """Run what is asynchronous on another loop: `SAGALOG_TEST_LOOP=uvloop make test ARGS=tests/runner`."""
        if kind == "uvloop":
            import uvloop

            return {"uvloop": uvloop.new_event_loop}

        def eager() -> asyncio.AbstractEventLoop:
            loop = asyncio.new_event_loop()
            loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]  # since Python 3.12
            return loop

        return {"eager": eager}


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--hypothesis-seed") is None:
        hypothesis.core.global_force_seed = SEED
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # its standard error is that of the terminal
        config.stash[_watchdog] = Watchdog()


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_watchdog].stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        seconds = _LONG_SECONDS.get(item.path.parent.name)
        if seconds is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(seconds))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tell the watchdog how long this test may take, its fixtures included."""
    mark = item.get_closest_marker("timeout")
    given = item.config.getoption("timeout") or item.config.getini("timeout")
    seconds = float((mark.args[0] if mark is not None and mark.args else given) or 0)
    if item.config.getoption("usepdb"):
        seconds = 0.0
    item.config.stash[_watchdog].expect(item.nodeid, seconds and seconds + GRACE_SECONDS)


def _saga_classes(above: type = Saga) -> Iterator[type]:
    for cls in above.__subclasses__():
        yield cls
        yield from _saga_classes(cls)


@pytest.fixture(autouse=True)
def _saga_classes_as_they_were() -> Iterator[None]:
    """Take back what a test sets on a saga class, so that none depends on which ran before it in its process."""
    before = {
        cls: {name: value for name, value in vars(cls).items() if not name.startswith("_")} for cls in _saga_classes()
    }
    yield
    for cls, attributes in before.items():
        for name, value in attributes.items():
            if cls.__dict__.get(name) is not value:
                setattr(cls, name, value)


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL that stays up: SAGALOG_TEST_POSTGRES, or one started here."""
    given = os.environ.get("SAGALOG_TEST_POSTGRES")
    if given:
        yield given
        return
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    server.start()
    server.wait_until_ready()
    yield server.url
    server.stop()


@pytest.fixture
def postgres_schema(postgres_url: str) -> str:
    """The URL of an empty schema in it, to be migrated at open."""
    return f"{postgres_url}?schema=t{os.getpid()}_{next(_schemas)}&migrate=true"


@pytest.fixture
def postgres_server(tmp_path: Path) -> Iterator[Postgres]:
    """A PostgreSQL of the test's own, to be killed."""
    server = Postgres(tmp_path / "postgres")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def postgres_proxy(postgres_server: Postgres) -> Iterator[Proxy]:
    """A way to it that loses requests and answers."""
    proxy = Proxy(postgres_server.port)
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a three-node cluster that stays up: SAGALOG_TEST_NATS, or one started here."""
    given = os.environ.get("SAGALOG_TEST_NATS")
    if given:
        yield given
        return
    cluster = Nats(tmp_path_factory.mktemp("nats"))
    cluster.start()
    yield cluster.url
    cluster.stop()


@pytest.fixture
def nats_stream(nats_url: str) -> Iterator[str]:
    """The URL of a stream of three replicas that is not there yet, to be made at open; gone afterwards."""
    stream = f"t{os.getpid()}_{next(_schemas)}"
    yield f"{nats_url}?stream={stream}&replicas=3&migrate=true"

    async def drop() -> None:
        client = await nats.connect(nats_url.split(","))
        try:
            await client.jetstream().delete_stream(stream)
        except nats.js.errors.NotFoundError:
            pass
        await client.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, drop()).result()
