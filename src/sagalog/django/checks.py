"""System checks: `manage.py check` says what is wrong with the setting SAGALOG before a process starts."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error, Warning

from ..errors import SagalogError
from .settings import given, runner


def check_settings(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Return what is wrong: with the setting (E001), with the runner that it names (E002, W001, W002)."""
    try:
        settings = given()
    except SagalogError as error:
        return [Error(str(error), id="sagalog.E001")]
    try:
        found = runner()
    except SagalogError as error:
        return [Error(str(error), id="sagalog.E002")]
    if found.in_memory:
        told = "the sagas are in memory: each process has its own, and they are lost when it ends"
        return [Warning(told, hint="give the runner a journal: SagaRunner('postgresql://...', ...)", id="sagalog.W001")]
    if not settings.get("CLIENT", True):
        told = "each web process carries out commands and fires timers, as CLIENT of SAGALOG is False"
        return [Warning(told, hint="leave that to `manage.py sagalog_worker`", id="sagalog.W002")]
    return []
