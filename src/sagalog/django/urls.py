"""The dashboard below an address of the project: `path("admin/sagas/", include("sagalog.django.urls"))`."""

from __future__ import annotations

from typing import Any

from django.urls import re_path

from .dashboard import show_dashboard

app_name = "sagalog"
urlpatterns: list[Any] = [re_path(r"^(?P<page>.*)$", show_dashboard, name="dashboard")]
