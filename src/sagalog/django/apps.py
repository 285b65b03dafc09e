"""The app: it registers the system checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Django has no types of its own
    _Base = object
else:
    from django.apps import AppConfig as _Base
from django.core.checks import register

from .checks import check_settings


class SagalogConfig(_Base):
    """Sagas in a Django project. It has no models: the journal makes its own tables."""

    name = "sagalog.django"
    label = "sagalog"
    verbose_name = "Sagas"

    def ready(self) -> None:
        """Register the checks."""
        register(check_settings)
