"""The pytest plugin: it is loaded wherever Sagalog is installed, so it imports nothing before it is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(params=["memory", "sqlite"])
def saga_runner(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """Make a runner on a journal in memory, and again on SQLite: `async with saga_runner([OrderSaga], dispatch=...)`."""
    from .virtual import VirtualRunner

    def make(sagas: Any, *, dispatch: Any = None, settings: Any = None) -> VirtualRunner:
        url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/saga_runner.db"
        return VirtualRunner(url, sagas, dispatch, settings)

    return make
