"""Where the peers are installed (`make bench-peers`), and Restate's server with the service that is measured."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..report import RunError

_ROOT = Path(__file__).parents[2]


def folder() -> Path:
    """Return the virtual environment of the peers; `SAGALOG_PEERS` names another one."""
    return Path(os.environ.get("SAGALOG_PEERS") or _ROOT / ".venv-peers")


def python(package: str) -> str:
    """Return the Python that can import `package`. Raises RunError where it is not installed."""
    found = folder() / "bin" / "python"
    if (
        not found.exists()
        or subprocess.run([found, "-c", f"import {package}"], check=False, capture_output=True).returncode
    ):
        raise RunError(f"missing: {package} is not installed in {folder().name}: make bench-peers")
    return str(found)


def version(package: str) -> str:
    """Return the installed version of a distribution."""
    ask = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([folder() / "bin" / "python", "-c", ask], check=True, capture_output=True, text=True)
    return f"{package} {done.stdout.strip()}"


def _restate_server() -> Path:
    found = sorted((folder() / "node" / "node_modules" / "@restatedev").glob("restate-server-*/bin/restate-server"))
    if not found:
        raise RunError(f"missing: restate-server is not installed in {folder().name}: make bench-peers")
    return found[0]


def restate_version() -> str:
    """Return what the server says of itself."""
    done = subprocess.run([_restate_server(), "--version"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@contextmanager
def restate(scratch: Path) -> Iterator[str]:
    """Run the server and the service; give the address at which orders are taken."""
    from tests.servers.processes import end, free_port, wait_for_port

    program = _restate_server()
    node, admin, ingress, service = (free_port() for _ in range(4))
    (scratch / "restate.toml").write_text(
        f'listen-mode = "tcp"\nbind-address = "127.0.0.1:{node}"\ndisable-telemetry = true\nlog-filter = "warn"\n'
        f'[admin]\nbind-address = "127.0.0.1:{admin}"\n[ingress]\nbind-address = "127.0.0.1:{ingress}"\n'
    )
    (scratch / "hypercorn.toml").write_text(
        f'bind = "127.0.0.1:{service}"\nworkers = {os.cpu_count()}\nloglevel = "ERROR"\n'
        "h2_max_concurrent_streams = 2147483647\nkeep_alive_max_requests = 2147483647\nkeep_alive_timeout = 2147483647\n"
    )
    commands: tuple[list[str | Path], ...] = (
        [program, "--config-file", scratch / "restate.toml", "--base-dir", scratch / "data", "--no-logo"],
        [
            python("restate"),
            "-m",
            "hypercorn",
            "--config",
            scratch / "hypercorn.toml",
            "benchmarks.peers.with_restate:app",
        ],
    )
    log = scratch / "log"
    with ExitStack() as stack:
        written = stack.enter_context(log.open("ab"))
        for command, port in zip(commands, (ingress, service), strict=True):
            process = subprocess.Popen(command, cwd=_ROOT, stdout=written, stderr=written, start_new_session=True)
            stack.callback(end, process, signal.SIGTERM)
            wait_for_port(port, process, log, 60)
        _register(f"http://127.0.0.1:{admin}", f"http://127.0.0.1:{service}", log)
        yield f"http://127.0.0.1:{ingress}"


def _register(admin: str, service: str, log: Path) -> None:
    request = urllib.request.Request(
        f"{admin}/deployments", f'{{"uri": "{service}"}}'.encode(), {"content-type": "application/json"}, method="POST"
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(request, timeout=10).close()
            return
        except (urllib.error.URLError, OSError) as error:  # not ready yet
            if time.monotonic() > deadline:
                raise RunError(f"restate takes no service ({error}): {log.read_text()[-500:]}") from error
            time.sleep(0.2)
