"""A real Django project: views in `transaction.atomic()`, a worker beside them, checks, and the dashboard."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from sagalog import open_journal

from .project import write_project

ROOT = Path(__file__).parents[2]


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}:{folder}",
    }


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


async def make_schema(journal: str, name: str) -> None:
    async with open_journal(journal):  # which waits for the server to start
        connection = await asyncpg.connect(journal.partition("?")[0])
        await connection.execute(f"CREATE SCHEMA {name}")
        await connection.close()


SHOP = """
import django
django.setup()
from django.core.management import call_command
call_command("makemigrations", "shop", verbosity=0)
call_command("migrate", verbosity=0)
import re
from datetime import timedelta
from urllib.parse import urlencode
from django.contrib.auth.models import User
from django.test import Client
from sagalog import NoInstanceError
from sagalog.django import sagas
from shop.models import Order
from shop.sagas import ShopSaga

client = Client(raise_request_exception=False)
assert client.post("/orders/a?fail=1").status_code == 500
assert Order.objects.count() == 0
try:
    sagas().state(ShopSaga, "a")
except NoInstanceError:
    print("rolled back together")
print("placed", client.post("/orders/a").json())
print("again", client.post("/orders/a").json(), Order.objects.filter(name="a").count())
print("ended", sagas().outcome(ShopSaga, "a", timeout=timedelta(seconds=60)).status.value)  # by the worker
print("shipped", Order.objects.filter(name="a").order_by("id").first().shipped)  # perhaps before the second row was there
"""

DASHBOARD = """
User.objects.create_superuser("ann", password="x")
staff = User.objects.create_user("bob", password="x", is_staff=True)
browser = Client()
asked = browser.get("/admin/sagas/")
print(asked.status_code, asked["location"])
browser.login(username="ann", password="x")
page = browser.get("/admin/sagas/instances", {"all": "1"})
print(page.status_code, "shop" in page.content.decode(), page["content-security-policy"][:18])
instance = browser.get("/admin/sagas/instance", {"saga": "shop", "id": "a"}).content.decode()
print("4111-1111-1111" in instance, "/admin/sagas/" in instance)
print(browser.get("/admin/sagas/live").status_code, browser.get("/admin/sagas/static/dashboard.css").status_code)
asked = browser.get("/admin/sagas/repair", {"saga": "shop", "id": "a", "action": "cancel"})
print(asked.status_code)
form = "saga=shop&id=a&action=cancel"
forged = browser.post("/admin/sagas/repair", form, content_type="application/x-www-form-urlencoded")
print(forged.status_code)
form = browser.get("/admin/sagas/send").content.decode()
fields = dict(re.findall(r'name="(form_token|message_id)" value="([^"]*)"', form.partition("<main")[2]))
fields |= {"type": "Placed", "json": '{"order_id": "by hand"}', "by": "somebody else"}
encoded = {"content_type": "application/x-www-form-urlencoded"}
sent = browser.post("/admin/sagas/send", urlencode(fields), **encoded)
print(sent.status_code, sagas().outcome(ShopSaga, "by hand", timeout=timedelta(seconds=60)).status.value)
shown = browser.get("/admin/sagas/instance", {"saga": "shop", "id": "by hand"}).content.decode()
print("sent by ann" in shown, "somebody else" in shown)
browser.login(username="bob", password="x")
print(browser.post("/admin/sagas/send", urlencode(fields), **encoded).status_code)
print(browser.get("/admin/sagas/").status_code, browser.post("/admin/sagas/repair", {}).status_code)
"""


@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
def test_a_shop_in_django_from_the_first_migration_to_the_worker(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "postgres":
        journal = request.getfixturevalue("postgres_schema")
        parts = urlsplit(journal)
        schema = parts.query.partition("=")[2].partition("&")[0]
        database = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": parts.path[1:],
            "USER": parts.username or "",
            "PASSWORD": parts.password or "",
            "HOST": parts.hostname or "",
            "PORT": str(parts.port or ""),
        }
        database["OPTIONS"] = {"options": f"-c search_path={schema}_shop"}  # type: ignore[assignment]
        asyncio.run(make_schema(journal, f"{schema}_shop"))
    else:
        journal = f"sqlite:///{tmp_path}/shop.db?beside=true"
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{tmp_path}/shop.db"}
    write_project(tmp_path, database, journal)
    checked = run(tmp_path, "manage.py", "check")
    assert "no issues" in checked.stdout, checked.stderr
    prepared = run(tmp_path, "-c", SHOP.partition("import re")[0])
    assert prepared.returncode == 0, prepared.stderr
    worker = subprocess.Popen(
        [sys.executable, "manage.py", "sagalog_worker"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert worker.stderr is not None
        assert "runs: shop" in worker.stderr.readline()
        done = run(tmp_path, "-c", SHOP + (DASHBOARD if kind == "postgres" else ""))
        assert done.returncode == 0, done.stderr
        said = done.stdout.splitlines()
        assert said[:5] == [
            "rolled back together",
            "placed {'duplicate': False}",
            "again {'duplicate': True} 2",
            "ended completed",
            "shipped True",
        ]
        if kind == "postgres":
            assert said[5:] == [
                "302 /admin/login/?next=/admin/sagas/",
                "200 True default-src 'none'",
                "False True",
                "204 200",
                "409",  # it has ended; who has no session is sent to sign in instead
                "403",
                "200 completed",
                "True False",
                "403",
                "200 403",
            ]
        worker.send_signal(signal.SIGTERM)
        assert ("2" if kind == "postgres" else "1") + " commands" in worker.communicate()[1]
        assert worker.returncode == 0
    finally:
        if worker.returncode is None:
            worker.kill()
            worker.communicate()


MIGRATED = """
import django
django.setup()
from django.core.management import call_command
call_command("makemigrations", "shop", verbosity=0)
call_command("migrate", verbosity=0)
"""


def test_the_first_request_of_all_may_be_within_a_transaction(tmp_path: Path) -> None:
    """The view inserts a row before it sends the event, so the file's lock is taken: `migrate` has made the tables."""
    journal = f"sqlite:///{tmp_path}/shop.db?beside=true"
    write_project(tmp_path, {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.db"}, journal)
    code = (
        MIGRATED
        + """
call_command("migrate", verbosity=0)
from django.db import connection
from django.test import Client
tables = set(connection.introspection.table_names())
connection.close()
print({"instance", "record"} <= tables, Client().post("/orders/a").json())
"""
    )
    done = run(tmp_path, "-c", code)
    assert (done.returncode, done.stdout) == (0, "True {'duplicate': False}\n"), done.stderr


def test_a_file_that_is_not_the_journals_gets_no_tables_of_it(tmp_path: Path) -> None:
    journal = f"sqlite:///{tmp_path}/sagas.db"
    write_project(tmp_path, {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.db"}, journal)
    code = (
        MIGRATED
        + """
from django.db import connection
print("record" in connection.introspection.table_names())
"""
    )
    done = run(tmp_path, "-c", code)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
    assert not (tmp_path / "sagas.db").exists()


def test_a_wrong_setting_is_told_by_the_checks(tmp_path: Path) -> None:
    write_project(tmp_path, {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.db"}, "memory://")
    code = """
import django
from django.conf import settings
django.setup()
from sagalog.django import settings as ours
from sagalog.django.checks import check_settings
for given in (None, {}, {"RUNNER": "shop.sagas"}, {"RUNNER": "shop.sgas:runner"}, {"RUNNER": "shop.sagas:ship"},
              {"RUNNER": "shop.sagas:runner", "CLENT": 1}, {"RUNNER": "shop.sagas:runner", "TIMEOUT": 30},
              {"RUNNER": "shop.sagas:runner", "DASHBOARD_MASKS": "card"},
              {"RUNNER": "shop.sagas:runner"}):
    settings.SAGALOG = given
    ours.runner.cache_clear()
    (found,) = check_settings(None)
    print(found.id, found.msg)
"""
    done = run(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    ids = [line.partition(" ")[0] for line in done.stdout.splitlines()]
    assert ids == [f"sagalog.{one}" for one in ("E001", "E002", "E002", "E002", "E002", "E001", "E001", "E001", "W001")]
    assert "shop.sgas cannot be imported" in done.stdout
    assert "has no setting CLENT; it has RUNNER" in done.stdout
    worker = run(tmp_path, "manage.py", "sagalog_worker")
    assert worker.returncode == 1
    assert "belongs to one process" in worker.stderr
