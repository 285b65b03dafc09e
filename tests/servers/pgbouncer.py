"""A real PgBouncer in transaction mode before a PostgreSQL; it is not on every machine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from .processes import as_somebody, end, free_port, wait_for_port

FOUND = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")


class PgBouncer:
    """Lends two server connections to all comers, for one transaction each. `url` replaces the database's own."""

    def __init__(self, folder: Path, database: str) -> None:
        assert FOUND is not None
        folder.mkdir(parents=True, exist_ok=True)
        parts = urlsplit(database)
        port = free_port()
        self.url = f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"
        (folder / "users").write_text(f'"{parts.username}" ""\n')
        (folder / "ini").write_text(
            f"[databases]\n* = host={parts.hostname} port={parts.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {folder}/users\n"
            "pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 200\n"
        )
        log = folder / "log"
        with log.open("ab") as opened:
            self._process = subprocess.Popen(
                [*as_somebody(folder), FOUND, str(folder / "ini")], stdout=opened, stderr=opened
            )
        wait_for_port(port, self._process, log)

    def stop(self) -> None:
        """End it."""
        end(self._process)
