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


# What Windows lacks, hidden before anything is imported: modules, functions of os, signals.
WITHOUT_POSIX = """
import asyncio, importlib, os, pkgutil, signal, sys

for name in ("fcntl", "grp", "pwd", "resource", "termios", "pty", "tty"):
    sys.modules[name] = None
for name in ("fork", "forkpty", "register_at_fork", "getuid", "geteuid", "killpg", "setsid", "mkfifo", "O_CLOEXEC"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT", "SIGCHLD", "SIGALRM", "setitimer", "alarm"):
    delattr(signal, name)
import django
from django.conf import settings

settings.configure(INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"])
django.setup()
import sagalog
from sagalog import MissingExtraError

for found in pkgutil.walk_packages(sagalog.__path__, "sagalog.", onerror=lambda name: None):
    if found.name == "sagalog.__main__":
        continue
    try:
        importlib.import_module(found.name)
    except MissingExtraError:
        pass
    except ImportError as error:
        if (error.name or "").partition(".")[0] in ("sagalog", "fcntl", "grp", "pwd", "resource", "termios", "pty", "tty"):
            raise
        print("left out", found.name, error.name)
"""


def test_every_module_can_be_imported_where_posix_is_missing() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_POSIX], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""
