"""A real RabbitMQ, where Debian's package is installed, in a temporary folder, on free ports; restarted at will."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from .processes import end, free_ports, wait_for_port

PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
MISSING = "RabbitMQ is not installed here: apt-get install rabbitmq-server"


class RabbitMQ:
    """One node. `url` is good for the client."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port, distribution, self._epmd = free_ports(3)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self._folder = folder
        (folder / "plugins").write_text("[].\n")
        (folder / "rabbitmq.conf").touch()
        self._environment = {
            **os.environ,
            "HOME": str(folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_NODENAME": f"t{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, again if need be, and wait until it listens."""
        with (self._folder / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [PROGRAM], stdout=out, stderr=out, env=self._environment, start_new_session=True
            )
        wait_for_port(self.port, self._process, self._folder / "out", 60)

    def shut_down(self) -> None:
        """End it in order, with all its queues on the disk: killed, this version loses the names of those that are new."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(60)

    def kill(self) -> None:
        """End it with SIGKILL, the script that has started it as well as the node."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            end(self._process, signal.SIGKILL)

    def messages(self, queue: str) -> int:
        """Return how many messages are in a queue: those that wait, and those that a reader has not acknowledged."""
        asked = [
            str(PROGRAM.with_name("rabbitmqctl")),
            "--quiet",
            "list_queues",
            "name",
            "messages",
            "--no-table-headers",
        ]
        told = subprocess.run(asked, check=True, capture_output=True, text=True, env=self._environment).stdout
        return int(dict(line.split("\t") for line in told.splitlines())[queue])

    def stop(self) -> None:
        """End it, and what it has started beside itself."""
        self.kill()
        for _ in range(50):  # the name server of Erlang does not end before it has noticed that the node is gone
            asked = ["epmd", "-port", str(self._epmd), "-kill"]
            if subprocess.run(asked, check=False, capture_output=True, env=self._environment).returncode == 0:
                return
            time.sleep(0.1)
