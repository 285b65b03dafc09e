"""The dashboard: where every saga stands, in a browser; served by `sagalog dashboard`, or mounted into an ASGI app.

Source ─► Overview (counts in the background, follows) ─┐
       └► search, story of one instance ────────────────┴► pages ─► HTML, or fragments of it by server-sent events
"""

from __future__ import annotations

from .app import Dashboard, dashboard_app

__all__ = ["Dashboard", "dashboard_app"]
