"""A small Django project, as files: a shop with a table of orders, a saga beside it, and the dashboard under the admin."""

from __future__ import annotations

from pathlib import Path

SETTINGS = """
SECRET_KEY = "not a secret"
DEBUG = False
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = [
    "django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions",
    "django.contrib.messages", "sagalog.django", "shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware", "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware", "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [{
    "BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True,
    "OPTIONS": {"context_processors": [
        "django.template.context_processors.request", "django.contrib.auth.context_processors.auth",
        "django.contrib.messages.context_processors.messages",
    ]},
}]
ROOT_URLCONF = "project.urls"
DATABASES = {"default": DATABASE}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
SAGALOG = {"RUNNER": "shop.sagas:runner", "DASHBOARD_MASKS": ["card"]}
"""

URLS = """
from django.contrib import admin
from django.urls import include, path
from shop.views import place

urlpatterns = [
    path("orders/<str:order_id>", place),
    path("admin/sagas/", include("sagalog.django.urls")),
    path("admin/", admin.site.urls),
]
"""

MODELS = """
from django.db import models

class Order(models.Model):
    name = models.CharField(max_length=50)
    shipped = models.BooleanField(default=False)
"""

SAGAS = """
from dataclasses import dataclass
from datetime import timedelta
from sagalog import Complete, RunnerSettings, Saga, SagaRunner, Send, on, starts
from sagalog.django import in_thread

@dataclass
class Placed:
    order_id: str
    card: str = ""

@dataclass
class Ship:
    order_id: str

@dataclass
class Shipped:
    order_id: str

@dataclass
class State:
    card: str = ""

class ShopSaga(Saga[State]):
    name = "shop"

    @starts(Placed, key="order_id")
    def placed(self, state, event):
        state.card = event.card
        yield Send(Ship(event.order_id))

    @on(Shipped, key="order_id")
    def shipped(self, state, event):
        yield Complete()

settings = RunnerSettings(lease=timedelta(minutes=1), due_poll=timedelta(milliseconds=50))
runner = SagaRunner(JOURNAL, sagas=[ShopSaga], settings=settings)

@runner.command(Ship)
@in_thread
def ship(command, context):
    from shop.models import Order
    Order.objects.filter(name=command.order_id).update(shipped=True)
    return Shipped(command.order_id)
"""

VIEWS = """
from django.db import connection, transaction
from django.http import JsonResponse
from django.views.decorators.csrf import csrf_exempt
from sagalog.django import sagas
from shop.models import Order
from shop.sagas import Placed

@csrf_exempt
def place(request, order_id):
    with transaction.atomic():
        Order.objects.create(name=order_id)
        receipt = sagas().handle(Placed(order_id, card="4111-1111-1111"), message_id=order_id, connection=connection)
        if request.GET.get("fail"):
            raise RuntimeError("after the step")
    return JsonResponse({"duplicate": receipt.duplicate})
"""

MANAGE = """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""


def write_project(folder: Path, database: dict[str, str], journal: str) -> None:
    """Write the project into a folder."""
    files = {
        "manage.py": MANAGE,
        "project/__init__.py": "",
        "project/settings.py": SETTINGS.replace("DATABASE}", f"{database!r}}}"),
        "project/urls.py": URLS,
        "shop/__init__.py": "",
        "shop/models.py": MODELS,
        "shop/sagas.py": SAGAS.replace("JOURNAL", repr(journal)),
        "shop/views.py": VIEWS,
        "shop/migrations/__init__.py": "",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
