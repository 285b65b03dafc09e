"""Sagas in a Django project: `"sagalog.django"` in INSTALLED_APPS, and `SAGALOG = {"RUNNER": "shop.sagas:runner"}`.

- `sagas()`: sends events and reads outcomes, from views, signals, tasks and the shell
- `in_thread`: lets a command handler use the ORM
- `manage.py sagalog_worker`: carries out commands and fires timers
- `path("admin/sagas/", include("sagalog.django.urls"))`: the dashboard, for whoever is signed in to the admin
"""

from __future__ import annotations

from ..errors import MissingExtraError

try:
    from .handlers import in_thread
    from .settings import sagas
except ModuleNotFoundError as _error:
    if (_error.name or "").startswith("sagalog"):
        raise
    raise MissingExtraError(
        f"sagalog.django needs the package {_error.name}: pip install 'sagalog[django]'"
    ) from _error

__all__ = ["in_thread", "sagas"]
