"""`sagalog dead-letters`: what nobody could take is looked at, mended and put back from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from sagalog.cli.dead_letters import dead_letters_

from ..servers.nats import Nats
from ..servers.processes import eventually
from .placed import Place, counts, logged, running
from .shop import event

ROOT = Path(__file__).parents[2]
Sagalog = Callable[..., subprocess.CompletedProcess[str]]
MODULE = """
from sagalog import SagaRunner
from sagalog.brokers.nats import NatsSource
from tests.brokers.shop import Counted

one = NatsSource({url!r}, stream={stream!r}, durable="workers")
runner = SagaRunner("memory://", sagas=[Counted], sources=[one])
several = SagaRunner("memory://", sagas=[Counted], sources=[one, NatsSource({url!r}, stream={stream!r}, durable="w2")])
none = SagaRunner("memory://", sagas=[Counted])
"""


@pytest.fixture
async def place(one_nats: Nats) -> AsyncIterator[Place]:
    place = Place(one_nats)
    yield place
    await place.into.close()


@pytest.fixture
def sagalog(place: Place, tmp_path: Path) -> Sagalog:
    (tmp_path / "shop.py").write_text(MODULE.format(url=place.url, stream=place.inside))

    def run(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sagalog", "dead-letters", *arguments],
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    return run


async def test_a_dead_letter_is_mended_and_put_back_under_its_id(place: Place, sagalog: Sagalog) -> None:
    await place.into.send(event("a", 1, data=b'{"order": "a", "number": "one"}'))
    async with running(place) as runner:
        await eventually(lambda: counts(runner).dead_letters == 1)
        await place.into.send(event("a", 2, data=b"\x1b[31m"))  # only now: they would be put aside beside each other
        await eventually(lambda: counts(runner).dead_letters == 2)
        listed = sagalog("shop:runner")
        assert listed.returncode == 0, listed.stderr
        first, _ = listed.stdout.splitlines()
        assert first.startswith("1  ")
        assert "sequence 1" in first
        assert "stored JSON is not a valid Added: Expected `int`, got `str` - at `$.number`" in first
        shown = sagalog("shop:runner", "1")
        assert shown.stdout == '{"order": "a", "number": "one"}'
        assert "ce-type: Added" in shown.stderr
        (as_json,) = [json.loads(line) for line in sagalog("shop:runner", "2", "--json").stdout.splitlines()]
        assert as_json["headers"]["ce-id"] == "a/2"
        back = sagalog("shop:runner", "1", "--put-back", "--body", "-", stdin='{"order": "a", "number": 1}')
        assert (back.returncode, back.stdout) == (0, "1: put back\n"), back.stderr
        await logged(runner, "a", [1])
        assert sagalog("shop:runner", "--all", "--drop").stdout == "2: dropped\n"
        assert "has no dead letters" in sagalog("shop:runner").stderr
        assert counts(runner).dead_letters == 2


def test_mistakes_on_the_command_line_are_told(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mistaken.py").write_text(MODULE.format(url=place.url, stream=place.inside))
    monkeypatch.syspath_prepend(tmp_path)
    for arguments, said in (
        (["mistaken:none"], "reads no source"),
        (["mistaken:several"], "which source?"),
        (["mistaken:several", "--source", "x"], "no source 'x'"),
        (["mistaken:runner", "77"], "no dead letter 77"),
        (["mistaken:runner", "--drop"], "which ones?"),
        (["mistaken:runner", "1", "--all"], "not both"),
        (["mistaken:runner", "1", "--drop", "--put-back"], "not both"),
        (["mistaken:runner", "1", "--body", "x"], "goes with --put-back"),
        (["mistaken:runner", "1", "--header", "x=1"], "goes with --put-back"),
        (["mistaken:runner", "1", "--put-back", "--header", "x"], "takes NAME=VALUE"),
    ):
        done = CliRunner().invoke(dead_letters_, arguments)
        assert done.exit_code == (1 if said == "no dead letter 77" else 2), done.output
        assert said in done.output
