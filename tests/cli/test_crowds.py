"""Whatever serves pages expects crowds: it opens as many files as its system lets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import MODULE, ROOT

resource = pytest.importorskip("resource")

SERVERS = {
    "worker": ["worker", "shop:runner", "--http", "127.0.0.1:0"],
    "supervisor": ["worker", "shop:runner", "--http", "127.0.0.1:0", "--processes", "2"],
    "serve": ["serve", "shop:runner", "--port", "0"],
    "dashboard": ["dashboard", "--journal", "sqlite:///orders.db", "--port", "0"],
}


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="the limits of another process cannot be asked for here")
@pytest.mark.parametrize("command", SERVERS)
def test_a_server_opens_more_files_than_its_shell_begins_with(filled: Path, command: str) -> None:
    (filled.parent / "shop.py").write_text(MODULE)
    process = subprocess.Popen(
        ["bash", "-c", 'ulimit -Sn 256; exec "$@"', "bash", sys.executable, "-m", "sagalog", *SERVERS[command]],
        cwd=filled.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SAGALOG_TOKEN": "sixteen letters and more"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        assert "at http://127.0.0.1:" in process.stderr.readline()
        now, most = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        assert now == (20_000 if most < 0 else min(most, 20_000))
    finally:
        process.terminate()
        process.communicate(timeout=60)
