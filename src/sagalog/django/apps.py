"""The app: it registers the system checks, and lets `manage.py migrate` make a journal's tables in the same file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Django has no types of its own
    _Base = object
else:
    from django.apps import AppConfig as _Base
from django.apps import apps
from django.core.checks import register
from django.db.models.signals import post_migrate

from .checks import check_settings
from .tables import make_tables


class SagalogConfig(_Base):
    """Sagas in a Django project. It has no models: the journal makes its own tables."""

    name = "sagalog.django"
    label = "sagalog"
    verbose_name = "Sagas"

    def ready(self) -> None:
        """Register the checks, and what follows `manage.py migrate`: the signal comes once for each app with models."""
        register(check_settings)
        first = next((one for one in apps.get_app_configs() if one.models_module is not None), None)
        if first is not None:
            post_migrate.connect(make_tables, sender=first, dispatch_uid="sagalog")
