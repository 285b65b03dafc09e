"""How long `runner.find` takes among many live instances: by a rare value, by several fields, by a common one.

Each customer has ten instances. One asks after the other, each for the first ten that it finds: all of them, where the
value is rare. PostgreSQL searches a common value in another way than a rare one, and has to know which is which: it has
looked at its tables before (ANALYZE), as its autovacuum does within a minute of such a filling.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from sagalog import Journal, PersistentRepr, Saga, SagaInstance, SagaRunner, open_journal, starts
from sagalog.decision.ids import terms_of
from sagalog.decision.record import SagaRecord, decode_record, encode_record

from .live import template
from .report import Case, Column, Figures, percentile
from .servers import JOURNALS, server, version_of

COLUMNS: list[Column] = [
    ("journal", "journal", "s"),
    ("instances", "instances", ",d"),
    ("rare p50 ms", "rare_p50_ms", ",.2f"),
    ("p99", "rare_p99_ms", ",.2f"),
    ("two fields p50 ms", "both_p50_ms", ",.2f"),
    ("p99", "both_p99_ms", ",.2f"),
    ("common p50 ms", "common_p50_ms", ",.2f"),
    ("p99", "common_p99_ms", ",.2f"),
    ("filled/s", "filled_per_second", ",.0f"),
]
WHAT = ("rare", "both", "common")
_AT_ONCE = 2_000
_PAGE = 10  # of a common value, that are taken


@dataclass
class Opened:
    case: str


@dataclass
class Dossier:
    customer: str = ""
    open: bool = True


class CaseSaga(Saga[Dossier]):
    name = "case"
    index = ("customer", "open")

    @starts(Opened, key="case")
    def opened(self, state: Dossier, event: Opened) -> None:
        state.customer = "c-0"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--journal", choices=JOURNALS[:2], nargs="+", default=["sqlite", "postgres"])
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=500, help="that each is asked")


def cases(options: argparse.Namespace) -> list[Case]:
    return [{"journal": journal, "instances": options.instances, "times": options.times} for journal in options.journal]


def measure(case: Case) -> Figures:
    with tempfile.TemporaryDirectory(prefix="sagalog-bench-") as folder, server(case["journal"], Path(folder)) as url:
        return asyncio.run(_measure(url, case))


async def _measure(url: str, case: Case) -> Figures:
    like = await template(CaseSaga, Opened("A"), "A")
    record = decode_record(like.payload)
    figures: Figures = {"version": await version_of(url)}
    async with open_journal(url) as journal:
        await journal.open()
        begun = time.perf_counter()
        await _fill(journal, like, record, case["instances"])
        figures["filled_per_second"] = case["instances"] / (time.perf_counter() - begun)
        await _analyze(url)
        async with SagaRunner(journal, sagas=[CaseSaga]) as runner:
            for what in WHAT:
                found, seconds = await _ask(runner, what, case)
                figures[f"{what}_found"] = float(found)
                figures[f"{what}_p50_ms"] = percentile(sorted(seconds), 0.5) * 1000
                figures[f"{what}_p99_ms"] = percentile(sorted(seconds), 0.99) * 1000
    return figures


async def _fill(journal: Journal, like: PersistentRepr, record: SagaRecord, count: int) -> None:
    customers = max(1, count // 10)
    now = datetime.now(UTC)

    def one(n: int) -> PersistentRepr:
        index: dict[str, str | None] = {"customer": f"c-{n % customers}", "open": "true"}
        state = msgspec.Raw(msgspec.json.encode({"customer": index["customer"], "open": True}))
        payload = encode_record(msgspec.structs.replace(record, state=state, index=index, updated_at=now))
        name = f"saga::case::A-{n}"
        terms = terms_of("case", index)
        return PersistentRepr(name, 1, payload, like.manifest, like.writer_uuid, False, like.tags, None, 0, terms)

    for start in range(0, count, _AT_ONCE):
        answers = await journal.write_batch([one(n) for n in range(start, min(start + _AT_ONCE, count))])
        assert not any(answers)


async def _analyze(url: str) -> None:
    address, _, query = url.partition("?")
    if not address.startswith("postgresql:"):
        return
    import asyncpg

    connection = await asyncpg.connect(address)
    await connection.execute(f"ANALYZE {dict(parse_qsl(query))['schema']}.instance")
    await connection.close()


async def _ask(runner: SagaRunner, what: str, case: Case) -> tuple[int, list[float]]:
    chance = random.Random(7)
    customers = max(1, case["instances"] // 10)
    seconds: list[float] = []
    found = 0
    for _ in range(case["times"]):
        customer = f"c-{chance.randrange(customers)}"
        asked: dict[str, Any] = {}
        if what != "common":
            asked["customer"] = customer
        if what != "rare":
            asked["open"] = True
        begun = time.perf_counter()
        found = await _some(runner.find(CaseSaga, **asked))
        seconds.append(time.perf_counter() - begun)
    return found, seconds


async def _some(instances: AsyncIterator[SagaInstance[Dossier]]) -> int:
    found = 0
    async for instance in instances:
        assert instance.state.open
        found += 1
        if found == _PAGE:
            break
    return found
