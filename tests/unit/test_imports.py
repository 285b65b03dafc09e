"""What `import sagalog` brings in: no driver, no extra, before it is used."""

from __future__ import annotations

import subprocess
import sys

LATER = [
    "sqlite3", "asyncpg", "nats", "tenacity", "click", "rich", "starlette", "jinja2", "uvicorn", "opentelemetry",
    "prometheus_client", "pytest", "importlib.metadata", "django", "fastapi", "sqlalchemy", "psycopg", "httpx",
]  # fmt: skip


def modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_sagalog_imports_no_driver_and_no_extra() -> None:
    assert modules_after("import sagalog").isdisjoint(LATER)


def test_the_sqlite_journal_brings_its_driver_when_it_is_asked_for() -> None:
    assert "sqlite3" in modules_after("from sagalog import SqliteJournal")
