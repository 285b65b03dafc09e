"""The setting SAGALOG of a Django project, and the runner that it names.

RUNNER            "shop.sagas:runner": where the SagaRunner of the project is
CLIENT            whether web processes are clients, and `manage.py sagalog_worker` does the rest; default: True
TIMEOUT           how long a call waits at most, a timedelta; default: 30 seconds
DASHBOARD_MASKS   payload fields that the dashboard does not show
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from importlib import import_module
from typing import Any

from django.conf import settings

from ..blocking import BlockingRunner
from ..durations import seconds_of
from ..errors import DefinitionError
from ..runner import SagaRunner

_TIMEOUT = timedelta(seconds=30)
KNOWN = ("RUNNER", "CLIENT", "TIMEOUT", "DASHBOARD_MASKS")


def given() -> Mapping[str, Any]:
    """Return the setting. Raises DefinitionError where it is not one."""
    found = getattr(settings, "SAGALOG", None)
    if not isinstance(found, Mapping):
        raise DefinitionError('SAGALOG = {"RUNNER": "shop.sagas:runner"} is missing in the settings')
    unknown = sorted(set(found) - set(KNOWN))
    if unknown:
        raise DefinitionError(f"SAGALOG has no setting {', '.join(unknown)}; it has {', '.join(KNOWN)}")
    if not isinstance(found.get("CLIENT", True), bool):
        raise DefinitionError("CLIENT of SAGALOG must be True or False")
    masks = found.get("DASHBOARD_MASKS", ())
    if not isinstance(masks, (tuple, list, set, frozenset)) or not all(isinstance(one, str) for one in masks):
        raise DefinitionError('DASHBOARD_MASKS of SAGALOG must be a list of field names: ["password", "card.*"]')
    seconds_of("TIMEOUT of SAGALOG", found.get("TIMEOUT", _TIMEOUT))
    return found


def target() -> str:
    """Return MODULE:RUNNER. Raises DefinitionError."""
    found = given().get("RUNNER")
    if not isinstance(found, str) or found.count(":") != 1:
        raise DefinitionError(f'RUNNER of SAGALOG must be "module:name", e.g. "shop.sagas:runner", not {found!r}')
    return found


@cache
def runner() -> SagaRunner:
    """Return the runner that is named. Raises DefinitionError, which says what is wrong with the name."""
    module_name, _, name = target().partition(":")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise DefinitionError(f"RUNNER of SAGALOG: {module_name} cannot be imported: {error}") from error
    found = getattr(module, name, None)
    if not isinstance(found, SagaRunner):
        what = "has no" if found is None else f"has a {type(found).__name__}, not a SagaRunner, called"
        raise DefinitionError(f"RUNNER of SAGALOG: {module_name} {what} {name}")
    return found


@cache
def sagas() -> BlockingRunner:
    """Return what sends events and reads outcomes in this process. It starts with its first call."""
    settings_given = given()
    used = runner()
    if settings_given.get("CLIENT", True) and not used.in_memory:
        used = used.using(client=True)
    else:
        used = used.using(client=False)
    return BlockingRunner(used, timeout=settings_given.get("TIMEOUT", _TIMEOUT))
