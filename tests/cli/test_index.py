"""`list --where`, `reindex` and what `check` says of an index, on the journal of a program that has got one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Sagalog

SHOP = """
import asyncio
from dataclasses import dataclass
from sagalog import Complete, Saga, SagaRunner, on, starts

@dataclass
class Opened:
    case: str
    customer: str

@dataclass
class Shut:
    case: str

@dataclass
class Case:
    customer: str | None = None
    open: bool = True

class CaseSaga(Saga[Case]):
    name = "case"
    index = INDEX

    @starts(Opened, key="case")
    def opened(self, case, event):
        case.customer = event.customer or None

    @on(Shut, key="case")
    def shut(self, case, event):
        return Complete()

runner = SagaRunner("sqlite:///cases.db", sagas=[CaseSaga])

async def main(*cases):
    async with runner:
        for case, customer in cases:
            await runner.handle(Opened(case, customer))
        await runner.handle(Shut("shut"))
"""
URL = ("--journal", "sqlite:///cases.db")


@pytest.fixture
def cases(sagalog: Sagalog, tmp_path: Path) -> Path:
    """Cases of before there was an index, and some of since then; `old` and `new` are the programs."""
    import subprocess
    import sys

    for name, index, cases in (
        ("old", "()", "('A', 'c-7'), ('B', 'c-8')"),
        ("new", '("customer", "open")', "('C', 'c-7'), ('D', ''), ('shut', 'c-7')"),
    ):
        (tmp_path / f"{name}.py").write_text(SHOP.replace("INDEX", index))
        code = f"import asyncio, {name}; asyncio.run({name}.main({cases}))"
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
    return tmp_path


def ids(output: str) -> list[str]:
    return sorted(json.loads(line)["id"] for line in output.splitlines())


def test_list_finds_by_the_index_and_reindex_puts_the_others_in(sagalog: Sagalog, cases: Path) -> None:
    def listed(*where: str) -> list[str]:
        return ids(sagalog("list", "--json", *URL, *where).stdout)

    assert listed("--where", "customer=c-7") == ["C"]
    assert listed("--where", "customer=c-7", "--saga", "case", "--where", "open=true") == ["C"]
    assert listed("--where", "customer") == ["D"]
    assert listed("--where", "customer=", "--saga", "case") == listed("--where", "open=false") == []
    assert listed("--where", "customer=c-7", "--all") == ["C", "shut"]
    checked = sagalog("check", "new:runner", *URL)
    assert checked.returncode == 0
    assert "case: 2 are not in its index as it is now (customer, open)" in checked.stdout
    assert json.loads(sagalog("check", "new:runner", "--json", *URL).stdout)["not_indexed"] == {"case": 2}
    dry = sagalog("reindex", "new:runner", "--dry-run", *URL).stdout
    assert dry == "4 live instances: 2 would be put into the index\n"
    assert listed("--where", "customer=c-7") == ["C"]
    assert sagalog("reindex", "new:runner", *URL).stdout == "4 live instances: 2 were put into the index\n"
    assert listed("--where", "customer=c-7") == ["A", "C"]
    again = json.loads(sagalog("reindex", "new:runner", "--saga", "case", "--json", *URL).stdout)
    assert again == {"as_it_was": 4, "indexed": 0, "gone": 0, "unreadable": 0, "failed": 0, "dry_run": False}
    assert "warning" not in sagalog("check", "new:runner", *URL).stdout
    assert "was put into the index" in sagalog("history", "A", *URL).stdout


def test_a_repair_may_be_selected_by_the_index(sagalog: Sagalog, cases: Path) -> None:
    done = sagalog("cancel", "--where", "customer=c-7", "--yes", *URL)
    assert done.returncode == 0, done.stderr
    assert ids(sagalog("list", "--json", *URL).stdout) == ["A", "B", "D"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list", "--where", "=c"), "is not NAME=VALUE"),
        (("list", "--where", "a=1", "--where", "a=2"), "a is given twice"),
        (("reindex", "new:runner", "--saga", "none"), "this runner has no saga 'none'"),
    ],
)
def test_what_cannot_be_is_said(sagalog: Sagalog, cases: Path, arguments: tuple[str, ...], said: str) -> None:
    done = sagalog(*arguments, *URL)
    assert done.returncode == 2
    assert said in done.stderr
