"""The dashboard: where every saga stands, in a browser; served by `sagalog dashboard`, or mounted into an ASGI app.

ShownJournal ─► Overview (counts in the background, follows) ─┐
       └► search, story of one instance ────────────────┴► pages ─► HTML, or fragments of it by server-sent events
"""

from __future__ import annotations

from ..errors import MissingExtraError

try:
    from .app import Dashboard, dashboard_app
except ModuleNotFoundError as _error:
    if (_error.name or "").startswith("sagalog"):
        raise
    raise MissingExtraError(
        f"the dashboard needs the package {_error.name}: pip install 'sagalog[dashboard]'"
    ) from _error

__all__ = ["Dashboard", "dashboard_app"]
